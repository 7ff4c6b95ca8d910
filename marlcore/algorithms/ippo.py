"""Independent PPO: every agent with a critic on its own observation. arXiv 2011.09533."""

from __future__ import annotations

from marlcore.advantages import gae_per_agent
from marlcore.policies.build import PolicyNeeds
from marlcore.types import Rollout, Targets


class IPPO:
    """GAE for each agent by itself."""

    def __init__(self, *, gamma: float, gae_lambda: float) -> None:
        self._gamma, self._gae_lambda = gamma, gae_lambda

    @property
    def needs(self) -> PolicyNeeds:
        """A critic per agent on its own observation, no beliefs."""
        return PolicyNeeds(critic_per_agent=True, own_observation=True)

    def targets(self, rollout: Rollout) -> Targets:
        """A_t^(i) from V^(i)(o_t^(i))."""
        advantages = gae_per_agent(
            **rollout.credit(),
            values=rollout.values,
            next_values=rollout.next_values,
            gamma=self._gamma,
            gae_lambda=self._gae_lambda,
        )
        return Targets(advantages=advantages, value_targets=advantages + rollout.values)

    def resolved(self) -> dict[str, float]:
        """Return the discount of a decision."""
        return {"gamma": self._gamma}
