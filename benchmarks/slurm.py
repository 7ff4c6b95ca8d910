"""Seconds from the command to the first training step: through Slurm, and without.

    python benchmarks/slurm.py      # as root: brings up the Slurm of the tests

Both train the tiny run of benchmarks/startup.py. Through Slurm the command submits, an idle node
takes the job, and its process trains; the first submission of a runs directory freezes the packages
as well. Without Slurm the command trains by itself.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import _report
from benchmarks.startup import SCRIPT, STEP, TINY, execute
from tests.slurm_cluster.cluster import Cluster, running_cluster, why_not

PARTS = ("submission", "wait for the node", "first training step", "all")


def submit(cluster: Cluster, runs: Path, name: str) -> list[float]:
    """Seconds of each of PARTS."""
    environment = {**cluster.environment, "MARL_RUNS_DIR": str(runs)}
    words = [SCRIPT, *TINY, "--id", name, "--cpus-per-task", "2"]
    command = [sys.executable, "slurm/submit.py", *words]
    began = time.time()
    subprocess.run(command, cwd=_report.ROOT, env=environment, check=True, capture_output=True)
    submitted = time.time()
    metrics, logs = runs / name / "metrics.jsonl", runs / name / "logs"
    while not (metrics.exists() and metrics.stat().st_size):
        if time.time() > submitted + 120:
            raise RuntimeError(f"run {name} has not begun; see {logs}")
        time.sleep(0.01)
    now = time.time()
    started = next(logs.glob("*.batch.log")).stat().st_ctime  # empty: written when the job starts
    started = min(max(started, submitted), now)
    return [submitted - began, started - submitted, now - started, now - began]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="executions of each (5)")
    parser.add_argument("--markdown", action="store_true", help="print rows of docs/BENCHMARKS.md")
    arguments = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    direct: list[float] = []
    through: list[list[float]] = []
    with tempfile.TemporaryDirectory() as place, running_cluster() as cluster:
        runs = Path(place) / "runs"
        _report.say("the first submission, which freezes the packages")
        first = submit(cluster, runs, "first")
        execute(TINY, exit_code=0)
        for number in range(arguments.repetitions):
            _report.say(f"round {number + 1} of {arguments.repetitions}")
            through.append(submit(cluster, runs, f"r{number}"))
            direct.append(execute(TINY, exit_code=0).seconds)
    medians = [statistics.median(column) for column in zip(*through, strict=True)]
    peer = statistics.median(direct)
    if arguments.markdown:
        shown = ", ".join(f"{n} {s:.1f} s" for n, s in zip(PARTS, medians, strict=True))
        ours = f"{shown}; the first submission {first[0]:.1f} s"
        ratio = f"{peer / medians[-1]:.2f}"
        row = _report.Row(f"{STEP} through Slurm", ours, f"without Slurm {peer:.1f} s", ratio)
        _report.print_markdown([row])
        return 0
    rows = [(n, f"{s:.2f}") for n, s in zip(PARTS, medians, strict=True)]
    rows += [("the first submission of a runs directory", f"{first[0]:.2f}")]
    _report.print_table(("through Slurm", "s"), [*rows, ("without Slurm, all", f"{peer:.2f}")])
    return 0


if __name__ == "__main__":
    sys.exit(main())
