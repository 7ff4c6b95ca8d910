"""Critics: one for the team, or one per agent, on the state, on proprio, or on what an agent sees.

E environments   N agents   C critics   H history   S state   P proprio   F features of a critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from marlcore.policies.networks import AgentMLP
from marlcore.policies.protocol import Actors
from marlcore.statistics import RunningMoments
from marlcore.types import Inputs

CriticSource = Literal["state", "proprio", "own", "hidden"]
"""What critics read: the global state, all arms' proprio, each agent's own features, or what the
actors' pass left for them."""


class CentralizedValueNetwork(nn.Module):
    """A perceptron per critic on the whole state, and on a belief where there is one."""

    def __init__(
        self,
        *,
        feature_size: int,
        num_critics: int,
        hidden_sizes: Sequence[int],
        activation: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._num_critics = num_critics
        self.network = AgentMLP(
            num_groups=num_critics,
            sizes=(feature_size, *hidden_sizes, 1),
            activation=activation,
            output_gain=1.0,
            generator=generator,
        )

    def forward(self, features_ECF: Tensor) -> Tensor:
        """Map features [E, C, F] to values [E, C]."""
        return self.network(features_ECF, range(self._num_critics)).squeeze(-1)


class LightweightCentralizedCritic(nn.Module):
    """All arms' proprio, layer-normalised, one hidden layer: nothing beside a large actor."""

    def __init__(
        self, *, feature_size: int, num_critics: int, hidden_size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_size)
        self.head = CentralizedValueNetwork(
            feature_size=feature_size,
            num_critics=num_critics,
            hidden_sizes=(hidden_size,),
            activation="relu",
            generator=generator,
        )

    def forward(self, features_ECF: Tensor) -> Tensor:
        """Map features [E, C, F] to values [E, C]."""
        return self.head(self.norm(features_ECF))


class Critics(nn.Module):
    """V^(c)(x, b^(c)): reads a source, normalises it by running moments, appends beliefs.

    Args:
        network: [E, C, F] -> [E, C].
        source: what the critics read.
        shape: shape of one observation of the source, without H: (S,) or (N, P); () for the others.
        num_critics: C, 1 or N.
        uses_beliefs: whether critic i also reads agent i's belief; needs C = N.
        normalise: whether the source is normalised ("own" and "hidden" are never).
        clip: bound of a normalised entry.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        source: CriticSource,
        shape: tuple[int, ...],
        num_critics: int,
        uses_beliefs: bool,
        normalise: bool,
        clip: float,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_critics = num_critics
        self.source: CriticSource = source
        self._uses_beliefs, self._normalise, self._clip = uses_beliefs, normalise, clip
        self.moments = RunningMoments(shape)

    def encode(self, observations: Inputs) -> Inputs:
        """Return what `forward` reads of them: state [E, H, S] or proprio [E, N, H, P]."""
        return {self.source: observations[self.source]} if self._observes else {}

    def forward(self, inputs: Inputs, actors: Actors, beliefs: Tensor | None) -> Tensor:
        """Return V [E, C] in the critics' unit. No gradient reaches the actors."""
        if self.source == "own":
            features_ECF = actors.features(inputs).detach()
        elif self.source == "hidden":
            hidden_ENF = inputs["hidden"]
            central = self.num_critics == 1
            features_ECF = hidden_ENF.flatten(1).unsqueeze(1) if central else hidden_ENF
        else:
            features_EF = self._normalised(inputs[self.source]).flatten(1)
            features_ECF = features_EF.unsqueeze(1).expand(-1, self.num_critics, -1)
        if self._uses_beliefs:
            assert beliefs is not None
            features_ECF = torch.cat([features_ECF, beliefs], dim=-1)
        return self.network(features_ECF)

    @torch.no_grad()
    def update_moments(self, inputs: Inputs) -> None:
        """Fold the newest observations of decisions [R, ...] into the moments."""
        if self._normalise and self._observes:
            self.moments.update(inputs[self.source].select(-2, 0))

    @property
    def _observes(self) -> bool:
        return self.source in ("state", "proprio")

    def _normalised(self, x: Tensor) -> Tensor:
        if not self._normalise:
            return x
        if self.source == "state":
            return self.moments.normalise(x, self._clip)
        swapped = x.transpose(1, 2)  # [E, H, N, P]: moments are [N, P]
        return self.moments.normalise(swapped, self._clip).transpose(1, 2)
