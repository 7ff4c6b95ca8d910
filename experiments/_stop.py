"""Orderly stops: a signal sets a flag that the training loop asks for between updates.

A second one stops at once; under a scheduler, which repeats its own before it kills, only a second
SIGINT does. What a stopped run is called: INTERRUPTED after SIGINT (a person),
PREEMPTED after SIGTERM and SIGUSR2 (a scheduler, a shutdown), PRUNED after SIGUSR1 (a sweep),
TIMEOUT after SIGXCPU (a limit of CPU time), and where a scheduler's time limit is near.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from marlcore import durable

TIME_LIMIT = "time limit"
"""marlcore.trainer's reason; that module is too heavy for what starts before it."""

STATUSES = {
    "SIGINT": "INTERRUPTED",
    "SIGTERM": "PREEMPTED",
    "SIGUSR2": "PREEMPTED",
    "SIGUSR1": "PRUNED",
    "SIGXCPU": "TIMEOUT",
    TIME_LIMIT: "TIMEOUT",
}
"""By the name of a signal, or of the trainer's own reason."""

_TOGETHER_S = {signal.SIGINT: 0.1}
_TOGETHER_OTHERS_S = 2.0
"""Within this time a repeated signal is the same one: schedulers send it to a launcher and to its
processes, and the launcher hands it on. A person may press Ctrl-C twice sooner."""

_requested: list[tuple[signal.Signals, float]] = []
_limits: list[tuple[float, float]] = []
"""(When this process is going to be ended, how long before a scheduler warns), once known."""


class Stop(KeyboardInterrupt):
    """A run ends early.

    A KeyboardInterrupt with a STATUS, for that is what Sacred records instead of FAILED.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """A key of STATUSES."""
        self.STATUS = _status(reason)


class StopRequested(Stop):
    """A signal or a time limit asked to stop, and the run has saved its state."""


class StopAtOnceError(Stop):
    """A second signal: nothing more is saved. The run is called as after the first."""


def stop_requested() -> str | None:
    """The signal that asked to stop (a key of STATUSES); None while there is none."""
    return _requested[0][0].name if _requested else None


def should_stop() -> bool:
    """Whether a signal asked to stop."""
    return bool(_requested)


def set_time_limit(at: float, *, warned_s: float) -> None:
    """A scheduler ends this process at `at` (seconds since 1970), and warns `warned_s` before."""
    _limits[:] = [(at, warned_s)]


def time_left() -> float:
    """Seconds until a scheduler's time limit."""
    return _limits[0][0] - time.time() if _limits else math.inf


def _status(reason: str) -> str:
    """A scheduler's warning means its time limit if that is near; it comes up to a minute early."""
    if reason == "SIGUSR2" and _limits and time_left() < _limits[0][1] + 60:
        return STATUSES[TIME_LIMIT]
    return STATUSES[reason]


def exit_code(reason: str) -> int:
    """What shells report of a process that a signal ended; a time limit is SIGXCPU's."""
    return 128 + signal.Signals["SIGXCPU" if reason == TIME_LIMIT else reason]


@contextmanager
def install() -> Iterator[None]:
    """Handle the signals while the context lasts; only in the main thread of the main process.

    An inner context keeps what an outer one was told.
    """
    if signal.getsignal(signal.SIGTERM) is _handle:
        yield
        return
    _requested.clear()
    durable.set_patience(True)
    numbers = [signal.Signals[name] for name in STATUSES if name != TIME_LIMIT]
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
    if _limits and received != signal.SIGINT:
        return
    durable.set_patience(False)
    raise StopAtOnceError(first.name)
