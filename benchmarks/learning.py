"""Learning curves of MAPPO on simple_spread, ours and BenchMARL's, in turn on the same machine.

    python benchmarks/learning.py --png curves.png      # three seeds of 200,000 env steps
    python benchmarks/learning.py --seeds 0 1 --timesteps 50000

Three particles, 25 steps, mpe2's and PettingZoo's default reward, mean over agents, of training
episodes. Batches, epochs, minibatches and hidden layers are those of our named config. BenchMARL
runs twice: with its own learning rate (5e-5), lambda (0.9) and entropy bonus (0), and with ours
(7e-4, 0.95, 0.01).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import _report
from benchmarks.training import Contestant, as_simple_spread, ours, rows_of
from experiments._named_public import SIMPLE_SPREAD
from experiments.tracking import plots
from experiments.tracking.compare import Comparison, Run, compare
from experiments.tracking.export import check_output
from experiments.tracking.view import RunView, Series
from marlcore.config import MAPPOConfig

METRIC = "rollout/return_mean"
ROWS = rows_of(SIMPLE_SPREAD["training"])
"""Env steps of a rollout."""


def contestants() -> list[Contestant]:
    """Ours, and BenchMARL's with its settings and with ours."""
    found = [ours("MAPPO", "simple_spread", "mappo", {"training": {"num_workers": 0}})]
    if python := _report.peer_python("benchmarl"):
        config = MAPPOConfig(**SIMPLE_SPREAD["algorithm"])
        settings = {
            "its settings": {},
            "our settings": {
                "lr": config.actor_lr,
                "gamma": config.gamma,
                "lmbda": config.gae_lambda,
                "entropy_coef": config.entropy_coef,
            },
        }
        for whose, values in settings.items():
            task = {**as_simple_spread(), **values, "parallel": False}
            name = f"BenchMARL MAPPO, {whose}"
            found.append(Contestant(name, python, "_peer_benchmarl.py", task, is_peer=True))
    return found


def learn(contestant: Contestant, *, seed: int, updates: int) -> Run:
    """The curve of one run; its seconds are those after the first update, which warms up."""
    _report.say(f"{contestant.name}, seed {seed}")
    result = contestant.train(seed=seed, updates=updates)
    returns = enumerate(result["returns"], start=1)
    points = [(ROWS * count, value) for count, value in returns if value is not None]
    series = Series([step for step, _ in points], [], [value for _, value in points])
    config = {"library": contestant.name, "seed": seed}
    name, seconds = contestant.name, sum(result["seconds"])
    view = RunView(f"{name}, {seed}", name, "COMPLETED", config, started=0.0, ended=seconds)
    return view, {METRIC: series}


def report(comparison: Comparison, runs: Sequence[Run]) -> None:
    """Print a table: final return with its interval, and the seconds of a run."""
    rows: list[list[str]] = []
    for group in comparison.groups:
        seconds = [view.seconds or 0.0 for view, _ in runs if view.name == group.label]
        span = f"{min(seconds):.0f} to {max(seconds):.0f}"
        rows.append([group.label, str(group.size), group.score.text(), span])
    _report.print_table(("", "seeds", "final return, IQM [95 %]", "seconds"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--timesteps", type=int, default=200_000, help="env steps (200000)")
    parser.add_argument("--png", type=Path, help="where the curves are drawn")
    arguments = parser.parse_args()
    updates = arguments.timesteps // ROWS - 1
    if updates < 1:
        parser.error(f"--timesteps {arguments.timesteps} is refused; give {2 * ROWS} or more")
    if arguments.png is not None:
        check_output(arguments.png)
    compared = contestants()
    runs = [learn(one, seed=seed, updates=updates) for seed in arguments.seeds for one in compared]
    comparison = compare(runs, metric=METRIC, labels=[view.name for view, _ in runs])
    report(comparison, runs)
    if arguments.png is not None:
        title = "simple_spread: return of training episodes"
        plots.write_png([replace(comparison, title=title, warnings=())], arguments.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
