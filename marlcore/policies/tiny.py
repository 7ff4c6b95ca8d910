"""The smallest real actors: one linear layer per agent, nothing normalised. For tests."""

from __future__ import annotations

import torch

from marlcore.envs.protocol import EnvSpec
from marlcore.policies.mlp import GaussianHead, MLPActors


def tiny_actors(spec: EnvSpec, *, uses_beliefs: bool, generator: torch.Generator) -> MLPActors:
    """Return linear actors with a learned standard deviation that starts at e^-0.7."""
    return MLPActors(
        spec,
        hidden_sizes=(),
        activation="tanh",
        output_gain=0.01,
        share_policy=False,
        agent_id=False,
        uses_beliefs=uses_beliefs,
        head=GaussianHead(initial_log_std=-0.7, learned=True),
        normalise_observations=False,
        observation_clip=5.0,
        generator=generator,
    )
