"""Small VLA runs on the fake environment: two points, a picture each, the real actors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marlcore.collector import Collection
from marlcore.config import ExperimentConfig
from marlcore.policies.openvla import MultiAgentVLAPolicy, OpenVLAActors
from marlcore.trainer import Trainer
from marlcore.types import Inputs
from tests.factories import make_config, make_trainer

CPU = torch.device("cpu")


def vla_config(name: str = "acppo", **sections: Any) -> ExperimentConfig:
    """Four environments, chunks of two, two frames, four decisions a rollout."""
    policy = {
        "kind": "openvla",
        "pretrained_checkpoint": "tiny",
        "image_preparation": "plain",
        "lora_rank": 2,
        **sections.pop("policy", {}),
    }
    env = {
        "kind": "fake",
        "max_episode_steps": 9,
        "image_size": 56,
        "history_length": 2,
        "num_actions_chunk": 2,
        **sections.pop("env", {}),
    }
    training = {"num_steps_per_rollout": 4, "total_timesteps": 96, **sections.pop("training", {})}
    algorithm = {"actor_lr": 1e-4, **sections.pop("algorithm", {})}
    return make_config(
        name, env=env, policy=policy, training=training, algorithm=algorithm, **sections
    )


def policy_of(trainer: Trainer) -> MultiAgentVLAPolicy:
    assert isinstance(trainer.policy, MultiAgentVLAPolicy)
    return trainer.policy


def build(config: ExperimentConfig) -> tuple[MultiAgentVLAPolicy, OpenVLAActors, Inputs]:
    """A policy and first observations for it."""
    with make_trainer(config) as trainer:
        policy = policy_of(trainer)
        trainer.collector.collect(policy)
        observations = trainer.collector.observations()
    return policy, policy.actors, observations


def collect(config: ExperimentConfig) -> tuple[MultiAgentVLAPolicy, Collection, Trainer]:
    with make_trainer(config) as trainer:
        policy = policy_of(trainer)
        return policy, trainer.collector.collect(policy), trainer


def stir(policy: MultiAgentVLAPolicy, seed: int = 0) -> None:
    """Move every trained parameter, so that nothing is zero by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.actors.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def rows_of(inputs: Inputs, index: slice) -> dict[str, Tensor]:
    return {name: tensor[index] for name, tensor in inputs.items()}
