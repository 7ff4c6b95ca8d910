"""`marl doctor --slurm`: the nodes, as the controller and this machine know them."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from experiments.commands.doctor import NOTE, OK, WRONG, Finding
from slurm import cluster

_BAD = {
    *("DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "ERROR", "UNKNOWN", "INVAL"),
    *("NOT_RESPONDING", "INVALID_REG"),
}
"""Parts of a node's state in which it takes no jobs."""
_OFF = re.compile(r"CLOUD|POWER|[~#%]")
"""In the state of a node that is switched on when it is needed: it may have no address before."""
_LOOKUPS_S = 10.0
"""For all look-ups of names together."""
_THREADS = 16


@dataclass(frozen=True)
class Seen:
    """What the controller says."""

    settings: Mapping[str, str]
    partitions: Sequence[Mapping[str, str]]
    nodes: Sequence[Mapping[str, str]]

    @cached_property
    def addresses(self) -> dict[str, set[str]]:
        """Of every name of a node; none where a name is not known on this machine."""
        return _looked_up({name for n in self.nodes for name in (n["NodeName"], address(n))})

    @cached_property
    def others(self) -> list[str]:
        """Nodes that are other machines than this one."""
        here = socket.gethostname().partition(".")[0]
        own = {name for name, found in self.addresses.items() if any(map(_is_own, found))}
        far = [n["NodeName"] for n in self.nodes if address(n) not in own]
        return [name for name in far if name != here]

    def nodes_of(self, partitions: str) -> list[Mapping[str, str]]:
        """The nodes of partitions a,b."""
        wanted = set(partitions.split(","))
        return [n for n in self.nodes if wanted & set(n.get("Partitions", "").split(","))]


def look() -> Seen:
    """Ask the controller.

    Raises:
        ConfigError: it does not answer.
    """
    nodes = [one for one in cluster.facts("node") if "NodeName" in one]
    nodes = [one for one in nodes if "FUTURE" not in one.get("State", "")]  # not there yet
    partitions = [one for one in cluster.facts("partition") if "PartitionName" in one]
    return Seen(cluster.configuration(), partitions, nodes)


def address(node: Mapping[str, str]) -> str:
    """Under which the controller reaches a node: a name, or numbers."""
    return node.get("NodeAddr") or node.get("NodeHostName") or node["NodeName"]


def check_states(seen: Seen) -> Iterator[Finding]:
    """Which nodes take jobs, and why others do not."""
    if not seen.nodes:
        yield Finding(NOTE, "no nodes are shown", "ask who runs the cluster (PrivateData)")
        return
    bad: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in seen.nodes:
        state = one.get("State", "")
        if "*" in state or _BAD & set(re.split(r"[^A-Z_]+", state)):
            reason = re.sub(r" *\[\S+@\S+\]$", "", one.get("Reason", ""))  # who said so, and when
            bad[state, reason].append(one["NodeName"])
    fine = len(seen.nodes) - sum(map(len, bad.values()))
    advice = "" if fine else "without nodes no job starts; sinfo -R lists the reasons"
    yield Finding(OK if fine else WRONG, f"{fine} of {len(seen.nodes)} nodes are up", advice)
    for (state, reason), names in bad.items():
        why = f" ({reason})" if reason else ", and does not answer" if "*" in state else ""
        which = ",".join(names)
        yield Finding(
            NOTE,
            f"{some(names)}: {state}{why}",
            "look at systemctl status slurmd there; when the cause is gone: "
            f"scontrol update NodeName={which if len(which) < 60 else 'NAMES'} State=RESUME",
        )


def check_names(seen: Seen) -> Iterator[Finding]:
    """Whether nodes can be reached by the names they have."""
    on = [one for one in seen.nodes if not _OFF.search(one.get("State", ""))]
    lost = [one for one in on if not seen.addresses[address(one)]]
    if lost:
        names = [f"{address(one)} (of {one['NodeName']})" for one in lost]
        advice = "enter them in DNS or /etc/hosts of all machines, or correct NodeAddr="
        yield Finding(WRONG, f"addresses not known here: {some(names)}", f"{advice} in slurm.conf")
    names = [n["NodeName"] for n in on if n not in lost and not seen.addresses[n["NodeName"]]]
    if names:
        yield Finding(
            NOTE,
            f"names of nodes not known here: {some(names)}; processes of a job on several nodes "
            "find each other by them",
            f"if `getent hosts {names[0]}` says nothing on a node either, enter them in DNS or "
            "/etc/hosts",
        )
    if on and not lost and not names:
        yield Finding(OK, "names and addresses of the nodes are known here")


def some(names: Sequence[str]) -> str:
    """The first of many."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _looked_up(names: Iterable[str]) -> dict[str, set[str]]:
    """Addresses of names. Name servers can hang, and a look-up cannot be ended: threads do it."""
    found: dict[str, set[str]] = {name: set() for name in names}
    ordered = sorted(found)

    def look_up(some_names: Sequence[str]) -> None:
        for name in some_names:
            try:
                found[name] = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
            except (OSError, UnicodeError):
                continue

    parts = [ordered[index::_THREADS] for index in range(_THREADS)]
    threads = [threading.Thread(target=look_up, args=(part,), daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _LOOKUPS_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)


def _is_own(text: str) -> bool:
    """Whether an address is of this machine: then it can be listened on."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((text, 0))
    except OSError:
        return False
    return True
