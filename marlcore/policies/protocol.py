"""What a policy is, from two sides: what the learner calls, and what actors and beliefs must bring.

E environments   N agents   K chunk   D action   C critics   F features
B numbers of one agent's distribution parameters. Observations and inputs are tensors by name
(`envs.protocol.Observation`, E in front); an actor may take vectors, or images, a prompt and
proprio: nothing here or below depends on which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from marlcore.distributions import ActionDistribution
from marlcore.policies.layout import ChunkLayout
from marlcore.rng import NoiseSource
from marlcore.statistics import RunningMoments
from marlcore.types import Decision, Evaluation, Inputs, Rollout

if TYPE_CHECKING:
    from marlcore.policies.critics import Critics


class Actors(nn.Module, ABC):
    """The actors of all agents."""

    layout: ChunkLayout
    """The shape of actions and of their distributions' parameters."""
    feature_size: int
    """F: numbers in `features` of one agent."""
    hidden_size: int
    """F': numbers in `hidden` of one agent; 0 where there is none."""
    rounds_by_batch: bool
    """Whether a row's log-probs differ noticeably with the size of the batch it is in."""

    @abstractmethod
    def encode(self, observations: Inputs) -> Inputs:
        """Return what `distribution` reads, [E, ...]: computed once, kept with the rollout.

        Vectors pass through; an actor with a frozen vision tower returns its features.
        """

    @abstractmethod
    def distribution(
        self,
        inputs: Inputs,
        beliefs: Tensor | None,
        *,
        agents: Sequence[int],
        observer: int | None = None,
    ) -> ActionDistribution:
        """Return the distributions [E, len(agents), K, ...] of some agents' next chunks.

        Args:
            inputs: from `encode`, of all agents.
            beliefs: [E, N, (N-1) B], of all agents; None for actors without beliefs.
            agents: whose distribution.
            observer: if given, `inputs` are reduced to what this agent can see of the others'.
        """

    @abstractmethod
    def act(self, inputs: Inputs, beliefs: Tensor | None) -> tuple[ActionDistribution, Inputs]:
        """Return everyone's distributions, and what critics may read of the same pass.

        That is `hidden` [E, N, F'] from actors that were built for critics on hidden states, and
        nothing from others. It is kept with the rollout and carries no gradient.
        """

    @abstractmethod
    def features(self, inputs: Inputs) -> Tensor:
        """Return what each agent itself observes as flat numbers [E, N, F], without beliefs."""

    @abstractmethod
    def update_moments(self, inputs: Inputs) -> None:
        """Fold the inputs of decisions [R, ...] into observation statistics, if there are any."""

    @abstractmethod
    def limit_noise(self, remaining: float) -> None:
        """Lower the bound of exploration noise, if there is one that falls; between updates.

        Args:
            remaining: share of the run still to come, in [0, 1].
        """

    @abstractmethod
    def microbatch_size(self, inputs: Inputs, asked: int | None, more_passes: int) -> int:
        """Return how many rows of a minibatch `inputs` [B, ...] go forward and backward at once.

        Args:
            inputs: of the minibatch.
            asked: what the user wants; None: all, or as many as fit into memory.
            more_passes: passes of one agent with gradient, besides everyone's.
        """


class Beliefs(nn.Module, ABC):
    """A source of beliefs: what agent i knows of agents j < i in the same decision."""

    @abstractmethod
    def compute(self, actors: Actors, inputs: Inputs) -> Tensor:
        """Return [E, N, (N-1) B]; gradient flows or not as the caller's context says."""

    @abstractmethod
    def learn(self, actors: Actors, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout, if there is anything to learn; return its metrics."""


class Policy(nn.Module, ABC):
    """Actors, beliefs and critics of all agents: what collector, update and checkpoint see."""

    actors: Actors
    """Parameters that the policy loss trains."""
    critics: Critics
    """Parameters that the value loss trains."""
    value_moments: RunningMoments
    """Moments [C] of value targets; the identity unless the update feeds them."""
    rounds_by_batch: bool
    """Whether a row's log-probs differ noticeably with the size of the batch it is in."""
    notes: tuple[str, ...]
    """Lines for people: what was loaded and what it takes."""

    @property
    @abstractmethod
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers of what is not trained by PPO, for the checkpoint."""

    @abstractmethod
    def decide(self, observations: Inputs, noise: NoiseSource | None) -> Decision:
        """Choose for E environments without gradient; the mode where noise is None."""

    @abstractmethod
    def values(self, observations: Inputs) -> Tensor:
        """Return V [E, C] in units of reward without gradient, to bootstrap from."""

    @abstractmethod
    def evaluate(self, inputs: Inputs, actions: Tensor) -> Evaluation:
        """Recompute stored decisions with gradient; `inputs` of a Decision, B rows."""

    @abstractmethod
    def microbatch_size(self, inputs: Inputs, asked: int | None) -> int:
        """Return how many rows of a minibatch `inputs` [B, ...] go forward and backward at once.

        Args:
            inputs: of the minibatch.
            asked: what the user wants; None: all, or as many as fit into memory.
        """

    @abstractmethod
    def after_update(self, rollout: Rollout) -> dict[str, float]:
        """Learn what is not trained by PPO (observation moments, learned beliefs); its metrics."""
