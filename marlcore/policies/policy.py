"""The joint policy: actors, beliefs and critics of all agents, composed.

E environments   N agents   K chunk   C critics (1 for the team, or N).
"""

from __future__ import annotations

import torch
from torch import Tensor

from marlcore.policies.beliefs import LearnedBeliefs
from marlcore.policies.critics import Critics
from marlcore.policies.protocol import Actors, Beliefs, Policy
from marlcore.rng import NoiseSource
from marlcore.statistics import RunningMoments
from marlcore.types import Decision, Evaluation, Inputs, Rollout


class MultiAgentPolicy(Policy):
    """Composes what a `Policy` is; every part is exchangeable, none knows the algorithm.

    Args:
        actors: of all agents.
        critics: one or N.
        beliefs: what agents know of each other's actions; None: nothing.
        gradient_into_beliefs: recompute beliefs in the update, with gradient (an ablation).
        notes: lines for people: what was loaded and what it takes.
    """

    def __init__(
        self,
        *,
        actors: Actors,
        critics: Critics,
        beliefs: Beliefs | None,
        gradient_into_beliefs: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.notes, self.rounds_by_batch = notes, actors.rounds_by_batch
        self.actors = actors
        self.critics = critics
        self.beliefs = beliefs
        self.value_moments = RunningMoments((critics.num_critics,))
        self._gradient_into_beliefs = gradient_into_beliefs

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Those of learned beliefs."""
        learned = self.beliefs
        return {"beliefs": learned.optimiser} if isinstance(learned, LearnedBeliefs) else {}

    @torch.no_grad()
    def decide(self, observations: Inputs, noise: NoiseSource | None) -> Decision:
        """Choose for E environments; the mode where noise is None."""
        inputs = self._remember(observations)
        beliefs = inputs.get("beliefs")
        distribution, seen = self.actors.act(inputs, beliefs)
        inputs = {**inputs, **seen}
        actions = distribution.mode()
        if noise is not None:
            drawn = self.actors.layout.draw_noise(noise, actions.shape[0])
            actions = distribution.sample(drawn.to(actions.device))
        return Decision(
            inputs=inputs,
            actions=actions,
            log_probs=distribution.log_prob(actions),
            values=self.value_moments.denormalise(self._values(inputs, beliefs)),
        )

    @torch.no_grad()
    def values(self, observations: Inputs) -> Tensor:
        """Return V [E, C]; critics that read beliefs are given those of these observations."""
        if self.beliefs is None and self.critics.source in ("state", "proprio"):
            return self.value_moments.denormalise(
                self._values(self.critics.encode(observations), None)
            )
        inputs = self._remember(observations)
        beliefs = inputs.get("beliefs")
        if self.critics.source == "hidden":
            inputs = {**inputs, **self.actors.act(inputs, beliefs)[1]}
        return self.value_moments.denormalise(self._values(inputs, beliefs))

    def evaluate(self, inputs: Inputs, actions: Tensor) -> Evaluation:
        """Recompute log-probs, entropies and values; beliefs are those the agents had."""
        beliefs = inputs.get("beliefs")
        if self.beliefs is not None and self._gradient_into_beliefs:
            beliefs = self.beliefs.compute(self.actors, inputs)
        distribution, _ = self.actors.act(inputs, beliefs)
        return Evaluation(
            log_probs=distribution.log_prob(actions),
            entropy=distribution.entropy(),
            values=self._values(inputs, inputs.get("beliefs")),
        )

    def microbatch_size(self, inputs: Inputs, asked: int | None) -> int:
        """What the actors can take, estimates with gradient included."""
        observers = self.actors.layout.num_agents - 1
        estimates = observers * (observers + 1) // 2 if self._gradient_into_beliefs else 0
        return self.actors.microbatch_size(inputs, asked, estimates)

    def after_update(self, rollout: Rollout) -> dict[str, float]:
        """Let beliefs learn, then move the observation moments on."""
        metrics = self.beliefs.learn(self.actors, rollout) if self.beliefs is not None else {}
        complete = rollout.complete_inputs()
        self.actors.update_moments(complete)
        self.critics.update_moments(complete)
        return metrics

    def _remember(self, observations: Inputs) -> Inputs:
        inputs = {**self.actors.encode(observations), **self.critics.encode(observations)}
        if self.beliefs is not None:
            inputs["beliefs"] = self.beliefs.compute(self.actors, inputs)
        return inputs

    def _values(self, inputs: Inputs, beliefs: Tensor | None) -> Tensor:
        return self.critics(inputs, self.actors, beliefs)
