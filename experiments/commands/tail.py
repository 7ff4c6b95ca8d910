"""What a run printed; with -f also what it is going to print, until it ends.

marl tail RUN -n 50
marl tail RUN -f
"""

from __future__ import annotations

import argparse
import codecs
import sys
import time
from collections.abc import Callable
from pathlib import Path

from experiments.tracking.catalog import Catalog
from experiments.tracking.read import read_view
from experiments.tracking.spool import OUTPUT
from experiments.tracking.view import NEW, QUEUED, RUNNING
from marlcore.config_errors import ConfigError

_POLL_S = 0.5
_PATIENCE_S = 10.0
"""With a run that has only its directory so far."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="lines (20)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")


def run(arguments: argparse.Namespace) -> int:
    """Print the end of the output."""
    if arguments.lines < 0:
        raise ConfigError(f"--lines {arguments.lines} is refused; give a number from 0")
    catalog = Catalog()
    one = catalog.find(arguments.run)
    if one.directory is None and not arguments.follow:
        lines = catalog.output(one).splitlines(keepends=True)
        sys.stdout.write("".join(lines[-arguments.lines :] if arguments.lines else []))
        return 0
    run_dir = catalog.directory(one)
    path = run_dir / OUTPUT
    if not path.exists():
        raise ConfigError(f"run {run_dir.name} has printed nothing yet")
    began = time.monotonic()

    def is_over() -> str | None:
        status = read_view(run_dir).status
        waits = status == QUEUED or (status == NEW and time.monotonic() - began < _PATIENCE_S)
        return None if status == RUNNING or waits else status

    ended = follow(path, arguments.lines, is_over if arguments.follow else lambda: "")
    if ended:
        print(f"(the run is {ended})", file=sys.stderr)
    return 0


def follow(path: Path, lines: int, is_over: Callable[[], str | None]) -> str:
    """Print the last lines of a file, and what comes until `is_over` returns a text."""
    offset = _print_last(path, lines)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        ended = is_over()  # before reading: what comes before the end is seen
        offset = _print_from(path, offset, decoder)
        if ended is not None:
            return ended
        time.sleep(_POLL_S)


def _print_last(path: Path, lines: int) -> int:
    """Print the last lines; returns how many bytes have been seen."""
    with path.open("rb") as file:
        size = position = file.seek(0, 2)
        data = b""
        while position > 0 and data.count(b"\n") <= lines:
            step = min(65536, position)
            position -= step
            file.seek(position)
            data = file.read(step) + data
    last = data[:size].splitlines(keepends=True)[-lines:] if lines else []
    sys.stdout.write(b"".join(last).decode("utf-8", "replace"))
    sys.stdout.flush()
    return size


def _print_from(path: Path, offset: int, decoder: codecs.IncrementalDecoder) -> int:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    sys.stdout.write(decoder.decode(data))
    sys.stdout.flush()
    return offset + len(data)
