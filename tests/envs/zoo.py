"""Small ParallelEnvs for tests of the adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

AGENTS = ("first", "second", "third")


class Zoo(ParallelEnv[str, Any, Any]):
    """Agent i is paid i + 1 a step. `leaves` tells after which step an agent leaves, and how."""

    metadata = {"name": "zoo"}  # noqa: RUF012

    def __init__(
        self,
        observation_spaces: dict[str, Any],
        action_spaces: dict[str, Any],
        leaves: dict[str, tuple[int, str]] | None = None,
    ) -> None:
        self.possible_agents = list(observation_spaces)
        self.agents: list[str] = []
        self.observed, self.acted = observation_spaces, action_spaces
        self.leaves = leaves or {}
        self.received: list[dict[str, Any]] = []

    def observation_space(self, agent: str) -> Any:
        return self.observed[agent]

    def action_space(self, agent: str) -> Any:
        return self.acted[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self.steps = 0
        for i, space in enumerate(self.observed.values()):
            space.seed((seed or 0) + i)
        return self._observe(self.agents), {a: {} for a in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents)
        for agent, action in actions.items():
            assert self.acted[agent].contains(action), action
        self.received.append(actions)
        self.steps += 1
        playing = self.agents
        how = {
            a: self.leaves[a][1] if self.leaves.get(a, (0,))[0] == self.steps else ""
            for a in playing
        }
        self.agents = [a for a in playing if not how[a]]
        return (
            self._observe(playing),
            {a: 1.0 + self.possible_agents.index(a) for a in playing},
            {a: how[a] == "terminated" for a in playing},
            {a: how[a] == "truncated" for a in playing},
            {a: {} for a in playing},
        )

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        return {a: self.observed[a].sample() for a in agents}


def box(*shape: int) -> spaces.Box:
    return spaces.Box(1, 2, shape, np.float32)


def leaving(early: str = "terminated", late: str = "terminated") -> Zoo:
    """Three agents; the second leaves after step 2, the others after step 3."""
    return Zoo(
        {"first": box(2), "second": box(3), "third": spaces.Discrete(4)},
        dict.fromkeys(AGENTS, spaces.Discrete(2, start=5)),
        {"second": (2, early), "first": (3, late), "third": (3, "terminated")},
    )


def acting(kind: str) -> Zoo:
    """Two agents whose actions are of the given kind."""
    inf = np.inf
    choices: dict[str, tuple[Any, Any]] = {
        "bounded": (
            spaces.Box(np.array([0, -4], np.float32), np.array([1, 6], np.float32)),
            spaces.Box(-1, 1, (1, 1), np.float64),
        ),
        "unbounded": (spaces.Box(-inf, inf, (2,)), spaces.Box(-inf, inf, (1,))),
        "mixed bounds": (spaces.Box(-inf, inf, (2,)), spaces.Box(-1, 1, (1,))),
        "half bounded": (spaces.Box(0, inf, (2,)), spaces.Box(0, inf, (1,))),
        "mixed kinds": (spaces.Discrete(2), spaces.Box(-1, 1, (1,))),
        "integers": (spaces.Box(0, 9, (1,), np.int64), spaces.Box(0, 9, (1,), np.int64)),
        "multi": (spaces.MultiDiscrete([2, 2]), spaces.MultiDiscrete([2, 2])),
    }
    return Zoo({"first": box(2), "second": box(2)}, dict(zip(AGENTS, choices[kind], strict=False)))


def observing(kind: str) -> Zoo:
    """Two agents; the second observes the given kind."""
    choices: dict[str, Any] = {
        "dict": spaces.Dict({"a": box(2), "b": spaces.MultiBinary(2), "c": spaces.Discrete(3)}),
        "multi": spaces.MultiDiscrete([2, 3]),
        "mask": spaces.Dict({"observation": box(2), "action_mask": spaces.MultiBinary(2)}),
        "text": spaces.Text(5),
    }
    return Zoo(
        {"first": box(2, 2), "second": choices[kind]},
        dict.fromkeys(AGENTS[:2], spaces.Discrete(2)),
    )


class Seen(Zoo):
    def visible(self) -> Any:
        return np.eye(2, dtype=np.bool_)[..., None].repeat(self.width, axis=-1)

    def state(self) -> Any:
        return np.arange(4, dtype=np.float64).reshape(2, 2)


def seen(width: int = 2) -> Seen:
    env = Seen({"first": box(2), "second": box(2)}, dict.fromkeys(AGENTS[:2], spaces.Discrete(2)))
    env.width = width
    return env


def nothing() -> object:
    return object()
