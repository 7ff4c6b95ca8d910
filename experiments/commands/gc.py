"""Remove what nobody needs: leftovers of killed saves, runs that never recorded anything.

    marl gc --dry-run           says what would go, and how large it is
    marl gc                     leftovers: temporary files, contents that no run refers to
    marl gc --empty             also runs that ended or died before their first record
    marl gc --checkpoints       also all checkpoints but the latest and the best of ended runs

Nothing of a run that is being written is touched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments import _rundir
from experiments.commands import _print
from experiments.tracking import read
from experiments.tracking.spool import (
    CONFIG,
    EVENTS,
    FROZEN,
    JOB,
    METRICS,
    SWEEPS,
    read_events,
    read_json,
    unwritten,
)
from experiments.tracking.store import Store
from experiments.tracking.view import DAMAGED, QUEUED, RUNNING
from marlcore.checkpoint import verify_checkpoint
from marlcore.durable import read_lines
from marlcore.recording import read_records

_YOUNG_S = 86_400.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--dry-run", action="store_true", help="remove nothing")
    parser.add_argument("--empty", action="store_true", help="runs without a record")
    parser.add_argument("--checkpoints", action="store_true", help="older checkpoints")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Remove."""
    runs = _rundir.runs_dir()
    found = list(_garbage(runs, empty=arguments.empty, checkpoints=arguments.checkpoints))
    rows = [(path, reason, _size(path)) for path, reason in found]
    if not arguments.dry_run:
        for path, _ in found:
            _remove(path)
    if arguments.json:
        _print.print_json([{"path": str(p), "reason": r, "bytes": s} for p, r, s in rows])
        return 0
    table = [[str(p.relative_to(runs)), r, f"{s / 2**20:.1f} MiB"] for p, r, s in rows]
    if table:
        _print.print_table(["in " + str(runs), "reason", "size"], table, fixed=3)
    total = sum(size for _, _, size in rows) / 2**20
    what = "would be removed" if arguments.dry_run else "removed"
    print(f"{len(rows)} {what}, {total:.1f} MiB")
    return 0


def _garbage(runs: Path, *, empty: bool, checkpoints: bool) -> Iterator[tuple[Path, str]]:
    dropped: set[Path] = set()
    for run_id in read.run_ids(runs):
        directory = runs / run_id
        if read.read_view(directory).status in (RUNNING, DAMAGED, QUEUED):
            continue
        if empty and _is_empty(directory):
            dropped.add(directory)
            yield directory, "run without a record"
        else:
            yield from _of_run(directory, checkpoints=checkpoints)
    yield from _unreferenced(runs, dropped)
    yield from _frozen(runs, dropped)


def _of_run(directory: Path, *, checkpoints: bool) -> Iterator[tuple[Path, str]]:
    for path in sorted(directory.glob(".*.tmp")):
        yield path, "left by a killed save"
    if checkpoints:
        newest_first = list(_rundir.checkpoints(directory).values())[::-1]
        whole = next((i for i, path in enumerate(newest_first) if _is_whole(path)), None)
        if whole is not None:
            for path in newest_first[whole + 1 :]:
                yield path, "older checkpoint"


def _is_whole(checkpoint: Path) -> bool:
    try:
        verify_checkpoint(checkpoint)
    except (ValueError, OSError):
        return False
    return True


def _unreferenced(runs: Path, dropped: set[Path]) -> Iterator[tuple[Path, str]]:
    """Contents that no run refers to; none while there is a run that cannot be read whole.

    A run that begins puts its contents before it says so: what is young is spared.
    """
    needed: set[str] = set()
    for directory in _directories(runs) - dropped:
        try:
            events = read_lines(directory / EVENTS) if (directory / EVENTS).exists() else ([], [])
            has_config = (directory / CONFIG).exists() or not any(directory.iterdir())
        except OSError:
            events, has_config = ([], [0]), False
        if events[1] or not has_config:
            print(f"{directory} cannot be read whole: contents are left alone", file=sys.stderr)
            return
        for event in read_events(directory):
            if event["event"] == "start":
                git = event["provenance"].get("git") or {}
                needed |= {*event["sources"].values(), *git.get("untracked", {}).values()}
                needed |= {str(event["provenance"].get("lock")), str(git.get("diff"))}
    for name, path in sorted(Store(runs).names().items()):
        if name not in needed and time.time() - path.stat().st_mtime > _YOUNG_S:
            yield path, "of no run"


def _frozen(runs: Path, dropped: set[Path]) -> Iterator[tuple[Path, str]]:
    """Code and packages frozen for jobs and sweeps that are gone; what is young is spared."""
    needed: set[str] = set()
    for directory in (_directories(runs) | _directories(runs / SWEEPS)) - dropped:
        job = read_json(directory / JOB, {})
        if not job and (directory / JOB).exists():
            print(f"{directory / JOB} cannot be read: frozen code is left alone", file=sys.stderr)
            return
        for name in ("code", "python"):
            needed |= {part for part in Path(str(job.get(name, ""))).parts if "-" in part}
    for path in sorted((runs / FROZEN).glob("*")) + sorted((runs / FROZEN).glob(".*.tmp")):
        if path.name not in needed and time.time() - path.stat().st_mtime > _YOUNG_S:
            yield path, "frozen for no run"


def _directories(runs: Path) -> set[Path]:
    if not runs.is_dir():
        return set()
    found = {path for path in runs.iterdir() if path.is_dir() and path.name != SWEEPS}
    return {path for path in found if not path.name.startswith(".")}


def _is_empty(directory: Path) -> bool:
    has_records = (directory / METRICS).exists() and bool(read_records(directory / METRICS))
    return not has_records and not _rundir.checkpoints(directory)


def _remove(path: Path) -> None:
    """Remove a run, or something in one, only while nobody writes that run."""
    run_dir = path if (path / CONFIG).exists() else path.parent
    if not (run_dir / CONFIG).exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return
    with unwritten(run_dir) as is_free:
        if is_free:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        else:
            print(f"kept: {path}, its run is being written", file=sys.stderr)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(item.lstat().st_size for item in files if item.is_file())
