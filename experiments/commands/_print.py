"""Tables, numbers and JSON as the commands print them."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from experiments.console import format_seconds
from experiments.tracking.view import RunView

_COLOURS = {
    "COMPLETED": "32",
    "RUNNING": "36",
    "FAILED": "31",
    "DEAD": "31",
    "INTERRUPTED": "33",
    "PREEMPTED": "33",
    "PRUNED": "33",
    "QUEUED": "34",
    "TIMEOUT": "33",
}
_WIDEST = 40


def print_json(value: Any) -> None:
    """Print strict JSON: what is not finite is null."""
    print(json.dumps(strict(value), indent=1, default=str))


def strict(value: Any) -> Any:
    """Plain data without numbers that JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value


def as_plain(one: RunView) -> dict[str, Any]:
    """A summary as plain data, with what is derived."""
    return {**asdict(one), "seconds": one.seconds}


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, fixed: int = 1) -> None:
    """Print aligned columns; those behind the `fixed` ones only as far as a terminal has room."""
    cells = [[shorten(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    shown = len(header)
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        while shown > fixed and sum(widths[:shown]) + 2 * (shown - 1) > room:
            shown -= 1
    lines = []
    for row in [list(header), *cells]:
        padded = [cell.ljust(width) for cell, width in zip(row[:shown], widths, strict=False)]
        lines.append(_coloured("  ".join(padded).rstrip(), row))
    print("\n".join(lines))
    if shown < len(header):
        print(f"(not shown: {', '.join(header[shown:])}; a wider terminal, or --columns)")


def _coloured(line: str, row: Sequence[str]) -> str:
    status = next((cell for cell in row if cell in _COLOURS), None)
    if status is None or not sys.stdout.isatty():
        return line
    return line.replace(status, f"\033[{_COLOURS[status]}m{status}\033[0m", 1)


def print_pairs(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Print a titled list of names and texts; nothing if there is none."""
    if not pairs:
        return
    width = max(len(name) for name, _ in pairs)
    print(f"\n{title}" if title else "")
    for name, value in pairs:
        print(f"  {name:<{width}}  {value}")


def shorten(text: str, widest: int = _WIDEST) -> str:
    """A cell on one line."""
    line = " ".join(text.split())
    return line if len(line) <= widest else line[: widest - 2] + ".."


def number(value: Any) -> str:
    """A number for people; other values as they are."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value, default=str)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e9):
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    return f"{value:.4g}"


def ago(seconds: float | None) -> str:
    """How long ago a moment was."""
    if seconds is None:
        return ""
    passed = max(0.0, time.time() - seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{passed / length:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def duration(seconds: float | None) -> str:
    """H:MM:SS, empty where unknown."""
    return "" if seconds is None else format_seconds(seconds)


def local_time(seconds: float | None) -> str:
    """A moment in this machine's time zone."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
