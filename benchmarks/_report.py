"""What every benchmark prints: plain lines, one table, rows for docs/BENCHMARKS.md."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers"


@dataclass(frozen=True)
class Row:
    """One measurement, as docs/BENCHMARKS.md shows it."""

    measurement: str
    ours: str
    peer: str
    ratio: str
    """How many times better ours is; - without a peer."""


def say(line: str) -> None:
    """Print a line at once, to stderr: stdout has results alone."""
    print(line, file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        first, *others = (cell.ljust(widths[0]) if i == 0 else cell for i, cell in enumerate(row))
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first, *cells]).rstrip())


def print_markdown(rows: Sequence[Row]) -> None:
    """Print rows for docs/BENCHMARKS.md: the measurement, then where and when it was made."""
    command = f"`{' '.join(['python', *_command()])}`"
    where = [command, commit(), machine(), datetime.date.today().isoformat()]
    for row in rows:
        cells = [row.measurement, row.ours, row.peer, row.ratio, *where]
        print("| " + " | ".join(cells) + " |")


def commit() -> str:
    """Short id of the commit; `+` behind it says that the files differ from it."""
    try:
        return _git("rev-parse", "--short", "HEAD") + "+" * bool(_git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def machine() -> str:
    """Cores, CPU model, versions of Python and torch."""
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores, {_cpu_model()}, Python {platform.python_version()}, "
        f"torch {version('torch')}"
    )


def peer_python(name: str) -> Path | None:
    """Python of a peer's environment; None, with a line saying so, if it was not made."""
    path = PEERS / name / "bin" / "python"
    if path.exists():
        return path
    say(f"skipped: {name} is not installed; `python benchmarks/peers.py {name}` does it")
    return None


def run_json(command: Sequence[str | Path], *, timeout_s: float) -> dict[str, Any]:
    """Run a command in the repository and parse the last line of its stdout.

    Raises:
        RuntimeError: if it fails or takes longer, with the end of what it printed.
    """
    words = [str(word) for word in command]
    try:
        process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(words)} took more than {timeout_s:.0f} s") from error
    lines = process.stdout.strip().splitlines()
    if process.returncode or not lines:
        end = "\n".join((process.stdout + process.stderr).splitlines()[-20:])
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}:\n{end}")
    return json.loads(lines[-1])


def _command() -> list[str]:
    script = os.path.relpath(Path(sys.argv[0]).resolve(), ROOT)
    return [script, *(word for word in sys.argv[1:] if word != "--markdown")]


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"
