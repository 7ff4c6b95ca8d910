"""Locks on files, also where a file system has none."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


def take(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file for this process; False if another holds it and `wait` is false.

    On a file system without locks (Lustre without -o flock, NFS without its daemon) it is taken for
    granted: heartbeats and conditions on what stands there still tell writers apart.

    Raises:
        OSError: for any other reason.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the context lasts, waiting for it."""
    with open(path, "a", encoding="utf-8") as file:
        take(file.fileno(), wait=True)
        yield
