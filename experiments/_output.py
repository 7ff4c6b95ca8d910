"""A copy of standard output and error in a file; the terminal stays a terminal.

Python's streams are copied, not file descriptors: a pipe in front of the terminal would end live
displays. What a display draws goes to the terminal alone (`terminal`), its lines to `log_line`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


class _Tee(io.TextIOBase):
    """Writes to a stream and to a log; everything else is the stream's."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self.stream = stream
        self.log = log

    def write(self, text: str) -> int:
        with suppress(OSError):  # a full disk must not hide what is being said
            self.log.write(text)
            self.log.flush()
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
    with path.open("a", encoding="utf-8", errors="backslashreplace") as log:
        sys.stdout, sys.stderr = _Tee(stdout, log), _Tee(stderr, log)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = stdout, stderr


def terminal() -> TextIO:
    """Standard output without the copy."""
    return sys.stdout.stream if isinstance(sys.stdout, _Tee) else sys.stdout


def log_line(text: str) -> None:
    """Write a line to the copy alone; nothing happens where there is none."""
    if isinstance(sys.stdout, _Tee):
        sys.stdout.log.write(text + "\n")
        sys.stdout.log.flush()
