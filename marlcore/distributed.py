"""One path for one process or many: sums, means and barriers that are the identity when alone.

Which processes there are says marlcore.rendezvous. Nothing else in the library asks which rank it
is.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import (
    _set_pg_timeout as set_pg_timeout,  # pyright: ignore[reportPrivateUsage]  # there is no other
)

from marlcore.config_run import DistributedConfig
from marlcore.rendezvous import RendezvousError, connect, place

_T = TypeVar("_T")


@contextmanager
def process_group(
    device: torch.device, *, connect_timeout_s: float = 60.0, collective_timeout_s: float = 600.0
) -> Generator[None]:
    """Join the other processes of the run; nothing happens where there is one alone.

    Args:
        device: where the networks are: gloo connects CPUs, NCCL GPUs.
        connect_timeout_s: in which all must have found each other.
        collective_timeout_s: that a process waits for the others later.

    Raises:
        RendezvousError: they did not find each other.
    """
    here = place()
    if here.world_size == 1:
        yield
        return
    # Optimizers import this module, and its default arguments keep the group that stands by then:
    # a group that is still there when the interpreter ends may abort the process.
    import_module("torch.distributed.nn.functional")
    store, hosts = connect(here, timeout_s=connect_timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=store,
            rank=here.rank,
            world_size=here.world_size,
            timeout=timedelta(seconds=connect_timeout_s),
        )
        dist.barrier()  # NCCL connects when it is first used
    except RuntimeError as error:
        raise RendezvousError(
            f"{here}: the processes on {hosts} have met, but {backend} does not connect them: "
            f"{(str(error).splitlines() or ['no reason given'])[0]}; every host must reach the "
            "others by their names; set distributed.socket_interface if they have several networks"
        ) from error
    set_pg_timeout(timedelta(seconds=collective_timeout_s))
    try:
        yield
    finally:
        dist.destroy_process_group()


def settings(config: DistributedConfig) -> dict[str, str]:
    """The environment variables of gloo and NCCL that a configuration stands for."""
    wanted = {
        "GLOO_SOCKET_IFNAME": config.socket_interface,
        "NCCL_SOCKET_IFNAME": config.socket_interface,
        "NCCL_IB_DISABLE": None if config.infiniband is None else str(int(not config.infiniband)),
        "NCCL_P2P_DISABLE": None if config.p2p is None else str(int(not config.p2p)),
        "NCCL_DEBUG": config.nccl_debug,
    }
    return {name: value for name, value in wanted.items() if value is not None}


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


def from_main(value: _T) -> _T:
    """Return the first process's `value`; the others' are passed over."""
    if not _active():
        return value
    values: list[_T] = [value]
    dist.broadcast_object_list(values)
    return values[0]


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
