"""The records that pass between collector, buffer, algorithm and update.

T decisions   E environments   N agents   K chunk   D action   C critics (1 central, or N)
B minibatch rows. Everything a policy needs to recompute a decision travels in `inputs`, arrays by
name whose meaning is the policy's own (observations, beliefs, cached features).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Inputs = dict[str, Tensor]


def to_tensors(arrays: Mapping[str, NDArray[np.generic]], device: torch.device) -> Inputs:
    """Put arrays by name on a device, without a copy where they are there already."""
    return {name: torch.as_tensor(array).to(device) for name, array in arrays.items()}


@dataclass(frozen=True)
class Decision:
    """What a policy chose for E environments at once, and what it must remember of it."""

    inputs: Inputs
    """[E, ...] each: what `evaluate` needs to recompute log-probs and values; beliefs included."""
    actions: Tensor
    """[E, N, K, D] as sampled, before any clipping."""
    log_probs: Tensor
    """[E, N, K] of each low-level action, summed over action dimensions; float32."""
    values: Tensor
    """[E, C]; float32."""


@dataclass(frozen=True)
class Step:
    """One decision of E environments and its outcome: a row of the buffer."""

    inputs: Inputs
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    """[E] team reward of the decision."""
    next_values: Tensor
    """[E, C]: V of the true successor, read before any reset. For a chain only C = 0 counts."""
    terminated: Tensor
    """[E] bool."""
    episode_ended: Tensor
    """[E] bool: terminated or truncated by this decision."""
    executed_length: Tensor
    """[E, N]: low-level actions that ran and counted; 0 takes the row out of every loss."""


@dataclass(frozen=True)
class Rollout:
    """T Steps stacked: every field of Step with T in front."""

    inputs: Inputs
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    next_values: Tensor
    terminated: Tensor
    episode_ended: Tensor
    executed_length: Tensor

    @property
    def active(self) -> Tensor:
        """[T, E, N] bool: decisions that count for agent n."""
        return self.executed_length > 0

    def complete_inputs(self) -> Inputs:
        """Return the inputs [R, ...] of the decisions that counted for every agent."""
        complete = self.active.all(-1)
        return {name: tensor[complete] for name, tensor in self.inputs.items()}

    def credit(self) -> dict[str, Tensor]:
        """Return the arguments that all advantage estimators share."""
        return {
            "rewards": self.rewards,
            "terminated": self.terminated,
            "episode_ended": self.episode_ended,
        }


@dataclass(frozen=True)
class Targets:
    """What an algorithm makes of a rollout."""

    advantages: Tensor
    """[T, E, N], not normalised."""
    value_targets: Tensor
    """[T, E, C]."""


@dataclass(frozen=True)
class Minibatch:
    """B rows of a rollout with their targets."""

    inputs: Inputs
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    executed_length: Tensor
    advantages: Tensor
    value_targets: Tensor

    def split(self, size: int) -> list[Minibatch]:
        """Split into microbatches of at most `size` rows."""
        starts = range(0, self.actions.shape[0], size)
        return [self.rows(slice(start, start + size)) for start in starts]

    def rows(self, index: slice | Tensor) -> Minibatch:
        """Return some rows."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "inputs"}
        picked = {name: tensor[index] for name, tensor in tensors.items()}
        return Minibatch(inputs={k: v[index] for k, v in self.inputs.items()}, **picked)


@dataclass(frozen=True)
class Evaluation:
    """What the current policy says of stored decisions."""

    log_probs: Tensor
    """[B, N, K] of each low-level action."""
    entropy: Tensor
    """[B, N, K]."""
    values: Tensor
    """[B, C], in the critic's own unit (normalised, where values are)."""
