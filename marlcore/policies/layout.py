"""Shapes of the agents' action chunks, and the way from network outputs to distributions.

N agents   K chunk   D action dimensions   A choices   B numbers of one agent's parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marlcore.distributions import ActionDistribution, Categorical, Gaussian
from marlcore.envs.protocol import ActionSpec
from marlcore.rng import NoiseSource


@dataclass(frozen=True)
class Kept:
    """How much of what actors compute a rollout keeps."""

    num_observations: int
    """Observations of all agents: of decisions, ends of episodes and the history before."""
    num_envs: int
    """E: environments that decide at once."""


@dataclass(frozen=True)
class ChunkLayout:
    """Action chunks of N agents, padded to the widest agent."""

    actions: ActionSpec
    chunk_length: int

    @property
    def num_agents(self) -> int:
        """N."""
        return len(self.actions.sizes)

    @property
    def width(self) -> int:
        """Numbers a network gives per low-level action: D means, or A logits."""
        return max(self.actions.sizes)

    @property
    def output_size(self) -> int:
        """Numbers a network gives per agent: K * width."""
        return self.chunk_length * self.width

    @property
    def belief_size(self) -> int:
        """B: 2 K D (means and standard deviations), or K A probabilities."""
        return self.output_size * (2 if self.actions.kind == "continuous" else 1)

    def draw_noise(self, source: NoiseSource, num_envs: int) -> Tensor:
        """Return [E, N, K, width] noise for `sample`."""
        draw = source.normal if self.actions.kind == "continuous" else source.gumbel
        return draw(num_envs, self.num_agents, self.chunk_length, self.width)

    def used(self, agents: Sequence[int], device: torch.device) -> Tensor:
        """[n, 1, width] bool: dimensions or choices that exist for each agent."""
        return _used(tuple(self.actions.sizes[i] for i in agents), self.width, device)

    def from_outputs(
        self, outputs: Tensor, log_std: Tensor, *, agents: Sequence[int]
    ) -> ActionDistribution:
        """Make distributions of network outputs [..., n, K * width] and log_std [n, width]."""
        if self.actions.kind == "discrete":
            return self._categorical(outputs.float(), agents)
        mean = torch.unflatten(outputs.float(), -1, (self.chunk_length, self.width))
        return self._gaussian(mean, log_std.float().exp().unsqueeze(-2), agents)

    def from_raw(self, raw: Tensor, *, agents: Sequence[int]) -> ActionDistribution:
        """Make distributions of unbounded numbers [..., n, B]: (mean, log std), or logits."""
        if self.actions.kind == "discrete":
            return self._categorical(raw, agents)
        mean, log_std = self._halves(raw)
        return self._gaussian(mean, log_std.clamp(-5.0, 2.0).exp(), agents)

    def from_parameters(self, parameters: Tensor, *, agents: Sequence[int]) -> ActionDistribution:
        """Rebuild the distributions [..., n, K, width] of parameters [..., n, B]."""
        if self.actions.kind == "discrete":
            return self._categorical(parameters.clamp(min=1e-30).log(), agents)
        return self._gaussian(*self._halves(parameters), agents)

    def _halves(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        halves = torch.unflatten(parameters, -1, (2, self.chunk_length, self.width))
        first, second = halves.unbind(-3)
        return first, second

    def _gaussian(self, mean: Tensor, std: Tensor, agents: Sequence[int]) -> Gaussian:
        used = self.used(agents, mean.device).expand_as(mean)
        return Gaussian(mean=mean, std=std.expand_as(mean), used=used)

    def _categorical(self, logits: Tensor, agents: Sequence[int]) -> Categorical:
        logits = torch.unflatten(logits, -1, (self.chunk_length, self.width))
        return Categorical.from_logits(logits, self.used(agents, logits.device))


@functools.lru_cache(maxsize=64)
def _used(sizes: tuple[int, ...], width: int, device: torch.device) -> Tensor:
    wanted = torch.tensor(sizes, device=device).unsqueeze(-1)
    return (torch.arange(width, device=device) < wanted).unsqueeze(1)
