"""Any `pettingzoo.ParallelEnv` as a StepEnv.

Observations (Box, Discrete, MultiBinary, MultiDiscrete, Dict of these) are flattened in gymnasium's
order and padded with zeros to the widest, O. Actions are all Box or all Discrete; a Box's bounds
are reached at -1 and 1, actions without bounds are passed on unclipped. An environment may
say who sees what by an attribute or method `visible`, bool [N, N, O]: whether agent i sees entry o
of agent j's observation.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from marlcore.config import PettingZooConfig
from marlcore.envs.protocol import EnvSpec, Observation, StepResult
from marlcore.envs.spaces import action_spec, check_observation_space, scaler

_Env = ParallelEnv[Any, Any, Any]


class PettingZooEnv:
    """Agents in the order of `possible_agents`. One that has left observes zeros and is inactive.

    The episode ends when all agents have left: terminated if every one of them terminated.
    The state is the environment's own `state()`, or else all observations in a row.

    Args:
        config: Factory and team reward.
        seed: Not used: all chance comes with `reset`.

    Raises:
        ValueError: the factory makes no environment that this adapter can run.
    """

    def __init__(self, config: PettingZooConfig, *, seed: int) -> None:
        del seed
        self._env = env = make_parallel_env(config)
        self._agents = agents = tuple(env.possible_agents)
        self._row = {agent: row for row, agent in enumerate(agents)}
        self._spaces = [env.observation_space(agent) for agent in agents]
        for agent, space in zip(agents, self._spaces, strict=True):
            check_observation_space(agent, space)
        self._widths = [spaces.flatdim(space) for space in self._spaces]
        action_spaces = [env.action_space(agent) for agent in agents]
        actions = action_spec(agents, action_spaces)
        is_discrete = actions.kind == "discrete"
        self._scaled = None if is_discrete else scaler(action_spaces, actions)
        self._starts = [int(getattr(space, "start", 0)) for space in action_spaces]
        self._share = 1 / len(agents) if config.team_reward == "mean" else 1.0
        self._observations: dict[Any, Any] = {}
        self._all_terminated = True
        self._has_state = False
        self.reset(0)
        self._has_state = _has_state(env)
        state_width = self.observe()["state"].size
        shapes = {"vector": (len(agents), max(self._widths)), "state": (state_width,)}
        self._spec = EnvSpec(
            num_agents=len(agents),
            actions=actions,
            observation_shapes=shapes,
            observation_dtypes=dict.fromkeys(shapes, "float32"),
            visible=_visible(env, (len(agents), *shapes["vector"])),
        )

    @property
    def spec(self) -> EnvSpec:
        """`vector` [N, O] and `state` [S]."""
        return self._spec

    def reset(self, seed: int) -> None:
        """Reset the environment with `seed`."""
        self._observations, _ = self._env.reset(seed=seed)
        self._all_terminated = True

    def step(self, actions: NDArray[np.generic]) -> StepResult:
        """Run one step. actions: [N, D]; those of agents that have left are not read."""
        env = self._env
        playing = list(env.agents)
        values = self._values(actions)
        given = {agent: values[self._row[agent]] for agent in playing}
        seen, rewards, terminations, truncations, _ = env.step(given)
        ended = not env.agents
        for agent in playing:
            if terminations[agent] or truncations[agent]:
                self._all_terminated &= bool(terminations[agent])
                # The last observation is the successor only where the episode ends for all.
                if not ended:
                    seen = {other: o for other, o in seen.items() if other != agent}
        self._observations = seen
        terminated = ended and self._all_terminated
        active = None
        if len(playing) < len(self._agents):
            active = np.array([agent in given for agent in self._agents])
        return StepResult(
            reward=float(sum(rewards.values())) * self._share,
            terminated=terminated,
            truncated=ended and not terminated,
            active=active,
        )

    def observe(self) -> Observation:
        """Return `vector`, with zeros for agents that have left, and `state`."""
        vector = np.zeros((len(self._agents), max(self._widths)), np.float32)
        for agent, seen in self._observations.items():
            row = self._row[agent]
            space = self._spaces[row]
            # gymnasium's flatten costs microseconds; most spaces are boxes.
            flat = seen.ravel() if isinstance(space, spaces.Box) else spaces.flatten(space, seen)
            vector[row, : self._widths[row]] = flat
        if self._has_state:
            state = _state(self._env)
        else:
            rows = zip(vector, self._widths, strict=True)
            state = np.concatenate([row[:width] for row, width in rows])
        return {"vector": vector, "state": state}

    def render(self) -> NDArray[np.uint8]:
        """Return the environment's picture; it needs render_mode=rgb_array."""
        picture: object = cast(Any, self._env).render()
        if not isinstance(picture, np.ndarray):
            raise ValueError(
                f"this environment renders {type(picture).__name__}, not a picture; give it "
                'env.factory_kwargs={"render_mode": "rgb_array"}, or switch videos off '
                "(logging.video=false)"
            )
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _values(self, actions: NDArray[Any]) -> list[Any]:
        """Return an element of every agent's action space."""
        if self._scaled is not None:
            return self._scaled(actions)
        chosen: list[int] = actions[:, 0].tolist()
        return [start + choice for start, choice in zip(self._starts, chosen, strict=True)]


def make_parallel_env(config: PettingZooConfig) -> _Env:
    """Import the factory and call it."""
    module_name, _, path = config.factory.partition(":")
    try:
        factory: Any = importlib.import_module(module_name)
        for part in path.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"env.factory {config.factory!r} cannot be imported ({error}); give module:function, "
            "for example mpe2.simple_spread_v3:parallel_env, and install what it needs"
        ) from error
    try:
        env: object = factory(**config.factory_kwargs)
    except TypeError as error:
        raise ValueError(
            f"env.factory {config.factory} does not take env.factory_kwargs "
            f"{config.factory_kwargs}: {error}"
        ) from error
    if not isinstance(env, ParallelEnv):
        raise ValueError(
            f"env.factory {config.factory} made a {type(env).__name__}, not a "
            "pettingzoo.ParallelEnv; wrap an AECEnv in pettingzoo.utils.aec_to_parallel"
        )
    return cast(_Env, env)


def _state(env: _Env) -> NDArray[np.float32]:
    return np.array(cast(Any, env).state(), np.float32).ravel()


def _has_state(env: _Env) -> bool:
    try:
        _state(env)
    except (NotImplementedError, AttributeError):
        return False
    return True


def _visible(env: _Env, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    declared: Any = getattr(env.unwrapped, "visible", None)
    if declared is None:
        return None
    visible = np.asarray(declared() if callable(declared) else declared)
    if visible.shape != shape or visible.dtype != np.bool_:
        raise ValueError(
            f"the environment's `visible` is {visible.dtype}{list(visible.shape)}; it must be "
            f"bool{list(shape)} (seeing agent, seen agent, entry of its observation)"
        )
    return visible
