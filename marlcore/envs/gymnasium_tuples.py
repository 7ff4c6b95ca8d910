"""gymnasium environments of several agents as a `ParallelEnv`: spaces are tuples, one entry each.

That is how EPyMARL's environments are written: RWARE, level-based foraging and others.

    env.factory=marlcore.envs.gymnasium_tuples:parallel_env
    env.factory_kwargs={"id": "rware:rware-tiny-4ag-v2"}
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

_Seen = dict[str, Any]
_Space = spaces.Space[Any]


class TupleEnv(ParallelEnv[str, Any, Any]):
    """Agents `agent_0` ... in the order of the tuples; all of them leave at once.

    Args:
        env: whose observation and action spaces are tuples of one length.

    Raises:
        ValueError: they are not.
    """

    def __init__(self, env: Any) -> None:
        whole = (env.observation_space, env.action_space)
        if not all(isinstance(space, spaces.Tuple) for space in whole):
            raise ValueError(
                f"{env} has spaces {whole}; this adapter takes Tuples, an entry an agent"
            )
        observed, acted = (list[_Space](space.spaces) for space in whole)
        if len(observed) != len(acted):
            raise ValueError(f"{env}: {len(observed)} agents observe and {len(acted)} act")
        self._env: Any = env
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.possible_agents = [f"agent_{index}" for index in range(len(observed))]
        self.agents = []
        self.observation_spaces = dict(zip(self.possible_agents, observed, strict=True))
        self.action_spaces = dict(zip(self.possible_agents, acted, strict=True))

    def observation_space(self, agent: str) -> _Space:
        """Of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> _Space:
        """Of an agent."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[_Seen, dict[str, Any]]:
        """Start an episode."""
        seen, info = self._env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._named(seen), dict.fromkeys(self.agents, info)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[_Seen, dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        """Run one step; one flag for all, or one for each agent, ends the episode."""
        agents = self.possible_agents
        result = self._env.step(tuple(actions[agent] for agent in agents))
        seen, rewards, terminated, truncated, info = result
        over, cut = bool(np.all(terminated)), bool(np.all(truncated))
        self.agents = [] if over or cut else list(agents)
        named = {agent: float(r) for agent, r in zip(agents, rewards, strict=True)}
        flags = (dict.fromkeys(agents, over), dict.fromkeys(agents, cut))
        return self._named(seen), named, *flags, dict.fromkeys(agents, info)

    def render(self) -> Any:
        """The environment's picture."""
        return self._env.render()

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _named(self, seen: Any) -> _Seen:
        return dict(zip(self.possible_agents, seen, strict=True))


def parallel_env(id: str, **options: Any) -> TupleEnv:
    """Make a registered environment; `module:name` imports the module that registers it.

    Args:
        id: as gymnasium.make takes it.
        options: of the environment.

    Raises:
        ValueError: there is none, or its spaces are no tuples.
    """
    try:
        env: Any = gymnasium.make(id, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"gymnasium makes no {id!r}: {error}") from error
    return TupleEnv(env)
