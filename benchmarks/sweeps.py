"""What a sweep costs beside its runs, against plain Optuna on the same kind of storage.

    python benchmarks/sweeps.py

Overhead: one worker, an objective that takes no time, two parameters, TPE, an SQLite file each;
ours claims, leases and reports as for real runs. Throughput: two workers that train tiny runs in
processes of their own, against `study.optimize(n_jobs=2)` whose objective starts the same commands.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import optuna

from benchmarks import _report
from sweeps import ledger
from sweeps.ledger import Unit
from sweeps.worker import work
from tests.sweeps import toy

TINY = ["partition", "total_timesteps=1600", "logging.video=false", "num_eval_episodes=1"]
SWEEP = {**toy.SWEEP, "with": TINY}


def ours(folder: Path, trials: int) -> float:
    """Seconds for trials of no duration."""
    with contextlib.closing(toy.open_toy(folder, **{**SWEEP, "trials": trials})) as study:

        def run(unit: Unit) -> None:
            unit = study.renew(unit, run="a-run") or unit
            params = study.params(unit.trial)
            study.finish(unit, ledger.DONE, score=-params["clip_epsilon"])

        began = time.perf_counter()
        work(study, run)
        return time.perf_counter() - began


def plain(folder: Path, trials: int) -> float:
    """The same by plain Optuna."""
    folder.mkdir(parents=True)
    study = optuna.create_study(storage=f"sqlite:///{folder}/plain.db", direction="maximize")
    began = time.perf_counter()
    study.optimize(lambda trial: -_suggest(trial)[1], n_trials=trials)
    return time.perf_counter() - began


def _suggest(trial: optuna.Trial) -> tuple[float, float]:
    complement = trial.suggest_float("1 - gamma_prime", 0.001, 0.5, log=True)
    return 1 - complement, trial.suggest_float("clip_epsilon", 0.05, 0.5)


def ours_training(folder: Path, trials: int) -> float:
    """Seconds for trials that train, by launch.py with two workers; its start and end included."""
    folder.mkdir(parents=True)
    (folder / "bench.yaml").write_text(json.dumps({**SWEEP, "trials": trials}))  # JSON is YAML
    words = ["sweeps/launch.py", str(folder / "bench.yaml"), "--workers", "2"]
    began = time.perf_counter()
    _call(words, folder)
    return time.perf_counter() - began


def plain_training(folder: Path, trials: int) -> float:
    """The same by `study.optimize(n_jobs=2)`."""
    folder.mkdir(parents=True)
    study = optuna.create_study(storage=f"sqlite:///{folder}/plain.db", direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        gamma_prime, clip = _suggest(trial)
        name = f"plain-{trial.number}"
        given = [f"gamma_prime={gamma_prime}", f"clip_epsilon={clip}", "seed=0"]
        _call(["experiments/acppo.py", "--id", name, "with", *TINY, *given], folder)
        lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line).get("metrics", {}) for line in lines]
        return [m["rollout/return_mean"] for m in metrics if "rollout/return_mean" in m][-1]

    began = time.perf_counter()
    study.optimize(objective, n_trials=trials, n_jobs=2)
    return time.perf_counter() - began


def _call(words: list[str], folder: Path) -> None:
    environment = {**os.environ, "MARL_RUNS_DIR": str(folder / "runs")}
    command = [sys.executable, *words]
    subprocess.run(command, cwd=_report.ROOT, env=environment, check=True, capture_output=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="trials of no duration (100)")
    parser.add_argument("--training", type=int, default=12, help="trials that train (12)")
    parser.add_argument("--repetitions", type=int, default=3, help="executions of each (3)")
    parser.add_argument("--markdown", action="store_true", help="print rows of docs/BENCHMARKS.md")
    arguments = parser.parse_args()
    os.environ.pop("MARL_OPTUNA_URL", None)
    seconds: dict[str, list[float]] = {"ours": [], "plain": [], "ours2": [], "plain2": []}
    with tempfile.TemporaryDirectory() as place:
        for number in range(arguments.repetitions):
            _report.say(f"round {number + 1} of {arguments.repetitions}")
            folder = Path(place) / str(number)
            seconds["plain"].append(plain(folder / "a", arguments.trials))
            seconds["ours"].append(ours(folder / "b", arguments.trials))
            seconds["plain2"].append(plain_training(folder / "c", arguments.training))
            seconds["ours2"].append(ours_training(folder / "d", arguments.training))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    own, peer = (1000 * median[n] / arguments.trials for n in ("ours", "plain"))
    own2, peer2 = (arguments.training / median[n] for n in ("ours2", "plain2"))
    rows = [
        _report.Row(
            "sweep: ms a trial that takes no time, one worker, SQLite",
            f"{own:.0f}",
            f"study.optimize {peer:.0f}",
            f"{peer / own:.2f}",
        ),
        _report.Row(
            "sweep: tiny trainings a second, two workers",
            f"{own2:.3f}, start of launch.py and report included",
            f"study.optimize(n_jobs=2) {peer2:.3f}",
            f"{own2 / peer2:.2f}",
        ),
    ]
    if arguments.markdown:
        _report.print_markdown(rows)
        return 0
    header = ["measurement", "ours", "plain Optuna", "ratio"]
    _report.print_table(header, [[r.measurement, r.ours, r.peer, r.ratio] for r in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
