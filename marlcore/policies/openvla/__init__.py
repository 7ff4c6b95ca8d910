"""OpenVLA-OFT actors: the one place that imports transformers, peft and tokenizers."""

from marlcore.policies.openvla.actors import OpenVLAActors
from marlcore.policies.openvla.build import build_actors
from marlcore.policies.openvla.policy import MultiAgentVLAPolicy
from marlcore.policies.openvla.tiny import make_tiny_checkpoint, random_model

__all__ = [
    "MultiAgentVLAPolicy",
    "OpenVLAActors",
    "build_actors",
    "make_tiny_checkpoint",
    "random_model",
]
