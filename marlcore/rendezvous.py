"""Which process this is, and how all of a run find each other: under Slurm, torchrun, or alone.

What the environment says is read here and nowhere else in the library:

    torchrun   RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
    srun       SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_NODELIST, SLURM_JOB_ID;
               MASTER_ADDR and MASTER_PORT where they are set
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # launchers ask for `place` long before torch is needed
    from torch._C._distributed_c10d import Store

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = range(20_000, 32_000)
"""Below those that systems hand out by themselves."""
_POLL_S = 0.1


class RendezvousError(ValueError):
    """The processes of a run did not find each other."""


@dataclass(frozen=True)
class Place:
    """One process among those of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Its number on its machine."""
    local_size: int = 1
    """Processes of the run on its machine."""
    launcher: str = ""
    """torchrun (or whoever sets the same variables), slurm, or nothing: it is alone."""
    address: str = ""
    """Host of the first process."""
    port: int = 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size} on {socket.gethostname()}"


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Read from the environment which process this is.

    An srun step comes after torchrun's variables, which torchrun sets inside of it. A batch script
    itself, or a shell in an allocation, is alone whatever was allocated.

    Raises:
        RendezvousError: a variable is missing or makes no sense.
    """
    env = os.environ if environment is None else environment
    if "WORLD_SIZE" in env or "RANK" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        launcher, defaults = (
            "torchrun",
            {
                "LOCAL_RANK": env.get("RANK"),
                "LOCAL_WORLD_SIZE": env.get("WORLD_SIZE"),
            },
        )
    elif int(env.get("SLURM_STEP_NUM_TASKS", "1") or 1) > 1:
        names = (
            "SLURM_PROCID",
            "SLURM_STEP_NUM_TASKS",
            "SLURM_LOCALID",
            "SLURM_STEP_TASKS_PER_NODE",
        )
        launcher, defaults = "slurm", {}
    else:
        return Place()
    rank, size, local_rank, local_size = (_number(env, name, defaults) for name in names)
    if not 0 <= rank < size:
        raise RendezvousError(
            f"{names[0]}={rank} is refused with {names[1]}={size}; ranks are numbered from 0"
        )
    if size == 1:
        return Place(launcher=launcher)
    address = env.get("MASTER_ADDR") or _first_host(env.get("SLURM_STEP_NODELIST", ""))
    if not address:
        raise RendezvousError(
            f"{names[1]}={size}: this is one of {size} processes, and MASTER_ADDR does not say "
            "where the first one is; start them by torchrun or srun, or set MASTER_ADDR and "
            "MASTER_PORT to the first one's host and a free port there"
        )
    if env.get("MASTER_PORT"):
        port = _number(env, "MASTER_PORT", {})
    elif launcher == "slurm":
        port = _PORTS[_number(env, "SLURM_JOB_ID", {}) % len(_PORTS)]
    else:
        raise RendezvousError(f"MASTER_ADDR={address} is set, and MASTER_PORT is not; set both")
    return Place(rank, size, local_rank, local_size, launcher, address, port)


def connect(here: Place, *, timeout_s: float) -> tuple[Store, str]:
    """Meet all other processes; return the store to set up groups through, and all hosts.

    Raises:
        RendezvousError: not all have come in time; the message names who and where.
    """
    from torch._C._distributed_c10d import PrefixStore

    deadline = time.monotonic() + timeout_s
    store: Store = _store(here, timeout_s, deadline)
    # torchrun starts processes again with the same store: what stands there is of the time before.
    store = PrefixStore(f"marlcore/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    keys = [f"host/{rank}" for rank in range(here.world_size)]
    try:
        store.set(keys[here.rank], socket.gethostname())
        while not store.check(keys):
            if time.monotonic() > deadline:
                missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
                raise RendezvousError(
                    f"{here} has waited {timeout_s:g} s at {here.address}:{here.port}, and "
                    f"{_named(missing)} of {here.world_size} did not come; look into the logs of "
                    "those, or raise distributed.connect_timeout_s if they start slowly"
                )
            time.sleep(_POLL_S)
        hosts = ", ".join(sorted({store.get(key).decode() for key in keys}))
        # The first process may serve the store: it stays until all know that all have come.
        num_met = store.add("met", 1)
        while here.rank == 0 and num_met < here.world_size and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            num_met = store.add("met", 0)
    except RuntimeError as error:  # torch's DistStoreError, DistNetworkError
        raise RendezvousError(
            f"{here} lost the first process at {here.address}:{here.port}, which has ended: its "
            f"log says why ({_first_line(error)})"
        ) from None
    return store, hosts


def _store(here: Place, timeout_s: float, deadline: float) -> Store:
    """The first process's store: served by it, or by torchrun's agent."""
    from torch._C._distributed_c10d import TCPStore

    is_server = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    descriptor = _listen(here) if is_server else None
    if not is_server:
        _reach(here, timeout_s, deadline)
    try:
        return TCPStore(
            "127.0.0.1" if is_server else here.address,
            here.port,
            here.world_size,
            is_master=is_server,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=descriptor,
        )
    except RuntimeError as error:
        raise RendezvousError(
            f"{here} cannot use what answers at {here.address}:{here.port}: "
            f"{_first_line(error)}; set MASTER_PORT to a free port"
        ) from None


def _listen(here: Place) -> int:
    """An open port of the first process: on loopback alone if that is where the others look."""
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1" if here.address in _LOOPBACK else "", here.port))
        listener.listen(here.world_size)
    except OSError as error:
        listener.close()
        raise RendezvousError(
            f"{here} cannot listen on port {here.port}: {error.strerror}; set MASTER_PORT to a "
            f"free port of {here.address}"
        ) from None
    return listener.detach()


def _reach(here: Place, timeout_s: float, deadline: float) -> None:
    """Wait until the first process listens."""
    reason = "it was not tried"
    while time.monotonic() < deadline:
        try:
            left = max(0.1, min(5.0, deadline - time.monotonic()))
            socket.create_connection((here.address, here.port), timeout=left).close()
            return
        except socket.gaierror:
            raise RendezvousError(
                f"{here}: the name {here.address} of the first process's host is not known here; "
                "set MASTER_ADDR to a name or address that every node resolves"
            ) from None
        except OSError as error:
            reason = error.strerror or "no answer"
        time.sleep(_POLL_S)
    raise RendezvousError(
        f"{here} cannot reach the first process at {here.address}:{here.port}: {reason}, for "
        f"{timeout_s:g} s; its log says whether it runs, MASTER_ADDR and MASTER_PORT say where it "
        "is looked for, and a firewall may lie between"
    )


def _number(env: Mapping[str, str], name: str, defaults: Mapping[str, str | None]) -> int:
    text = env.get(name) or defaults.get(name)
    found = re.match(r"\d+(?=\(x\d+\)|,|$)", text or "")  # SLURM_STEP_TASKS_PER_NODE=2(x3),1
    if found is None:
        what = "is not set" if text is None else f"is {text!r}"
        raise RendezvousError(f"{name} {what}; it must be a number, and torchrun or srun sets it")
    return int(found[0])


def _first_host(hosts: str) -> str:
    """The first of a Slurm host list: gpu[07-09,12],login -> gpu07."""
    found = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\])?([^\[,]*)", hosts)
    return "".join(part or "" for part in found.groups()) if found else ""


def _named(ranks: list[int]) -> str:
    some = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"process {some}" if len(ranks) == 1 else f"processes {some}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
