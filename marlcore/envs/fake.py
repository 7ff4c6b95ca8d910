"""A point for each agent to bring to its target: the real protocol, microseconds a step.

N agents in a square [-1, 1]^2. An action moves a point by SPEED a coordinate at most. Each agent
sees its own point and all targets, its own first; nobody sees the other points.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcore.config import FakeConfig
from marlcore.envs.protocol import ActionSpec, EnvSpec, Observation, StepResult

SPEED = 0.1
"""Largest way along one coordinate in an env step."""
RADIUS = 0.1
"""Success: every point is nearer than this to its target."""
_PICTURE_SIZE = 128


class FakeEnv:
    """Reward: minus the points' mean distance to their targets. Success does not end the episode.

    Args:
        config: Number of agents, size of images.
        seed: Not used: all chance comes with `reset`.
    """

    def __init__(self, config: FakeConfig, *, seed: int) -> None:
        del seed
        self._num_agents = n = config.num_agents
        self._image_size = config.image_size
        self._points = np.zeros((n, 2), np.float32)
        self._targets = np.zeros((n, 2), np.float32)
        self._seen_targets = np.zeros((n, 2 * n), np.float32)
        self._speed = np.array(SPEED, np.float32)
        # Row i: agent i's target first, then the others' in order.
        order = [[i, *(j for j in range(n) if j != i)] for i in range(n)]
        self._order = np.array(order, np.intp)
        shapes: dict[str, tuple[int, ...]] = {
            "vector": (n, 2 + 2 * n),
            "proprio": (n, 2),
            "state": (4 * n,),
        }
        if config.image_size is not None:
            shapes["images"] = (n, 1, config.image_size, config.image_size, 3)
        visible = np.ones((n, n, 2 + 2 * n), np.bool_)
        visible[..., :2] = np.eye(n, dtype=np.bool_)[..., None]
        self._spec = EnvSpec(
            num_agents=n,
            actions=ActionSpec(kind="continuous", sizes=(2,) * n),
            observation_shapes=shapes,
            observation_dtypes={k: "uint8" if k == "images" else "float32" for k in shapes},
            instructions=("bring the point to the target",) * n,
            visible=visible,
            proprio_quantiles=np.array([[-1.0, -1.0], [1.0, 1.0]]),
            has_success=True,
        )

    @property
    def spec(self) -> EnvSpec:
        """`vector`: own point 2, own target 2, the other targets; `state`: points, then targets."""
        return self._spec

    def reset(self, seed: int) -> None:
        """Draw points and targets uniformly from the square."""
        both = np.random.default_rng(seed).uniform(-1, 1, (2, self._num_agents, 2))
        self._points = both[0].astype(np.float32)
        self._targets = both[1].astype(np.float32)
        self._seen_targets = self._targets[self._order].reshape(self._num_agents, -1)

    def step(self, actions: NDArray[np.generic]) -> StepResult:
        """Move the points. actions: [N, 2] in [-1, 1]."""
        moves: NDArray[Any] = actions
        self._points: NDArray[np.float32] = self._points + self._speed * moves
        # Few numbers: Python is faster than numpy here.
        distances = [math.hypot(x, y) for x, y in (self._points - self._targets).tolist()]
        return StepResult(
            reward=-sum(distances) / self._num_agents,
            terminated=False,
            success=max(distances) < RADIUS,
        )

    def observe(self) -> Observation:
        """Return `vector`, `proprio`, `state`, and `images` if they were asked for."""
        n = self._num_agents
        vector = np.empty((n, 2 + 2 * n), np.float32)
        vector[:, :2] = self._points
        vector[:, 2:] = self._seen_targets
        observation: Observation = {
            "vector": vector,
            "proprio": self._points.copy(),
            "state": np.concatenate((self._points, self._targets), axis=None),
        }
        if self._image_size is not None:
            images = [self._picture([i], self._image_size, 1)[None] for i in range(n)]
            observation["images"] = np.stack(images)
        return observation

    def optimal_actions(self) -> NDArray[np.float32]:
        """Return the actions [N, 2] that maximise the reward of this and every later step."""
        return np.clip((self._targets - self._points) / self._speed, -1, 1).astype(np.float32)

    def render(self) -> NDArray[np.uint8]:
        """Return a picture [128, 128, 3]: points red, targets green."""
        return self._picture(range(self._num_agents), _PICTURE_SIZE, 5)

    def close(self) -> None:
        """Nothing to free."""

    def _picture(self, agents: range | list[int], size: int, width: int) -> NDArray[np.uint8]:
        """Targets green, points red, as squares of `width` pixels on black."""
        picture = np.zeros((size, size, 3), np.uint8)
        for channel, places in ((1, self._targets), (0, self._points)):
            for i in agents:
                x, y = np.clip((places[i] + 1) / 2 * (size - width), 0, size - width).astype(int)
                picture[y : y + width, x : x + width, channel] = 255
        return picture
