"""OpenVLA-OFT actors: the one place that imports transformers, peft and tokenizers."""

from marlcore.policies.openvla.actors import OpenVLAActors
from marlcore.policies.openvla.build import build_actors, pretrained
from marlcore.policies.openvla.checkpoint import open_checkpoint
from marlcore.policies.openvla.export import export_actors
from marlcore.policies.openvla.policy import MultiAgentVLAPolicy
from marlcore.policies.openvla.tiny import make_tiny_checkpoint, random_model

__all__ = [
    "MultiAgentVLAPolicy",
    "OpenVLAActors",
    "build_actors",
    "export_actors",
    "make_tiny_checkpoint",
    "open_checkpoint",
    "pretrained",
    "random_model",
]
