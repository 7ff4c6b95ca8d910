"""From a policy's configuration and an environment's spec to the joint policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from marlcore.config import (
    CNNConfig,
    OpenVLAConfig,
    PerceptronSection,
    PolicyConfig,
    TinyConfig,
)
from marlcore.envs.protocol import EnvSpec
from marlcore.policies.beliefs import EstimateBeliefs, LearnedBeliefs, OracleBeliefs
from marlcore.policies.convolutions import ImageEncoders
from marlcore.policies.critics import (
    CentralizedValueNetwork,
    Critics,
    CriticSource,
    LightweightCentralizedCritic,
)
from marlcore.policies.layout import Kept
from marlcore.policies.mlp import GaussianHead, MLPActors
from marlcore.policies.policy import MultiAgentPolicy
from marlcore.policies.protocol import Actors, Beliefs, Policy
from marlcore.policies.tiny import tiny_actors

_CPU = torch.device("cpu")
_ONE = Kept(num_observations=1, num_envs=1)


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
    device: torch.device = _CPU,
    kept: Kept = _ONE,
) -> Policy:
    """Build the policy; its weights depend on `initialisation` (and a checkpoint) alone.

    Args:
        config: of the policy.
        spec: of the environment.
        needs: of the algorithm.
        initialisation: of weights.
        shuffle: orders what learned beliefs learn from.
        device: where it will run; large models are loaded there directly.
        kept: for actors that keep what they computed of a rollout's observations.

    Raises:
        ValueError: if the critic reads proprio and the environment has none, or a checkpoint does
            not fit.
    """
    uses_beliefs = needs.belief is not None
    if isinstance(config, OpenVLAConfig):
        from marlcore.policies import openvla  # imports transformers and peft

        actors, notes = openvla.build_actors(
            config,
            spec,
            uses_beliefs=uses_beliefs,
            kept=kept,
            generator=initialisation,
            device=device,
        )
        joint = _joint(config, spec, needs, actors, initialisation, shuffle, notes)
        return openvla.MultiAgentVLAPolicy(joint.to(device), actors)
    if isinstance(config, PerceptronSection):
        vectors: Actors = _mlp_actors(config, spec, uses_beliefs, initialisation)
    else:
        vectors = tiny_actors(spec, uses_beliefs=uses_beliefs, generator=initialisation)
    return _joint(config, spec, needs, vectors, initialisation, shuffle).to(device)


def _joint(
    config: PolicyConfig,
    spec: EnvSpec,
    needs: PolicyNeeds,
    actors: Actors,
    initialisation: torch.Generator,
    shuffle: torch.Generator,
    notes: tuple[str, ...] = (),
) -> MultiAgentPolicy:
    return MultiAgentPolicy(
        actors=actors,
        critics=_critics(config, spec, needs, actors, initialisation),
        beliefs=_beliefs(needs, actors, initialisation, shuffle),
        gradient_into_beliefs=needs.gradient_into_beliefs,
        notes=notes,
    )


def _mlp_actors(
    config: PerceptronSection, spec: EnvSpec, uses_beliefs: bool, generator: torch.Generator
) -> MLPActors:
    is_cnn = isinstance(config, CNNConfig)
    return MLPActors(
        spec,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        output_gain=config.output_gain,
        share_policy=config.share_policy,
        agent_id=config.agent_id,
        uses_beliefs=uses_beliefs,
        head=GaussianHead(
            config.initial_log_std, config.learn_std, final_log_std=config.final_log_std
        ),
        normalise_observations=config.normalise_observations,
        observation_clip=config.observation_clip,
        generator=generator,
        images=_image_encoders(config, spec, generator) if is_cnn else None,
        see_vector=not is_cnn or config.see_vector,
    )


def _image_encoders(config: CNNConfig, spec: EnvSpec, generator: torch.Generator) -> ImageEncoders:
    if "images" not in spec.observation_shapes:
        raise ValueError(
            "policy.kind=cnn looks at images, which this environment does not have; with "
            "peg_in_hole, set env.cameras, for example to [frontview]"
        )
    return ImageEncoders(
        spec.observation_shapes["images"],
        num_shared_views=spec.num_shared_views,
        shared=config.share_policy,
        feature_size=config.image_feature_size,
        clip=config.observation_clip if config.normalise_observations else None,
        generator=generator,
    )


def _critics(
    config: PolicyConfig,
    spec: EnvSpec,
    needs: PolicyNeeds,
    actors: Actors,
    generator: torch.Generator,
) -> Critics:
    source = _source(config, needs)
    if source == "proprio" and "proprio" not in spec.observation_shapes:
        raise ValueError(
            "policy.critic=light reads the arms' proprio, which this environment does not have; "
            "use policy.critic=state"
        )
    num_critics = spec.num_agents if needs.critic_per_agent else 1
    uses_beliefs = needs.belief is not None and needs.critic_per_agent
    size, shape = _source_size(source, spec, actors, num_critics)
    if uses_beliefs:
        size += (spec.num_agents - 1) * actors.layout.belief_size
    is_mlp = isinstance(config, PerceptronSection)
    normalise = config.normalise_observations if is_mlp else isinstance(config, OpenVLAConfig)
    return Critics(
        _value_network(config, size, num_critics, generator),
        source=source,
        shape=shape,
        num_critics=num_critics,
        uses_beliefs=uses_beliefs,
        normalise=normalise,
        clip=config.observation_clip if is_mlp else 5.0,
    )


def _source(config: PolicyConfig, needs: PolicyNeeds) -> CriticSource:
    """What the critics read."""
    if isinstance(config, OpenVLAConfig) and config.critic == "hidden":
        return "hidden"
    if needs.own_observation:
        return "own"
    return "state" if isinstance(config, TinyConfig) or config.critic == "state" else "proprio"


def _source_size(
    source: CriticSource, spec: EnvSpec, actors: Actors, num_critics: int
) -> tuple[int, tuple[int, ...]]:
    """Return the flat size of a critic's source with history, and the shape of one observation."""
    if source == "own":
        return actors.feature_size, ()
    if source == "hidden":
        return actors.hidden_size * (spec.num_agents if num_critics == 1 else 1), ()
    if source == "state":
        history, entries = spec.observation_shapes["state"]
        return history * entries, (entries,)
    agents, history, entries = spec.observation_shapes["proprio"]
    return agents * history * entries, (agents, entries)


def _value_network(
    config: PolicyConfig, feature_size: int, num_critics: int, generator: torch.Generator
) -> nn.Module:
    if not isinstance(config, TinyConfig) and config.critic != "state":
        return LightweightCentralizedCritic(
            feature_size=feature_size,
            num_critics=num_critics,
            hidden_size=config.critic_hidden_sizes[0]
            if isinstance(config, PerceptronSection)
            else config.critic_hidden_size,
            generator=generator,
        )
    is_mlp = isinstance(config, PerceptronSection)
    return CentralizedValueNetwork(
        feature_size=feature_size,
        num_critics=num_critics,
        hidden_sizes=config.critic_hidden_sizes if is_mlp else (),
        activation=config.activation if is_mlp else "tanh",
        generator=generator,
    )


def _beliefs(
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
    return LearnedBeliefs(
        actors.layout,
        feature_size=actors.feature_size,
        learning_rate=needs.belief_lr,
        generator=initialisation,
        shuffle=shuffle,
    )
