"""Env steps per second of TwoArmPegInHole: ours, robosuite's, and the physics alone.

    python benchmarks/environment.py                 # states, then pictures
    python benchmarks/environment.py --only states   # or pictures
    python benchmarks/environment.py --chart docs/environment.png

States: one environment, with an observation after every env step; then two in two processes, in
our vector environment and, with robosuite's own GymWrapper, in Stable-Baselines3's SubprocVecEnv
and gymnasium's AsyncVectorEnv (`python benchmarks/peers.py sb3` installs both). Pictures: three
cameras, an observation after every env step, by size and env.render_quality.

Everything runs in turn, round after round, in processes of its own, with one thread each. Rates are
medians over rounds. CPU time is that of one process, little affected by other load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import _report

SCRIPT = Path(__file__).resolve().parent / "_environment_runs.py"
CAMERAS = ["frontview", "robot0_eye_in_hand", "robot1_eye_in_hand"]
SIZES = (84, 224, 256)
QUALITIES = ("full", "fast", "lite")
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1"
)


@dataclass(frozen=True)
class Contestant:
    """What is measured."""

    name: str
    task: dict[str, Any]
    python: Path = Path(sys.executable)
    num_processes: int = 1
    """Copies that run at the same time; their rates are added."""

    def run(self, seconds: float) -> tuple[float, float]:
        """Env steps per second, and ms of CPU time per env step of one process."""
        words = [str(self.python), "-W", "ignore", str(SCRIPT)]
        words.append(json.dumps({**self.task, "seconds": seconds}))
        environment = {**os.environ, **ONE_THREAD, "MUJOCO_GL": "egl"}
        environment["PYTHONPATH"] = str(_report.ROOT)
        processes = [
            subprocess.Popen(
                words,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=_report.ROOT,
            )
            for _ in range(self.num_processes)
        ]
        rate, cpu_ms = 0.0, 0.0
        for process in processes:
            out, err = process.communicate(timeout=600)
            if process.returncode:
                raise RuntimeError(f"{self.name} failed:\n{err[-2000:]}")
            found = json.loads(out.splitlines()[-1])
            rate += found["env_steps"] / found["seconds"]
            cpu_ms = 1000 * found["cpu_s"] / found["env_steps"]
        return rate, cpu_ms


def states() -> list[Contestant]:
    """Of state alone."""
    vector: dict[str, Any] = {"kind": "vector", "config": {}, "num_workers": 2}
    found = [
        Contestant("robosuite", {"kind": "robosuite"}),
        Contestant("marlcore", {"kind": "ours", "config": {}}),
        Contestant("mj_step alone", {"kind": "limit"}),
        Contestant("marlcore, two processes", {"kind": "ours", "config": {}}, num_processes=2),
        Contestant("marlcore, 2 workers x 1", {**vector, "num_envs": 2}),
        Contestant("marlcore, 2 workers x 4", {**vector, "num_envs": 8}),
        Contestant("marlcore, 2 groups x 1", {**vector, "num_envs": 2, "num_groups": 2}),
        Contestant("marlcore, 2 groups x 4", {**vector, "num_envs": 8, "num_groups": 2}),
    ]
    if python := _report.peer_python("sb3"):
        task = {"num_envs": 2}
        found += [
            Contestant("SB3 SubprocVecEnv x 2", {"kind": "sb3", **task}, python),
            Contestant("gymnasium AsyncVectorEnv x 2", {"kind": "gymnasium", **task}, python),
        ]
    return found


def pictures() -> list[Contestant]:
    """With three cameras."""
    found: list[Contestant] = []
    for size in SIZES:
        cameras = {"cameras": CAMERAS, "size": size}
        found.append(Contestant(f"robosuite, {size} px", {"kind": "robosuite", **cameras}))
        for quality in QUALITIES:
            config = {"cameras": CAMERAS, "image_size": size, "render_quality": quality}
            name = f"marlcore {quality}, {size} px"
            found.append(Contestant(name, {"kind": "ours", "config": config}))
    config = {"cameras": CAMERAS, "image_size": 224, "render_quality": "lite"}
    found += [
        Contestant(
            "marlcore lite, 224 px, two processes",
            {"kind": "ours", "config": config},
            num_processes=2,
        ),
        Contestant(
            "marlcore lite, 224 px, 2 groups x 1",
            {"kind": "vector", "config": config, "num_workers": 2, "num_envs": 2, "num_groups": 2},
        ),
    ]
    return found


def peer_of(name: str) -> str:
    """What a contestant is compared with: robosuite's, with as many pixels."""
    size = name.partition(", ")[2].partition(" px")[0]
    return f"robosuite, {size} px" if size.isdecimal() else "robosuite"


def compare(contestants: Sequence[Contestant], *, rounds: int, seconds: float) -> list[list[str]]:
    """Run all, round after round: name, rate, CPU time and the median ratio to the peer."""
    results: dict[str, list[tuple[float, float]]] = {one.name: [] for one in contestants}
    for turn in range(rounds):
        for one in contestants:
            results[one.name].append(one.run(seconds))
            rate, cpu_ms = results[one.name][-1]
            _report.say(f"round {turn + 1}: {one.name}: {rate:.0f} env steps/s, {cpu_ms:.2f} ms")
    rows: list[list[str]] = []
    for name, found in results.items():
        ratio = statistics.median(
            own[0] / other[0] for own, other in zip(found, results[peer_of(name)], strict=True)
        )
        cpu_ms = statistics.median(cpu for _, cpu in found)
        rate = statistics.median(rate for rate, _ in found)
        is_alone = not any(word in name for word in ("2 workers", "2 groups", " x 2"))
        rows.append([name, f"{rate:.0f}", f"{cpu_ms:.2f}" if is_alone else "-", f"{ratio:.2f}"])
    return rows


def draw(rows: Sequence[Sequence[str]], path: Path) -> None:
    """A bar for each contestant."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = [row[0] for row in rows][::-1]
    rates = [float(row[1]) for row in rows][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.3 * len(rows) + 1))
    colours = ["#2a6f97" if name.startswith("marlcore") else "#adb5bd" for name in names]
    bars = axes.barh(names, rates, color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("env steps per second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("states", "pictures"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run, after warming up")
    parser.add_argument("--chart", type=Path, help="draw the rates into this file")
    parser.add_argument("--markdown", action="store_true", help="rows for docs/BENCHMARKS.md")
    arguments = parser.parse_args()
    contestants = [
        *(states() if arguments.only != "pictures" else ()),
        *(pictures() if arguments.only != "states" else ()),
    ]
    rows = compare(contestants, rounds=arguments.rounds, seconds=arguments.seconds)
    if arguments.chart is not None:
        draw(rows, arguments.chart)
    if arguments.markdown:
        _report.print_markdown(
            [
                _report.Row(
                    f"TwoArmPegInHole, {name}",
                    f"{rate} env steps/s" + (f", {cpu_ms} cpu-ms" if cpu_ms != "-" else ""),
                    peer_of(name),
                    ratio,
                )
                for name, rate, cpu_ms, ratio in rows
            ]
        )
    else:
        _report.print_table(["", "env steps/s", "cpu-ms a step", "x robosuite"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
