# pyright: basic
"""How much an update fits into the memory at hand: rows of a microbatch, measured, not guessed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor

Recompute = Literal["auto", "on", "off"]
MODES: tuple[Recompute, ...] = ("auto", "on", "off")
_SHARE = {"cuda": 0.85, "cpu": 0.5}
"""Share of the free memory that activations may take; the rest is for kernels."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Budget:
    """What activations may cost."""

    recompute: Recompute
    """Whether layers are run again in the backward pass; auto: only if it does not fit else."""
    memory_bytes: int | None = None
    """For activations; None: a share of what is free."""


@dataclass(frozen=True)
class RowCost:
    """Bytes that one row of an update keeps between its forward and its backward pass."""

    around: int
    """Before and behind the layers."""
    layer: int
    """One layer with everything that was computed."""
    layer_input: int
    """One layer's input."""
    num_layers: int
    """Layers that a gradient goes through."""

    @property
    def kept(self) -> int:
        """With everything that was computed."""
        return self.around + self.num_layers * self.layer

    @property
    def recomputed(self) -> int:
        """With each layer's input alone, and one layer at a time in full."""
        return self.around + self.num_layers * self.layer_input + self.layer


@dataclass(frozen=True)
class Choice:
    """What an update does."""

    rows: int
    recompute: bool


def choose_microbatch(
    cost: RowCost, num_rows: int, budget: Budget, free: int, asked: int | None = None
) -> Choice:
    """Choose how many rows go forward and backward at once, and whether layers are run again.

    Args:
        cost: of one row.
        num_rows: of a minibatch; the choice divides it into nearly equal parts.
        budget: of activations.
        free: bytes at hand, where the budget names none.
        asked: rows that the user wants; None: as many as fit.

    Raises:
        ValueError: if not even one row fits, and the user did not ask for any number.
    """
    free = free if budget.memory_bytes is None else budget.memory_bytes
    recompute = budget.recompute == "on"
    if budget.recompute == "auto":
        recompute = min(asked or 1, num_rows) * cost.kept > free
    if asked is not None:
        return Choice(asked, recompute)
    row_bytes = cost.recomputed if recompute else cost.kept
    if row_bytes > free:
        raise ValueError(
            f"one row of the update keeps {row_bytes / 2**30:.1f} GiB of activations, and "
            f"{free / 2**30:.1f} GiB are free; set policy.activation_checkpointing=auto, lower "
            "policy.lora_layers or env.history_length, use a larger GPU, or set "
            "algorithm.microbatch_size=1 to try all the same"
        )
    return Choice(even_part(num_rows, free // max(row_bytes, 1)), recompute)


def even_part(num_rows: int, at_most: int) -> int:
    """Return the size of parts that `num_rows` splits into, equal if that costs few more parts."""
    fitting = max(1, min(num_rows, at_most))
    divisors = [size for size in range(1, fitting + 1) if num_rows % size == 0]
    if 2 * divisors[-1] > fitting:
        return divisors[-1]
    num_parts = -(-num_rows // fitting)
    return -(-num_rows // num_parts)


def saved_bytes(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, `weights` apart.

    What a checkpointed part keeps (its inputs) is not seen. Nothing depends on the device: a model
    on the meta device is measured as well.
    """
    own = {weight.untyped_storage()._cdata for weight in weights}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = forward()
    del result  # held until here: a storage that is freed could be counted for another
    return sum(kept.values())


def free_bytes(device: torch.device) -> int:
    """Return what activations may take of the memory at hand, of this process's share."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((free + cached) * _SHARE["cuda"])
    free = min(int(psutil.virtual_memory().available), _cgroup_bytes())
    return int(free * _SHARE["cpu"] / int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _cgroup_bytes() -> int:
    """What the container's limit leaves, cached files apart; very much where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return 2**62
    counts = {name: int(value) for name, value in (line.split() for line in lines)}
    used -= counts.get("inactive_file", 0)
    return 2**62 if limit == "max" else max(0, int(limit) - used)
