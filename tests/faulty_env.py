"""A ParallelEnv that fails on demand: a file `step` or `reset` says how, once or always.

It observes [a value that starts at random, steps], so that tests can tell episodes apart.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class FaultyEnv(ParallelEnv[str, Any, Any]):
    metadata = {"name": "faulty"}  # noqa: RUF012

    def __init__(self, folder: str, episode_length: int) -> None:
        self.folder = Path(folder)
        self.episode_length = episode_length
        self.possible_agents = ["a", "b"]
        self.agents: list[str] = []
        self.rng = np.random.default_rng(0)

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def action_space(self, agent: str) -> spaces.Box:
        return spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self.rng = np.random.default_rng(seed)
        self.value = self.rng.uniform()
        self.steps = 0
        self._maybe_fail("reset")
        return self._observe(), {a: {} for a in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        # By the first agent's action a test chooses which environments obey.
        self._maybe_fail("step", float(actions["a"][0]))
        self.steps += 1
        self.value += float(actions["b"][0])
        agents = self.agents
        ended = self.steps >= self.episode_length
        if ended:
            self.agents = []
        return (
            {a: self._observe()[a] for a in agents},
            dict.fromkeys(agents, self.value),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, ended),
            {a: {} for a in agents},
        )

    def _observe(self) -> dict[str, Any]:
        return {a: np.array([self.value, self.steps]) for a in self.possible_agents}

    def _maybe_fail(self, where: str, action: float = 1.0) -> None:
        order = self.folder / where
        if action <= 0.5:
            return
        try:
            fault, _, how_often = order.read_text().partition(" ")
        except FileNotFoundError:
            return
        if how_often != "always" and not self._is_first_to_take(order):
            return
        if fault == "raise":
            raise RuntimeError("the gripper fell off")
        if fault == "value":
            raise ValueError("no such gripper")
        if fault == "exit":
            os._exit(3)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        assert fault == "hang", fault
        time.sleep(600)

    def _is_first_to_take(self, order: Path) -> bool:
        """Whether this process gets the order: two may fail at once, but each order is for one."""
        try:
            order.rename(self.folder / f"taken-by-{os.getpid()}")
        except FileNotFoundError:
            return False
        return True


def make(folder: str, episode_length: int = 5) -> FaultyEnv:
    return FaultyEnv(folder, episode_length)


def make_refused(folder: str) -> FaultyEnv:
    raise ValueError(f"folder {folder}: no such arm")


def make_broken(folder: str) -> FaultyEnv:
    raise OSError("no licence")


def on_one_rank() -> FaultyEnv:
    """An environment that raises in its second episode, in the second process of a job alone."""
    return _OnOneRank("", 8)


def slow() -> FaultyEnv:
    """An environment whose steps take SLOW_S seconds, if that is set: speed is a matter of it."""
    return _Slow("", 8)


class _Slow(FaultyEnv):
    def _maybe_fail(self, *_: Any) -> None:
        time.sleep(float(os.environ.get("SLOW_S", "0")))


class _OnOneRank(FaultyEnv):
    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.num_resets = getattr(self, "num_resets", 0) + 1
        return super().reset(seed, options)

    def _maybe_fail(self, *_: Any) -> None:
        if os.environ.get("SLURM_PROCID") == "1" and self.num_resets > 200:
            raise RuntimeError("only here")
