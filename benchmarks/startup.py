"""Seconds from the command to the first training step, and memory at its highest.

    python benchmarks/startup.py
    python benchmarks/startup.py --imports    # where the seconds go, by package

The command is a tiny run on the fake environment with files already in the cache; its first
training step is done when metrics.jsonl has its first line: one rollout and one update. `--help`
and a refused key are timed to their end. Memory is the peak resident size of the main process.
"""

from __future__ import annotations

import argparse
import collections
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import _report

SCRIPT = "experiments/acppo.py"
TINY = [
    "with",
    "env.kind=fake",
    "env.max_episode_steps=8",
    "training.num_envs=2",
    "training.num_workers=0",
    "training.num_steps_per_rollout=8",
    "training.total_timesteps=16",
    "training.num_eval_episodes=1",
    "training.device=cpu",
    "algorithm.num_epochs=1",
    "algorithm.num_minibatches=1",
    "logging.console=plain",
    "logging.video=false",
]
STEP = "first training step"
COMMANDS = {
    STEP: (TINY, 0),
    "--help": (["--help"], 0),
    "a refused key": (["with", "clip_epsilom=0.3"], 2),
}
"""Arguments of the script, and the exit code they must have."""
TARGET_S, TARGET_MIB = 5.0, 600.0
POLL_S = 0.002
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Sample:
    """One execution."""

    seconds: float
    """To the first training step, or to the end of a command that does not train."""
    memory_mib: float


def execute(arguments: list[str], *, exit_code: int) -> Sample:
    """Run the script in a fresh runs directory.

    Raises:
        RuntimeError: if it ends otherwise than expected.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output.log"
        environment = {**os.environ, "MARL_RUNS_DIR": str(Path(folder) / "runs")}
        environment.pop("MARL_MONGO_URI", None)
        command = [sys.executable, SCRIPT, *arguments]
        with log.open("w", encoding="utf-8") as file:
            start = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=_report.ROOT, env=environment, stdout=file, stderr=file
            )
            sample = watch(process, Path(folder) / "runs", start)
        if process.returncode != exit_code:
            end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-20:])
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{end}")
        return sample


def watch(process: subprocess.Popen[bytes], runs: Path, start: float) -> Sample:
    """Wait for the first record of metrics and for the end; look at memory meanwhile."""
    first_step, memory_mib = None, 0.0
    while process.poll() is None:
        now = time.perf_counter() - start
        if now > TIMEOUT_S:
            process.kill()
            process.wait()
            raise RuntimeError(f"nothing happened for {TIMEOUT_S:.0f} s")
        memory_mib = max(memory_mib, peak_memory_mib(process.pid))
        if first_step is None and has_record(runs):
            first_step = now
        time.sleep(POLL_S)
    end = time.perf_counter() - start
    return Sample(end if first_step is None else first_step, memory_mib)


def has_record(runs: Path) -> bool:
    """Whether a run in this directory has recorded an update."""
    return any(path.stat().st_size for path in runs.glob("*/metrics.jsonl"))


def peak_memory_mib(pid: int) -> float:
    """Highest resident size a process ever had; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def print_imports() -> None:
    """Print the packages whose import takes longest: their own time, children not included."""
    command = [sys.executable, "-X", "importtime", SCRIPT, *TINY]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MARL_RUNS_DIR": folder}
        result = subprocess.run(
            command, cwd=_report.ROOT, env=environment, capture_output=True, text=True, check=True
        )
    own_ms: collections.Counter[str] = collections.Counter()
    modules: collections.Counter[str] = collections.Counter()
    for line in result.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and parts[0].strip().isdigit():
            name = package(parts[2].strip())
            own_ms[name] += int(parts[0]) / 1000
            modules[name] += 1
    rows = [(name, f"{ms:.0f}", str(modules[name])) for name, ms in own_ms.most_common(25)]
    _report.print_table(("package", "own ms", "modules"), rows)


def package(module: str) -> str:
    """First part of a module's name; of torch's, the first two."""
    return ".".join(module.split(".")[: 2 if module.startswith("torch.") else 1])


def report(samples: dict[str, list[Sample]], *, markdown: bool) -> None:
    """Print the table, or the rows of docs/BENCHMARKS.md."""
    rows, lines = [], []
    for name, group in samples.items():
        seconds = [sample.seconds for sample in group]
        memory = max(sample.memory_mib for sample in group)
        best, median = min(seconds), statistics.median(seconds)
        rows.append((name, f"{best:.2f}", f"{median:.2f}", f"{memory:.0f}"))
        shown = f"{best:.2f} / {median:.2f} s, {memory:.0f} MiB"
        target = f"target: {TARGET_S:.0f} s, {TARGET_MIB:.0f} MiB" if name == STEP else "-"
        lines.append(_report.Row(f"{name}, best / median, memory", shown, target, "-"))
    if markdown:
        _report.print_markdown(lines)
    else:
        _report.print_table(("to", "best s", "median s", "peak MiB"), rows)
        print(f"targets: first training step {TARGET_S:.0f} s, {TARGET_MIB:.0f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="executions of each (5)")
    parser.add_argument("--imports", action="store_true", help="print import times instead")
    parser.add_argument("--markdown", action="store_true", help="print rows of docs/BENCHMARKS.md")
    arguments = parser.parse_args()
    if arguments.imports:
        print_imports()
        return 0
    samples: dict[str, list[Sample]] = {name: [] for name in COMMANDS}
    for name, (words, exit_code) in COMMANDS.items():
        _report.say(f"{name}: once to warm the file cache, then {arguments.repetitions} times")
        execute(words, exit_code=exit_code)
        for _ in range(arguments.repetitions):
            samples[name].append(execute(words, exit_code=exit_code))
    report(samples, markdown=arguments.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
