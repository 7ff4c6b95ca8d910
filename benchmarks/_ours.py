"""Trains some updates of one of our configurations, in this project's Python.

training.py and learning.py run it:

    python _ours.py '{"named": "quickstart", "algorithm": "mappo", "changes": {...}, "updates": 3}'

Prints one JSON line: env steps and seconds of every update after the first, which warms up, and
the mean return of the episodes that ended in every rollout (null where none did).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from experiments._named import COMMON, merged
from experiments._run import build_trainer, make_training_environments
from marlcore.config_errors import parse_config


class ClockRecorder:
    """Notes when each update was recorded, and how long it was of that."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.clock: list[float] = []
        self.update_s: list[float] = []
        self.returns: list[float | None] = []

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Look at the clock."""
        self.steps.append(step)
        self.clock.append(time.perf_counter())
        self.update_s.append(metrics["time/update_s"])
        self.returns.append(metrics.get("rollout/return_mean"))

    def add_artifact(self, path: Path) -> None:
        """Do nothing: a benchmark has none."""

    def close(self) -> None:
        """Do nothing: everything is in memory."""


def main() -> None:
    task = json.loads(sys.argv[1])
    values = merged(COMMON[task["named"]], task["changes"])
    values["algorithm"]["name"] = task["algorithm"]
    values["seed"] = task.get("seed", 0)
    training = values["training"]
    rollout = training["num_envs"] * training["num_steps_per_rollout"]
    training["total_timesteps"] = rollout * (task["updates"] + 1)
    config = parse_config(values)
    torch.set_num_threads(config.training.num_threads or torch.get_num_threads())
    recorder = ClockRecorder()
    env = make_training_environments(config)
    with contextlib.closing(env):
        device = torch.device("cpu")
        build_trainer(config, env=env, device=device, recorder=recorder, store=None).train()
    seconds = [b - a for a, b in itertools.pairwise(recorder.clock)]
    result = {
        "env_steps": [b - a for a, b in itertools.pairwise(recorder.steps)],
        "seconds": seconds,
        "update_s": recorder.update_s[1:],
        "returns": recorder.returns,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
