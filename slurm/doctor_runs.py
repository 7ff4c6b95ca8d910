"""`marl doctor --slurm`: whether runs, MongoDB and packages are where the nodes see them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import _rundir
from experiments.commands.doctor import NOTE, OK, WRONG, Finding, existing
from experiments.tracking import mongo
from experiments.tracking.redaction import MONGO_URI

_SHARED = (
    *("nfs", "lustre", "gpfs", "mmfs", "beegfs", "fhgfs", "ceph", "panfs", "weka", "gluster"),
    *("orangefs", "pvfs", "ocfs2", "gfs2", "cifs", "smb", "afs", "dvs", "daos", "fuse."),
)
"""How the types of file systems begin that several machines can mount at once."""
_OWN = ("ext", "xfs", "btrfs", "zfs", "f2fs", "jfs", "tmpfs", "ramfs", "rootfs", "overlay")
"""How those of one machine do."""
EXPORTS = ("/var/lib/nfs/etab", "/etc/exports")
"""What this machine lets others mount."""
_LOOPBACK = re.compile(r"//(?:[^/@]*@)?(?:localhost|127\.|\[::1\]|/|%2F)", re.IGNORECASE)
_SIZE_S = 5.0
"""For adding up the size of the packages."""


def check_shared(others: Sequence[str]) -> Iterator[Finding]:
    """Whether other machines see the runs directory too, and locks on files hold for all."""
    runs = _rundir.runs_dir().resolve()
    place = existing(runs)
    kind, options = disk_of(place)
    what = f"the runs directory {runs} lies on {kind}"
    far = f"{others[0]}{f' and {len(others) - 1} more' if others[1:] else ''}" if others else ""
    if is_shared(kind):
        yield Finding(OK, f"{what}, which all machines can share")
    elif not others:
        yield Finding(OK, f"{what}; all nodes are this machine")
    elif _is_exported(place):
        yield Finding(OK, f"{what}, which this machine exports (NFS)")
    else:
        is_own = kind.startswith(_OWN)
        risk = f"of this machine alone: jobs on {far} do not find their run"
        yield Finding(
            WRONG if is_own else NOTE,
            f"{what}, {risk if is_own else f'of which it is not known whether {far} shares it'}",
            "set MARL_RUNS_DIR to a directory that this machine and all nodes mount at one path",
        )
    lock = _what_locks_do(place, options)
    if lock:
        advice = "mount Lustre with -o flock, NFS without nolock and local_lock; until then "
        advice += "heartbeats alone keep a second copy of a run from writing"
        yield Finding(NOTE, f"locks on files {lock} ({kind})", advice)
    else:
        yield Finding(OK, f"locks on files work there ({kind})")


def disk_of(path: Path) -> tuple[str, list[str]]:
    """Type and options of the file system that a path lies on."""
    path, best = path.resolve(), ("", "an unknown file system", "")
    for line in Path("/proc/mounts").read_text(errors="replace").splitlines():
        _, mount, kind, options = line.split(" ")[:4]
        mount = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), mount)  # spaces
        if path.is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind, options)  # of several at one place the last one is seen
    return best[1], best[2].split(",")


def is_shared(kind: str) -> bool:
    """Whether several machines can mount this type of file system at once."""
    return kind.startswith(_SHARED) and "overlay" not in kind


def _is_exported(path: Path) -> bool:
    lines: list[str] = []
    for name in EXPORTS:
        with contextlib.suppress(OSError):  # no NFS server, or not for everybody to read
            lines += Path(name).read_text(errors="replace").splitlines()
    return any(path.is_relative_to(line.split()[0]) for line in lines if line.startswith("/"))


def _what_locks_do(place: Path, options: Sequence[str]) -> str:
    """What is wrong with them; an empty text if nothing is."""
    with tempfile.TemporaryFile(dir=place) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"do not work: {error.strerror}"
    one = {"nolock", "localflock", "local_lock=all", "local_lock=flock"} & set(options)
    return f"hold for processes of one machine alone: mounted with {min(one)}" if one else ""


def check_database(others: Sequence[str]) -> Iterator[Finding]:
    """Whether jobs on other machines reach MongoDB."""
    target = mongo.target(_rundir.runs_dir())
    if target is None:
        yield Finding(OK, "no MongoDB: jobs record to their run directories")
    elif others and (target.embedded or _LOOPBACK.search(target.uri)):
        yield Finding(
            NOTE,
            f"{target} is of this machine alone: jobs on {others[0]} record to their run "
            "directories",
            f"marl sync on this machine brings it up to date; or give {MONGO_URI} a server that "
            "the nodes reach",
        )
    else:
        yield Finding(OK, f"{target}; marl doctor says whether it answers")


def check_packages(others: Sequence[str]) -> Iterator[Finding]:
    """What freezing the virtual environment takes, and whether the nodes have its Python."""
    place, prefix = existing(_rundir.runs_dir()), Path(sys.prefix)
    if sys.prefix == sys.base_prefix:
        yield Finding(
            NOTE,
            f"{sys.executable} is in no virtual environment: packages are not frozen, and jobs "
            "use those that are there when they start",
            "make setup, and submit with .venv/bin/python",
        )
    elif place.stat().st_dev == prefix.stat().st_dev:
        what = f"packages of {prefix} lie on the disk of the runs: frozen by hard links, at once"
        yield Finding(OK, what)
    else:
        size, is_all = _size(prefix)
        is_enough = size < shutil.disk_usage(place).free
        said = f"{'' if is_all else 'more than '}{size / 2**30:.1f} GiB"
        what = f"packages of {prefix} lie on another disk than the runs: {said} are copied once"
        advice = "" if is_enough else f"make space on the disk of {place}"
        yield Finding(OK if is_enough else WRONG, what, advice)
    python = Path(sys.executable).resolve()
    kind, _ = disk_of(python)
    if others and not is_shared(kind):
        yield Finding(
            NOTE,
            f"the interpreter {python} lies on {kind}, of this machine",
            f"have the same one at that path on every node (srun -w {others[0]} {python} -V says "
            "so), or make the virtual environment with a Python on a shared disk",
        )


def _size(folder: Path) -> tuple[int, bool]:
    """Bytes in a directory, and whether the time was enough to see all of it."""
    deadline, size = time.monotonic() + _SIZE_S, 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(parent, name)).st_size
        if time.monotonic() > deadline:
            return size, False
    return size, True
