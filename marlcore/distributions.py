"""Distributions of an action chunk: samples, log-probs, entropies, divergences; always float32.

K chunk   D action   A choices   leading dimensions [..., N] or any.
Log-probs, entropies and divergences are per low-level action, [..., K]: what was not executed is
left out by `executed` afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@runtime_checkable
class ActionDistribution(Protocol):
    """Independent over the low-level actions of a chunk."""

    def sample(self, noise: Tensor) -> Tensor:
        """Return actions [..., K, D], a function of `noise` (from `draw_noise`) alone."""
        ...

    def mode(self) -> Tensor:
        """Return the most likely actions [..., K, D]."""
        ...

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log-probs [..., K], summed over action dimensions."""
        ...

    def entropy(self) -> Tensor:
        """Return entropies [..., K]."""
        ...

    def parameters(self) -> Tensor:
        """Return what a belief holds, flat [..., B]: (mean, std), or probabilities."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Diagonal normal distribution of unsquashed actions."""

    mean: Tensor
    """[..., K, D]."""
    std: Tensor
    """[..., K, D]."""
    used: Tensor
    """[..., K, D] bool: action dimensions that exist (agents may have fewer than D)."""

    def sample(self, noise: Tensor) -> Tensor:
        """Return mu + sigma * noise, noise standard normal [..., K, D]."""
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """Return the mean."""
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """Sum over D of log N(a; mu, sigma)."""
        return gaussian_log_prob(mean=self.mean, std=self.std, actions=actions, used=self.used)

    def entropy(self) -> Tensor:
        """Sum over D of 0.5 log(2 pi e sigma^2)."""
        per_dimension = self.std.log() + (0.5 + _HALF_LOG_2PI)
        return torch.where(self.used, per_dimension, 0.0).sum(-1)

    def parameters(self) -> Tensor:
        """All means, then all standard deviations: [..., 2 K D]."""
        return torch.cat([self.mean.flatten(-2), self.std.flatten(-2)], dim=-1)


@dataclass(frozen=True)
class Categorical:
    """One choice per low-level action."""

    logits: Tensor
    """[..., K, A], normalised: log-probabilities; -inf never, but very low where no choice is."""

    @classmethod
    def from_logits(cls, logits: Tensor, used: Tensor) -> Categorical:
        """Normalise; `used` [..., K, A] bool tells the choices that exist."""
        return cls(torch.where(used, logits.float(), -1e9).log_softmax(-1))

    def sample(self, noise: Tensor) -> Tensor:
        """Argmax of logits plus Gumbel noise [..., K, A]: one index, int64 [..., K, 1]."""
        return (self.logits + noise).argmax(-1, keepdim=True)

    def mode(self) -> Tensor:
        """Return the most likely index."""
        return self.logits.argmax(-1, keepdim=True)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of the index."""
        return self.logits.gather(-1, actions).squeeze(-1)

    def entropy(self) -> Tensor:
        """- sum p log p."""
        return -(self.logits.exp() * self.logits).sum(-1)

    def parameters(self) -> Tensor:
        """Probabilities, flat: [..., K A]."""
        return self.logits.exp().flatten(-2)


def gaussian_log_prob(
    *,
    mean: Float[Tensor, "*rows K D"],
    std: Float[Tensor, "*rows K D"],
    actions: Float[Tensor, "*rows K D"],
    used: Bool[Tensor, "*#rows K D"],
) -> Float[Tensor, "*rows K"]:
    """Sum over D of -((a - mu) / sigma)^2 / 2 - log sigma - log(2 pi) / 2."""
    per_dimension = -0.5 * ((actions - mean) / std).square() - std.log() - _HALF_LOG_2PI
    return torch.where(used, per_dimension, 0.0).sum(-1)


def kl_divergence(p: ActionDistribution, q: ActionDistribution) -> Tensor:
    """KL(p || q) of each low-level action, [..., K]; both of one kind."""
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        ratio = (p.std / q.std).square()
        shift = ((p.mean - q.mean) / q.std).square()
        return torch.where(p.used, 0.5 * (ratio + shift - 1 - ratio.log()), 0.0).sum(-1)
    assert isinstance(p, Categorical)
    assert isinstance(q, Categorical)
    return (p.logits.exp() * (p.logits - q.logits)).sum(-1)


def executed(
    per_action: Float[Tensor, "*rows K"], executed_length: Tensor
) -> Float[Tensor, "*rows K"]:
    """Zero what was not executed: per_action [..., K], executed_length [...]."""
    return per_action * executed_mask(per_action.shape[-1], executed_length)


def executed_mask(chunk_length: int, executed_length: Tensor) -> Bool[Tensor, "*rows K"]:
    """Return [..., K] bool: k < executed_length."""
    return torch.arange(chunk_length, device=executed_length.device) < executed_length.unsqueeze(-1)
