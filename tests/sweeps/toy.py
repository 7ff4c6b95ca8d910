"""Studies whose objective is a formula: quick, with a known optimum.

python -m tests.sweeps.toy FOLDER WORKER [SECONDS]      a worker of one, in a process of its own
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from math import log10
from pathlib import Path
from typing import Any

from sweeps import ledger
from sweeps.definition import Definition, define
from sweeps.ledger import Unit
from sweeps.patience import patiently
from sweeps.storage import storage_of
from sweeps.study import Study
from sweeps.worker import work

SWEEP: dict[str, Any] = {
    "experiment": "acppo",
    "with": ["partition"],
    "space": {
        "gamma_prime": {"low": 0.5, "high": 0.999, "scale": "log_complement"},
        "clip_epsilon": {"low": 0.05, "high": 0.5},
    },
    "metric": "rollout/return_mean",
    "baseline": False,
    "tuning_seeds": [0],
    "test_seeds": [],
}
BEST = {"gamma_prime": 0.98, "clip_epsilon": 0.3}
"""Where `formula` has its maximum, 0."""


def toy(name: str = "toy", **changes: Any) -> Definition:
    return define({**SWEEP, **changes}, name=name, place="toy.yaml")


opened: list[Study] = []
"""Closed by a fixture."""


def open_toy(folder: Path, name: str = "toy", **changes: Any) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    opened.append(Study(toy(name, **changes), storage_of(folder)))
    return opened[-1]


def formula(settings: dict[str, Any]) -> float:
    """-(log10 of 1 - gamma_prime over the best one)^2 - (distance of clip_epsilon / 0.2)^2."""
    complement = log10((1 - settings["algorithm.gamma_prime"]) / (1 - BEST["gamma_prime"]))
    clip = (settings["algorithm.clip_epsilon"] - BEST["clip_epsilon"]) / 0.2
    return -(complement**2) - clip**2


def settings_of(study: Study, unit: Unit) -> dict[str, Any]:
    params = study.optuna.get_trials(deepcopy=False)[unit.trial].params
    return study.definition.space.settings(params)


def evaluate(
    study: Study, score: Callable[[dict[str, Any], int], float] = lambda s, _: formula(s)
) -> Callable[[Unit], None]:
    """What runs a unit: the formula."""

    def run(unit: Unit) -> None:
        value = score(patiently(lambda: settings_of(study, unit)), unit.seed)
        if not patiently(lambda: study.finish(unit, ledger.DONE, score=value)):
            print(f"refused: {unit.key}", flush=True)

    return run


def main() -> None:
    folder, worker = Path(sys.argv[1]), sys.argv[2]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    changes = json.loads(os.environ.get("TOY", "{}"))
    study = open_toy(folder, os.environ.get("TOY_NAME", "toy"), **changes)
    tell = evaluate(study)
    done = os.open(folder / "done", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def run(unit: Unit) -> None:
        os.write(done, f"{worker} {unit.trial} {unit.seed}\n".encode())
        time.sleep(seconds)
        tell(unit)

    work(study, run)


if __name__ == "__main__":
    main()
