"""Policies: actors, beliefs and critics of all agents behind one protocol."""

from marlcore.policies.critics import CentralizedValueNetwork, LightweightCentralizedCritic
from marlcore.policies.policy import MultiAgentPolicy
from marlcore.policies.protocol import Actors, Policy

__all__ = [
    "Actors",
    "CentralizedValueNetwork",
    "LightweightCentralizedCritic",
    "MultiAgentPolicy",
    "Policy",
]
