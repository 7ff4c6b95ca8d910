"""From a configuration to an environment. A kind's module is imported when it is asked for."""

from __future__ import annotations

import math

from marlcore.config import EnvConfig, FakeConfig, GameConfig, PettingZooConfig
from marlcore.envs.decision import DecisionEnv, derive_seeds
from marlcore.envs.protocol import StepEnv

_GOLDEN = (math.sqrt(5) - 1) / 2


def make_step_env(config: EnvConfig, *, seed: int, index: int) -> StepEnv:
    """Make the simulator of environment `index` of a run with `seed`."""
    (own_seed,) = derive_seeds(seed, index, 0)
    if isinstance(config, FakeConfig):
        from marlcore.envs.fake import FakeEnv

        return FakeEnv(config, seed=own_seed)
    if isinstance(config, GameConfig):
        from marlcore.envs.games import GameEnv

        return GameEnv(config, seed=own_seed)
    if isinstance(config, PettingZooConfig):
        from marlcore.envs.pettingzoo import PettingZooEnv

        return PettingZooEnv(config, seed=own_seed)
    from marlcore.envs.peg_in_hole import PegInHoleEnv

    return PegInHoleEnv(config, seed=own_seed)


def first_episode_steps(max_episode_steps: int, index: int) -> int:
    """Where environment `index` ends its first episode, so that no two run in step.

    Multiples of the golden ratio lie apart however many there are, so nobody needs to know how many
    environments a run has: of 200 env steps eight run 200, 77, 153, 30, 106, 182, 59 and 135.
    """
    return math.ceil(max_episode_steps * (1 - index * _GOLDEN % 1))


def make_decision_env(
    config: EnvConfig, *, seed: int, index: int, stagger_episodes: bool = False
) -> DecisionEnv:
    """Make environment `index` of a run with `seed`, stepped by decisions.

    Args:
        config: Of the environment.
        seed: Of the run.
        index: Of the environment.
        stagger_episodes: Whether its first episode ends at `first_episode_steps`.
    """
    limit = config.max_episode_steps
    return DecisionEnv(
        make_step_env(config, seed=seed, index=index),
        chunk_length=config.num_actions_chunk,
        executed_length=config.executed_length or config.num_actions_chunk,
        history_length=config.history_length,
        max_episode_steps=limit,
        first_episode_steps=first_episode_steps(limit, index) if stagger_episodes else None,
        chunk_gamma=config.chunk_gamma,
        seed=seed,
        index=index,
        observations_shared=config.observations_shared,
    )
