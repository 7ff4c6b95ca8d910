"""From an algorithm's configuration to the algorithm."""

from __future__ import annotations

from marlcore.algorithms.acppo import ACPPO, per_microstep
from marlcore.algorithms.ippo import IPPO
from marlcore.algorithms.mappo import MAPPO
from marlcore.algorithms.protocol import Algorithm
from marlcore.config import ACPPOConfig, AlgorithmConfig, MAPPOConfig
from marlcore.policies.build import PolicyNeeds


def build_algorithm(config: AlgorithmConfig, *, num_agents: int) -> Algorithm:
    """Build the algorithm that `config` describes for `num_agents` agents."""
    if isinstance(config, MAPPOConfig):
        return MAPPO(gamma=config.gamma, gae_lambda=config.gae_lambda)
    if isinstance(config, ACPPOConfig):
        return _acppo(config, num_agents)
    return IPPO(gamma=config.gamma, gae_lambda=config.gae_lambda)


def _acppo(config: ACPPOConfig, num_agents: int) -> ACPPO:
    plain = config.ablation == "belief_only"
    return ACPPO(
        needs=PolicyNeeds(
            critic_per_agent=True,
            belief=None if config.ablation == "gae_only" else config.belief,
            belief_lr=config.belief_lr,
            gradient_into_beliefs=not config.detach_action_dist_grad,
        ),
        gamma_prime=per_microstep(config.gamma_prime, config.gamma, num_agents=num_agents),
        lambda_prime=per_microstep(config.lambda_prime, config.gae_lambda, num_agents=num_agents),
        plain_gae=(config.gamma, config.gae_lambda) if plain else None,
        num_agents=num_agents,
    )
