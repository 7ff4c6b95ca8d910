"""One-step games of common reward with known solutions. All agents see the same, and all of it.

partition          two agents choose 0 or 1; reward 1 if they differ, else 0. Independent agents
                   that are alike cannot do better than 1/2.
sum_coordination   N agents see s ~ U(-1, 1) and choose a_i in R; reward
                   -(sum_i a_i - N s)^2 / N. Optimum 0.
climbing, penalty  matrix games (Claus and Boutilier 1998); optima 11, and 10 at two joint actions.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcore.config import GameConfig
from marlcore.envs.protocol import ActionSpec, EnvSpec, Observation, StepResult

PENALTY = 25.0
"""k of the penalty game."""
PAYOFFS: dict[str, tuple[tuple[float, ...], ...]] = {
    "partition": ((0.0, 1.0), (1.0, 0.0)),
    "climbing": ((11.0, -30.0, 0.0), (-30.0, 7.0, 0.0), (0.0, 6.0, 5.0)),
    "penalty": ((-PENALTY, 0.0, 10.0), (0.0, 2.0, 0.0), (10.0, 0.0, -PENALTY)),
}
"""Reward by action of agent_0 (row) and agent_1 (column)."""
_CELL_PIXELS = 32


class GameEnv:
    """One of the games above; every episode is one env step and terminates.

    Args:
        config: Which game, and for sum_coordination how many agents.
        seed: Not used: all chance comes with `reset`.
    """

    def __init__(self, config: GameConfig, *, seed: int) -> None:
        del seed
        self._payoff = PAYOFFS.get(config.game)
        self._best = 0.0 if self._payoff is None else max(map(max, self._payoff))
        if self._payoff is None:
            n = config.num_agents or 4
            actions = ActionSpec(kind="continuous", sizes=(1,) * n, clip=False)
        else:
            n = 2
            actions = ActionSpec(kind="discrete", sizes=(len(self._payoff),) * n)
        self._num_agents = n
        self._target = 1.0
        self._seen = np.ones((n, 1), np.float32)
        self._last: tuple[float, ...] = ()
        self._random = random.Random()
        shapes: dict[str, tuple[int, ...]] = {"vector": (n, 1), "state": (1,)}
        self._spec = EnvSpec(
            num_agents=n,
            actions=actions,
            observation_shapes=shapes,
            observation_dtypes=dict.fromkeys(shapes, "float32"),
            visible=np.ones((n, n, 1), np.bool_),
            has_success=self._payoff is not None,
        )

    @property
    def spec(self) -> EnvSpec:
        """`vector` [N, 1] and `state` [1]: s, or the constant 1."""
        return self._spec

    def reset(self, seed: int) -> None:
        """Draw s, if the game has one."""
        self._last = ()
        if self._payoff is None:
            self._random.seed(seed)
            # From float32, so that the optimum follows from what is seen.
            self._seen[:] = self._random.uniform(-1, 1)
            self._target = float(self._seen[0, 0])

    def step(self, actions: NDArray[np.generic]) -> StepResult:
        """Play. actions: [N, 1]."""
        chosen: NDArray[Any] = actions
        self._last = tuple(chosen[:, 0].tolist())
        if self._payoff is None:
            n = self._num_agents
            return StepResult(
                reward=-((sum(self._last) - n * self._target) ** 2) / n, terminated=True
            )
        row, column = map(int, self._last)
        size = len(self._payoff)
        assert 0 <= row < size and 0 <= column < size, (row, column)
        reward = self._payoff[row][column]
        return StepResult(reward=reward, terminated=True, success=reward == self._best)

    def observe(self) -> Observation:
        """Return the constant, or s."""
        return {
            "vector": self._seen.copy(),
            "state": self._seen[0].copy(),
        }

    def render(self) -> NDArray[np.uint8]:
        """Return a picture: payoffs, brighter is better, the joint action red; or bars."""
        if self._payoff is None:
            return self._bars()
        payoff = np.array(self._payoff)
        grey = (payoff - payoff.min()) / (payoff.max() - payoff.min()) * 255
        picture = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        if self._last:
            picture[int(self._last[0]), int(self._last[1]), 0] = 255
            picture[int(self._last[0]), int(self._last[1]), 1:] //= 2
        return picture.repeat(_CELL_PIXELS, axis=0).repeat(_CELL_PIXELS, axis=1)

    def close(self) -> None:
        """Nothing to free."""

    def _bars(self) -> NDArray[np.uint8]:
        """First s in green, then each action red, as bars from the middle of a scale of [-2, 2]."""
        values = (self._target, *self._last)
        width, half = 128, 64
        picture = np.zeros((_CELL_PIXELS * (1 + self._num_agents), width, 3), np.uint8)
        for i, value in enumerate(values):
            end = half + int(np.clip(value, -2, 2) * half / 2)
            rows = slice(i * _CELL_PIXELS + 4, (i + 1) * _CELL_PIXELS - 4)
            picture[rows, min(half, end) : max(half, end) + 1, 1 if i == 0 else 0] = 255
        return picture
