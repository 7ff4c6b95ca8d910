"""Orderly stops: SIGINT and SIGTERM set a flag that the training loop asks for between updates.

The second signal stops at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_requested: list[signal.Signals] = []


class StopRequested(KeyboardInterrupt):
    """A signal asked to stop, and the run has saved its state.

    A KeyboardInterrupt, for that is what Sacred records as INTERRUPTED instead of FAILED.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.signal = signal.Signals[name]


def stop_requested() -> str | None:
    """The signal that asked to stop ("SIGINT", "SIGTERM"); None while there is none."""
    return _requested[0].name if _requested else None


def exit_code(signum: int) -> int:
    """What shells report of a process that a signal ended."""
    return 128 + signum


@contextmanager
def install() -> Iterator[None]:
    """Handle the signals while the context lasts; only in the main thread of the main process."""
    _requested.clear()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    if _requested:
        raise KeyboardInterrupt(signal.Signals(number).name)
    _requested.append(signal.Signals(number))
