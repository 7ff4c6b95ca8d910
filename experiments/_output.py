"""A copy of standard output and error in a file; the terminal stays a terminal.

Python's streams are copied, not file descriptors: a pipe in front of the terminal would end live
displays. What a display draws goes to the terminal alone (`terminal`), its lines to `log_line`.
Secrets are left out of the copy.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from experiments.tracking.redaction import RedactedStream
from marlcore.durable import AppendFile


class _Log:
    """The copy; on a full disk text waits in memory, so that what is being said is not hidden."""

    def __init__(self, path: Path) -> None:
        self._file = AppendFile(path)
        self._lock = threading.RLock()
        self._stream = RedactedStream()
        self._waiting = b""
        self._closed = False

    def write(self, text: str) -> None:
        with self._lock:
            if self._closed:  # a logger that kept the stream
                return
            self._waiting += self._stream.feed(text).encode("utf-8", "backslashreplace")
            with suppress(OSError):
                self._file.try_append(self._waiting)
                self._waiting = b""

    def close(self) -> None:
        with self._lock:
            self._closed = True
            with suppress(OSError):  # of a run that is ended at once on a full disk
                self._file.append(self._waiting + self._stream.rest().encode("utf-8", "replace"))
            self._file.close()


class _Tee(io.TextIOBase):
    """Writes to a stream and to a log; everything else is the stream's."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        self.stream = stream
        self.log = log

    def write(self, text: str) -> int:
        self.log.write(text)
        with suppress(OSError):  # a terminal that went away does not end the run
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stream.encoding

    @property
    def errors(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stream.errors


@contextmanager
def copied_to(path: Path) -> Iterator[None]:
    """Append to `path` all that is printed while the context lasts."""
    stdout, stderr = sys.stdout, sys.stderr
    log = _Log(path)
    sys.stdout, sys.stderr = _Tee(stdout, log), _Tee(stderr, log)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        log.close()


def terminal() -> TextIO:
    """Standard output without the copy."""
    return sys.stdout.stream if isinstance(sys.stdout, _Tee) else sys.stdout


def log_line(text: str) -> None:
    """Write a line to the copy alone; nothing happens where there is none."""
    if isinstance(sys.stdout, _Tee):
        sys.stdout.log.write(text + "\n")


def print_error(error: Exception) -> None:
    """Say what is refused; further lines of it stand under the first."""
    first, *others = str(error).splitlines() or [type(error).__name__]
    lines = ["error: " + first, *("       " + line for line in others)]
    print("\n".join(lines), file=sys.stderr)
