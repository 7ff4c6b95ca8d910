"""One path for one process or many: sums, means and barriers that are the identity when alone.

Processes are those of torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT); gloo on
CPUs, nccl on GPUs. Nothing else in the library asks which rank it is.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

_T = TypeVar("_T")


@contextmanager
def process_group(device: torch.device, *, timeout_s: float = 600.0) -> Generator[None]:
    """Join the processes that torchrun started; nothing happens where there is one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield
    finally:
        dist.destroy_process_group()


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _active() else 1


def is_main() -> bool:
    """Whether this process writes the record."""
    return rank() == 0


def barrier() -> None:
    """Wait for every process."""
    if _active():
        dist.barrier()


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of every process's `x`; a new tensor unless alone."""
    if not _active():
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def any_over_ranks(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on some process."""
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device)) > 0)


def gather_objects(value: _T) -> list[_T]:
    """Return every process's `value`, by rank. For small records (finished episodes)."""
    if not _active():
        return [value]
    values: list[_T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast(list[_T], values)  # every place is filled now


def sum_gradients(module: nn.Module) -> None:
    """Replace every gradient by its sum over processes, in one message."""
    if not _active():
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    totals = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, totals, strict=True):
        gradient.copy_(total.view_as(gradient))
