"""MAPPO: one critic on the global state, the team's advantage for every agent. arXiv 2103.01955."""

from __future__ import annotations

from marlcore.advantages import gae
from marlcore.policies.build import PolicyNeeds
from marlcore.types import Rollout, Targets


class MAPPO:
    """GAE with the central critic."""

    def __init__(self, *, gamma: float, gae_lambda: float) -> None:
        self._gamma, self._gae_lambda = gamma, gae_lambda

    @property
    def needs(self) -> PolicyNeeds:
        """One critic, no beliefs."""
        return PolicyNeeds(critic_per_agent=False)

    def targets(self, rollout: Rollout) -> Targets:
        """A_t from V(s_t); the same for every agent."""
        values_TE, next_values_TE = rollout.values[..., 0], rollout.next_values[..., 0]
        advantages_TE = gae(
            **rollout.credit(),
            values=values_TE,
            next_values=next_values_TE,
            gamma=self._gamma,
            gae_lambda=self._gae_lambda,
        )
        return Targets(
            advantages=advantages_TE.unsqueeze(-1).expand_as(rollout.executed_length),
            value_targets=(advantages_TE + values_TE).unsqueeze(-1),
        )

    def resolved(self) -> dict[str, float]:
        """Return the discount of a decision."""
        return {"gamma": self._gamma}
