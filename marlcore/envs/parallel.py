"""The reverse of envs/pettingzoo.py: environments of this library as a ParallelEnv."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from marlcore.config import EnvConfig, PegInHoleConfig
from marlcore.envs.make import make_step_env
from marlcore.envs.protocol import StepEnv

Array = NDArray[np.generic]


def parallel_env(
    config: EnvConfig | None = None, *, seed: int = 0, render_mode: str | None = None
) -> StepParallelEnv:
    """Make an environment of this library as a ParallelEnv.

    Args:
        config: Which one; None: TwoArmPegInHole with its defaults. Chunks and history are the
            learner's business and have no effect here.
        seed: Of the simulator; that of an episode is given to `reset`.
        render_mode: rgb_array, or None.
    """
    config = config or PegInHoleConfig()
    return StepParallelEnv(
        make_step_env(config, seed=seed, index=0),
        name=config.kind,
        max_episode_steps=config.max_episode_steps,
        render_mode=render_mode,
    )


class StepParallelEnv(ParallelEnv[str, Array, Array]):
    """Agents agent_0 .. agent_{N-1}; each observes its row of `vector` and earns the team's reward.

    Args:
        env: The simulator.
        name: What `str` says.
        max_episode_steps: Steps after which all agents are truncated.
        render_mode: rgb_array, or None.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # pettingzoo's
        "name": "marlcore",
        "render_modes": ["rgb_array"],
        "is_parallelizable": True,
        "render_fps": 20,
    }

    def __init__(
        self, env: StepEnv, *, name: str, max_episode_steps: int, render_mode: str | None
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode {render_mode!r}: choose rgb_array or None")
        self.metadata = {**self.metadata, "name": name}
        self.render_mode = render_mode
        self._env = env
        self._max_episode_steps = max_episode_steps
        self._length = 0
        self._random, _ = seeding.np_random(0)
        spec = env.spec
        self.possible_agents = [f"agent_{i}" for i in range(spec.num_agents)]
        self.agents = []
        width = spec.observation_shapes["vector"][1]
        self.observation_spaces = {
            agent: spaces.Box(-np.inf, np.inf, (width,), np.float32)
            for agent in self.possible_agents
        }
        self.action_spaces = {
            agent: self._action_space(size)
            for agent, size in zip(self.possible_agents, spec.actions.sizes, strict=True)
        }
        self.state_space = spaces.Box(-np.inf, np.inf, spec.observation_shapes["state"], np.float32)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Return an unbounded Box [O]."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return Box(-1, 1), Box without bounds where the simulator does not clip, or Discrete."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Start an episode; without a seed the next of the sequence that the last seed began."""
        del options
        if seed is not None:
            self._random, _ = seeding.np_random(seed)
        seeds: Any = self._random
        self._env.reset(int(seeds.integers(2**31)))
        self._length = 0
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Array]
    ) -> tuple[
        dict[str, Array],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Run one step with an action of every agent."""
        spec = self._env.spec.actions
        continuous = spec.kind == "continuous"
        rows = np.zeros((len(self.agents), spec.num_dims), np.float32 if continuous else np.int64)
        for i, (agent, size) in enumerate(zip(self.possible_agents, spec.sizes, strict=True)):
            rows[i, : size if continuous else 1] = actions[agent]
        result = self._env.step(rows.clip(-1, 1) if continuous and spec.clip else rows)
        self._length += 1
        limit_reached = result.truncated or self._length >= self._max_episode_steps
        truncated = limit_reached and not result.terminated
        agents = self.agents
        if result.terminated or truncated:
            self.agents = []
        return (
            self._observations(),
            dict.fromkeys(agents, result.reward),
            dict.fromkeys(agents, result.terminated),
            dict.fromkeys(agents, truncated),
            {agent: {"success": result.success} for agent in agents},
        )

    def state(self) -> Array:
        """Return what a centralised critic sees, float32 [S]."""
        return self._env.observe()["state"]

    def render(self) -> NDArray[np.uint8]:
        """Return a picture [height, width, 3]."""
        if self.render_mode is None:
            raise ValueError(
                "made without render_mode; pass render_mode='rgb_array' to parallel_env"
            )
        return self._env.render()

    def close(self) -> None:
        """Free what the simulator holds."""
        self._env.close()

    def _action_space(self, size: int) -> spaces.Space[Any]:
        spec = self._env.spec.actions
        if spec.kind == "discrete":
            return spaces.Discrete(size)
        bound = 1.0 if spec.clip else np.inf
        return spaces.Box(-bound, bound, (size,), np.float32)

    def _observations(self) -> dict[str, Array]:
        vector = self._env.observe()["vector"]
        return dict(zip(self.possible_agents, vector, strict=True))
