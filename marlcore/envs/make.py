"""From a configuration to an environment. A kind's module is imported when it is asked for."""

from __future__ import annotations

from marlcore.config import EnvConfig, FakeConfig, GameConfig, PettingZooConfig
from marlcore.envs.decision import DecisionEnv, derive_seeds
from marlcore.envs.protocol import StepEnv


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


def make_decision_env(config: EnvConfig, *, seed: int, index: int) -> DecisionEnv:
    """Make environment `index` of a run with `seed`, stepped by decisions."""
    return DecisionEnv(
        make_step_env(config, seed=seed, index=index),
        chunk_length=config.num_actions_chunk,
        executed_length=config.executed_length or config.num_actions_chunk,
        history_length=config.history_length,
        max_episode_steps=config.max_episode_steps,
        chunk_gamma=config.chunk_gamma,
        seed=seed,
        index=index,
        observations_shared=config.observations_shared,
    )
