"""ACPPO, agent-chained PPO: beliefs, per-agent critics, advantages over microsteps.

arXiv 2606.30072. Its two ablations keep one half each: `belief_only` beliefs with plain GAE,
`gae_only` microstep advantages without beliefs.
"""

from __future__ import annotations

from marlcore.advantages import gae_per_agent, microstep_gae
from marlcore.policies.build import PolicyNeeds
from marlcore.types import Rollout, Targets


class ACPPO:
    """Credit along the chain of agents within a decision.

    Args:
        needs: critics and beliefs.
        gamma_prime: discount of a microstep; that of a decision is gamma_prime ** N.
        lambda_prime: weight of longer returns, per microstep.
        plain_gae: (gamma, gae_lambda) of the ablation without microsteps; None: microsteps.
        num_agents: N.
    """

    def __init__(
        self,
        *,
        needs: PolicyNeeds,
        gamma_prime: float,
        lambda_prime: float,
        plain_gae: tuple[float, float] | None,
        num_agents: int,
    ) -> None:
        self._needs = needs
        self._gamma_prime, self._lambda_prime = gamma_prime, lambda_prime
        self._plain_gae = plain_gae
        self._num_agents = num_agents

    @property
    def needs(self) -> PolicyNeeds:
        """A critic per agent on the state and the agent's belief."""
        return self._needs

    def targets(self, rollout: Rollout) -> Targets:
        """A_t^(i) from V^(i)(s_t, b_t^(i)), chained over agents."""
        if self._plain_gae is None:
            advantages = microstep_gae(
                **rollout.credit(),
                values=rollout.values,
                next_values=rollout.next_values[..., 0],
                gamma_prime=self._gamma_prime,
                lambda_prime=self._lambda_prime,
            )
        else:
            gamma, gae_lambda = self._plain_gae
            advantages = gae_per_agent(
                **rollout.credit(),
                values=rollout.values,
                next_values=rollout.next_values,
                gamma=gamma,
                gae_lambda=gae_lambda,
            )
        return Targets(advantages=advantages, value_targets=advantages + rollout.values)

    def resolved(self) -> dict[str, float]:
        """Return gamma', the discount of a decision that follows from it, and lambda'."""
        if self._plain_gae is not None:
            return {"gamma": self._plain_gae[0]}
        return {
            "gamma_prime": self._gamma_prime,
            "decision_discount": self._gamma_prime**self._num_agents,
            "lambda_prime": self._lambda_prime,
        }


def per_microstep(given: float | None, of_decision: float, *, num_agents: int) -> float:
    """Return gamma' or lambda' as given; null: that of a decision ** (1/N), the papers' choice."""
    return of_decision ** (1 / num_agents) if given is None else given
