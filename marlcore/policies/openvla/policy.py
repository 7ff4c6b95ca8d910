# pyright: basic
"""The joint policy of VLA agents: what `MultiAgentPolicy` is, under OpenVLA's and HARL's names.

E environments   N agents   K chunk   D action   C critics   B minibatch rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marlcore.distributions import ActionDistribution
from marlcore.policies.beliefs import no_beliefs
from marlcore.policies.openvla.actors import OpenVLAActors
from marlcore.policies.openvla.heads import ProprioProjector
from marlcore.policies.policy import MultiAgentPolicy
from marlcore.policies.protocol import Policy
from marlcore.rng import NoiseSource
from marlcore.statistics import RunningMoments
from marlcore.types import Decision, Evaluation, Inputs, Rollout


class MultiAgentVLAPolicy(Policy):
    """Wraps a joint policy whose actors are OpenVLA's. What is trained is what it wraps.

    Args:
        joint: actors, beliefs and critics.
        actors: those of `joint`.
    """

    def __init__(self, joint: MultiAgentPolicy, actors: OpenVLAActors) -> None:
        super().__init__()
        assert joint.actors is actors
        self.joint = joint
        self.notes, self.rounds_by_batch = joint.notes, joint.rounds_by_batch

    @property
    def actors(self) -> OpenVLAActors:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Parameters that the policy loss trains."""
        assert isinstance(self.joint.actors, OpenVLAActors)
        return self.joint.actors

    @property
    def critics(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """Parameters that the value loss trains."""
        return self.joint.critics

    @property
    def value_moments(self) -> RunningMoments:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Moments [C] of value targets."""
        return self.joint.value_moments

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Those of learned beliefs."""
        return self.joint.optimisers

    def get_actions(self, observations: Inputs, noise: NoiseSource | None = None) -> Tensor:
        """Return actions [E, N, K, D]; the mode where noise is None."""
        return self.joint.decide(observations, noise).actions

    def get_actions_and_values(
        self, observations: Inputs, noise: NoiseSource | None = None
    ) -> Decision:
        """Return actions with log-probs [E, N, K], values [E, C] and what was seen, to be kept."""
        return self.joint.decide(observations, noise)

    def evaluate_actions(self, inputs: Inputs, actions: Tensor) -> Evaluation:
        """Return log-probs, entropies and values, with gradient, of what was kept: B rows.

        Args:
            inputs: of `get_actions_and_values`; the belief in them is used as it was.
            actions: [B, N, K, D].
        """
        return self.joint.evaluate(inputs, actions)

    @torch.no_grad()
    def estimate_agent0_action_dist(self, inputs: Inputs) -> ActionDistribution:
        """Return what agent 1 takes agent 0's distribution [E, 1, K, D] to be.

        Agent 0's policy and prompt on [front_t, black, front_t-1, black], and on proprio zero
        unless `share_proprio`: nothing that agent 1 does not see.

        Args:
            inputs: from `actors.encode`, of all agents.
        """
        beliefs = None
        if self.joint.beliefs is not None:
            beliefs = no_beliefs(self.actors.layout, inputs["proprio"])
        return self.actors.distribution(inputs, beliefs, agents=[0], observer=1)

    @property
    def proprio_projector_extended(self) -> ProprioProjector:
        """The proprio projector of agent 1 in a chain, which reads its belief as well.

        Raises:
            ValueError: if the agents are not chained.
        """
        if not len(self.actors.proprio_projectors_extended):
            raise ValueError(
                "agents without beliefs have no extended projector; build with ACPPO's needs"
            )
        projector = self.actors.proprio_projectors_extended[0]
        assert isinstance(projector, ProprioProjector)
        return projector

    def decide(self, observations: Inputs, noise: NoiseSource | None) -> Decision:
        """See `Policy`."""
        return self.joint.decide(observations, noise)

    def values(self, observations: Inputs) -> Tensor:
        """See `Policy`."""
        return self.joint.values(observations)

    def evaluate(self, inputs: Inputs, actions: Tensor) -> Evaluation:
        """See `Policy`."""
        return self.joint.evaluate(inputs, actions)

    def after_update(self, rollout: Rollout) -> dict[str, float]:
        """See `Policy`."""
        return self.joint.after_update(rollout)

    def microbatch_size(self, inputs: Inputs, asked: int | None) -> int:
        """See `Policy`."""
        return self.joint.microbatch_size(inputs, asked)
