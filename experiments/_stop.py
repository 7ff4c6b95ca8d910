"""Orderly stops: a signal sets a flag that the training loop asks for between updates.

The second signal stops at once. What a stopped run is called: INTERRUPTED after SIGINT (a person),
PREEMPTED after SIGTERM (a scheduler, a shutdown), TIMEOUT after SIGXCPU (a limit of CPU time).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from marlcore import durable

STATUSES = {"SIGINT": "INTERRUPTED", "SIGTERM": "PREEMPTED", "SIGXCPU": "TIMEOUT"}

_TOGETHER_S = {signal.SIGINT: 0.1}
_TOGETHER_OTHERS_S = 2.0
"""Within this time a repeated signal is the same one: schedulers send it to a launcher and to its
processes, and the launcher hands it on. A person may press Ctrl-C twice sooner."""

_requested: list[tuple[signal.Signals, float]] = []


class StopRequested(KeyboardInterrupt):
    """A signal asked to stop, and the run has saved its state.

    A KeyboardInterrupt with a STATUS, for that is what Sacred records instead of FAILED.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.signal = signal.Signals[name]
        self.STATUS = STATUSES[name]


class StopAtOnceError(KeyboardInterrupt):
    """A second signal: nothing more is saved. The run is called as after the first."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.STATUS = STATUSES[name]


def stop_requested() -> str | None:
    """The signal that asked to stop (a key of STATUSES); None while there is none."""
    return _requested[0][0].name if _requested else None


def exit_code(signum: int) -> int:
    """What shells report of a process that a signal ended."""
    return 128 + signum


@contextmanager
def install() -> Iterator[None]:
    """Handle the signals while the context lasts; only in the main thread of the main process."""
    _requested.clear()
    durable.set_patience(True)
    numbers = [signal.Signals[name] for name in STATUSES]
    before = {number: signal.signal(number, _handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    now, received = time.monotonic(), signal.Signals(number)
    if not _requested:
        _requested.append((received, now))
        return
    first, at = _requested[0]
    if received == first and now - at < _TOGETHER_S.get(first, _TOGETHER_OTHERS_S):
        return
    durable.set_patience(False)
    raise StopAtOnceError(first.name)
