"""The losses of proximal policy optimisation: pure functions from tensors to per-row tensors.

B rows   any trailing shape.   PPO: arXiv 1707.06347.   The mean over active rows is the caller's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def clipped_policy_loss(
    *,
    log_probs: Float[Tensor, "*rows"],
    old_log_probs: Float[Tensor, "*rows"],
    advantages: Float[Tensor, "*rows"],
    clip_epsilon: float,
) -> Float[Tensor, "*rows"]:
    """Negative clipped surrogate of each row (PPO eq. 7), in units of the advantage.

    r(theta) = pi(a|o) / pi_old(a|o)
    L        = -min(r A, clip(r, 1 - eps, 1 + eps) A)
    """
    ratio = (log_probs - old_log_probs).exp()  # r(theta)
    clipped = ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon)
    return -torch.min(ratio * advantages, clipped * advantages)


def value_loss(
    *,
    values: Float[Tensor, "*rows"],
    old_values: Float[Tensor, "*rows"],
    value_targets: Float[Tensor, "*rows"],
    value_clip: float | None,
    huber_delta: float | None,
) -> Float[Tensor, "*rows"]:
    """Half the squared error of each row (or Huber's), clipped pessimistically on request.

    l(v)  = 0.5 (v - R)^2,  or  delta (|v - R| - delta / 2) where |v - R| > delta
    L     = l(V),  or  max(l(V), l(V_old + clip(V - V_old, -c, c)))
    """
    loss = _half_square(values - value_targets, huber_delta)
    if value_clip is None:
        return loss
    clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
    return torch.max(loss, _half_square(clipped - value_targets, huber_delta))


def _half_square(error: Tensor, huber_delta: float | None) -> Tensor:
    if huber_delta is None:
        return 0.5 * error.square()
    return torch.nn.functional.huber_loss(
        error, torch.zeros_like(error), reduction="none", delta=huber_delta
    )


def approximate_kl(log_ratio: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """Estimate KL(old || new) of each row without bias and never below zero: r - 1 - log r."""
    return log_ratio.expm1() - log_ratio


def explained_variance(
    *, values: Float[Tensor, "*rows"], value_targets: Float[Tensor, "*rows"]
) -> Float[Tensor, ""]:
    """1 - Var(R - V) / Var(R): 1 is perfect, 0 no better than the mean; NaN if R is constant."""
    variance = value_targets.var(correction=0)
    return torch.where(
        variance > 0, 1 - (value_targets - values).var(correction=0) / variance, torch.nan
    )
