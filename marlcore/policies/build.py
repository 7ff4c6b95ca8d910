"""From a policy's configuration and an environment's spec to the joint policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from marlcore.config import MLPConfig, PolicyConfig
from marlcore.envs.protocol import EnvSpec
from marlcore.policies.beliefs import EstimateBeliefs, LearnedBeliefs, OracleBeliefs
from marlcore.policies.critics import (
    CentralizedValueNetwork,
    Critics,
    CriticSource,
    LightweightCentralizedCritic,
)
from marlcore.policies.mlp import GaussianHead, MLPActors
from marlcore.policies.policy import MultiAgentPolicy
from marlcore.policies.protocol import Actors, Beliefs
from marlcore.policies.tiny import tiny_actors


@dataclass(frozen=True)
class PolicyNeeds:
    """What an algorithm asks of a policy: all that they differ in besides their targets."""

    critic_per_agent: bool
    """N critics, or one for the team."""
    own_observation: bool = False
    """Critics read what their agent sees, not the global state."""
    belief: str | None = None
    """estimate, learned, oracle, or None: agents know nothing of each other's actions."""
    belief_lr: float = 1e-3
    """Learning rate of a learned belief."""
    gradient_into_beliefs: bool = False
    """Whether the update recomputes estimates with gradient."""


def build_policy(
    config: PolicyConfig,
    spec: EnvSpec,
    needs: PolicyNeeds,
    *,
    initialisation: torch.Generator,
    shuffle: torch.Generator,
) -> MultiAgentPolicy:
    """Build the policy; its weights depend on `initialisation` alone.

    Raises:
        ValueError: if the critic reads proprio and the environment has none.
    """
    if isinstance(config, MLPConfig):
        actors: Actors = _mlp_actors(config, spec, needs.belief is not None, initialisation)
    else:
        actors = tiny_actors(spec, uses_beliefs=needs.belief is not None, generator=initialisation)
    return MultiAgentPolicy(
        actors=actors,
        critics=_critics(config, spec, needs, actors, initialisation),
        beliefs=_beliefs(spec, needs, actors, initialisation, shuffle),
        gradient_into_beliefs=needs.gradient_into_beliefs,
    )


def _mlp_actors(
    config: MLPConfig, spec: EnvSpec, uses_beliefs: bool, generator: torch.Generator
) -> MLPActors:
    return MLPActors(
        spec,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        output_gain=config.output_gain,
        share_policy=config.share_policy,
        agent_id=config.agent_id,
        uses_beliefs=uses_beliefs,
        head=GaussianHead(config.initial_log_std, config.learn_std),
        normalise_observations=config.normalise_observations,
        observation_clip=config.observation_clip,
        generator=generator,
    )


def _critics(
    config: PolicyConfig,
    spec: EnvSpec,
    needs: PolicyNeeds,
    actors: Actors,
    generator: torch.Generator,
) -> Critics:
    light = isinstance(config, MLPConfig) and config.critic == "light"
    source: CriticSource = "own" if needs.own_observation else "proprio" if light else "state"
    if source == "proprio" and "proprio" not in spec.observation_shapes:
        raise ValueError(
            "policy.critic=light reads the arms' proprio, which this environment does not have; "
            "use policy.critic=state"
        )
    num_critics = spec.num_agents if needs.critic_per_agent else 1
    uses_beliefs = needs.belief is not None and needs.critic_per_agent
    size, shape = _source_size(source, spec)
    if uses_beliefs:
        size += (spec.num_agents - 1) * actors.layout.belief_size
    normalise = isinstance(config, MLPConfig) and config.normalise_observations
    return Critics(
        _value_network(config, size, num_critics, generator),
        source=source,
        shape=shape,
        num_critics=num_critics,
        uses_beliefs=uses_beliefs,
        normalise=normalise,
        clip=config.observation_clip if isinstance(config, MLPConfig) else 1.0,
    )


def _source_size(source: CriticSource, spec: EnvSpec) -> tuple[int, tuple[int, ...]]:
    """Return the flat size of a critic's source with history, and the shape of one observation."""
    if source == "own":
        _, history, entries = spec.observation_shapes["vector"]
        return history * entries, ()
    if source == "state":
        history, entries = spec.observation_shapes["state"]
        return history * entries, (entries,)
    agents, history, entries = spec.observation_shapes["proprio"]
    return agents * history * entries, (agents, entries)


def _value_network(
    config: PolicyConfig, feature_size: int, num_critics: int, generator: torch.Generator
) -> nn.Module:
    if isinstance(config, MLPConfig) and config.critic == "light":
        return LightweightCentralizedCritic(
            feature_size=feature_size,
            num_critics=num_critics,
            hidden_size=config.critic_hidden_sizes[0],
            generator=generator,
        )
    is_mlp = isinstance(config, MLPConfig)
    return CentralizedValueNetwork(
        feature_size=feature_size,
        num_critics=num_critics,
        hidden_sizes=config.critic_hidden_sizes if is_mlp else (),
        activation=config.activation if is_mlp else "tanh",
        generator=generator,
    )


def _beliefs(
    spec: EnvSpec,
    needs: PolicyNeeds,
    actors: Actors,
    initialisation: torch.Generator,
    shuffle: torch.Generator,
) -> Beliefs | None:
    if needs.belief is None:
        return None
    if needs.belief == "estimate":
        return EstimateBeliefs()
    if needs.belief == "oracle":
        return OracleBeliefs()
    _, history, entries = spec.observation_shapes["vector"]
    return LearnedBeliefs(
        actors.layout,
        feature_size=history * entries,
        learning_rate=needs.belief_lr,
        generator=initialisation,
        shuffle=shuffle,
    )
