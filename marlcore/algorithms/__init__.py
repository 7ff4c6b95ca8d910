"""Algorithms: one PPO update, and what MAPPO, ACPPO and IPPO each make of a rollout."""

from marlcore.algorithms.acppo import ACPPO
from marlcore.algorithms.build import build_algorithm
from marlcore.algorithms.ippo import IPPO
from marlcore.algorithms.mappo import MAPPO
from marlcore.algorithms.ppo import PPOUpdater
from marlcore.algorithms.protocol import Algorithm

__all__ = ["ACPPO", "IPPO", "MAPPO", "Algorithm", "PPOUpdater", "build_algorithm"]
