"""Preallocated storage of one rollout, and the minibatches of an update.

T decisions   E environments   B rows = T*E, joint over agents: a row holds all N agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor

from marlcore.types import Inputs, Minibatch, Rollout, Step, Targets


class Buffer:
    """T rows, allocated when the first arrives and overwritten by the next rollout."""

    def __init__(self, num_steps: int, num_envs: int) -> None:
        self._num_steps, self._num_envs = num_steps, num_envs
        self._size = 0
        self._tensors: Inputs = {}
        self._inputs: Inputs = {}

    def append(self, step: Step, group: slice) -> None:
        """Store some environments' part of the next row; the last environments' completes it.

        Too many rows are an error.
        """
        assert self._size < self._num_steps, f"rollout is full ({self._num_steps} rows)"
        tensors = {f.name: getattr(step, f.name) for f in fields(step) if f.name != "inputs"}
        self._store(self._tensors, tensors, group)
        self._store(self._inputs, step.inputs, group)
        self._size += group.stop == self._num_envs

    def cut_before(self, environments: Tensor, group: slice) -> None:
        """End the episodes of `environments` at the last row, which keeps its bootstrap.

        For episodes that are void from the coming row on: what came before is good data still.

        Args:
            environments: bool, of the group.
            group: which of E.
        """
        if self._size > 0:
            self._tensors["episode_ended"][self._size - 1, group] |= environments

    def rollout(self, *, bootstrap: Tensor) -> Rollout:
        """Return the full rollout and start anew; valid until the next append.

        Args:
            bootstrap: [E, C] values of the observation after the last row.
        """
        assert self._size == self._num_steps, f"{self._size} of {self._num_steps} rows"
        self._size = 0
        successors = torch.cat([self._tensors["values"][1:], bootstrap.unsqueeze(0)])
        ended = self._tensors["episode_ended"].unsqueeze(-1)
        own = self._tensors["next_values"]  # of true successors; NaN where the episode went on
        next_values = torch.where(ended & ~own.isnan(), own, successors)
        return Rollout(inputs=self._inputs, **{**self._tensors, "next_values": next_values})

    def _store(self, storage: Inputs, part: Inputs, group: slice) -> None:
        for name, tensor in part.items():
            if name not in storage:
                shape = (self._num_steps, self._num_envs, *tensor.shape[1:])
                storage[name] = tensor.new_empty(shape)
            storage[name][self._size, group] = tensor


def minibatches(
    rollout: Rollout,
    targets: Targets,
    *,
    num_minibatches: int,
    order: Tensor,
) -> Iterator[Minibatch]:
    """Yield the rows T*E in equal parts, `order` [T*E] telling which come when: one epoch."""

    def flat(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1)

    everything = Minibatch(
        inputs={name: flat(tensor) for name, tensor in rollout.inputs.items()},
        actions=flat(rollout.actions),
        log_probs=flat(rollout.log_probs),
        values=flat(rollout.values),
        executed_length=flat(rollout.executed_length),
        advantages=flat(targets.advantages),
        value_targets=flat(targets.value_targets),
    )
    num_rows = everything.actions.shape[0]
    if num_rows % num_minibatches:
        raise ValueError(
            f"{num_rows} rows do not split into {num_minibatches} minibatches; "
            f"set num_minibatches to a divisor of {num_rows} (decisions * environments)"
        )
    order = order.to(everything.actions.device)
    for rows in torch.split(order, num_rows // num_minibatches):
        yield everything.rows(rows)
