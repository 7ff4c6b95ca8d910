"""Run directories read: a summary of each, quickly also for thousands of them."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from experiments.tracking import view
from experiments.tracking.spool import (
    CONFIG,
    EVENTS,
    JOB,
    METRICS,
    NOTES,
    REPLICA,
    TRIAL,
    is_alive,
    read_events,
    read_heartbeat,
    read_json,
)
from experiments.tracking.view import RunView, Series
from marlcore.durable import unseal
from marlcore.recording import Record, add_line, read_records

INDEX = ".index-3.sqlite"
"""Its number changes with its tables."""
_TAILS = (64 * 1024, 4 * 2**20)
"""Bytes at the end of a metrics file in which the last values are looked for."""


def read_view(run_dir: Path) -> RunView:
    """A summary of the run in a directory; a record that makes no sense has the status DAMAGED."""
    try:
        return _read_view(run_dir)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"the record makes no sense: {type(error).__name__}: {error}"
        path = run_dir.resolve()
        return RunView(path.name, "?", view.DAMAGED, {}, error=what, directory=str(run_dir))


def _read_view(run_dir: Path) -> RunView:
    events = read_events(run_dir)
    starts = [event for event in events if event["event"] == "start"]
    last = next((e for e in reversed(events) if e["event"] in ("start", "end")), None)
    records = _last_records(run_dir / METRICS)
    notes, replica = read_json(run_dir / NOTES, {}), read_json(run_dir / REPLICA, {})
    values, trial = read_json(run_dir / CONFIG, {}), read_json(run_dir / TRIAL, {})
    config = view.flat(values)
    provenance = starts[-1]["provenance"] if starts else {}
    git = provenance.get("git") or {}
    ended = last is not None and last["event"] == "end"
    return RunView(
        id=run_dir.resolve().name,
        name=str(config.get("algorithm.name", "?")),
        status=last["status"] if last is not None and ended else _unfinished(run_dir, bool(starts)),
        config=config,
        attempt=len(starts),
        started=starts[0]["time"] if starts else None,
        ended=last["time"] if last is not None and ended else None,
        heartbeat=(read_heartbeat(run_dir) or {}).get("time"),
        host=str(starts[-1]["host"]) if starts else "",
        env_steps=records[-1].step if records else None,
        metrics={key: value for record in records for key, value in record.metrics.items()},
        tags=tuple(notes.get("tags", ())),
        notes=str(notes.get("notes", "")),
        commit=git.get("commit"),
        dirty=bool(git.get("dirty")),
        error=last_line(last.get("fail_trace")) if last is not None else None,
        where="both" if replica.get("number") is not None else "disk",
        mongo_id=replica.get("number"),
        study=str(trial.get("study", "")),
        trial=trial.get("trial"),
        role=str(trial.get("role", "")),
        directory=str(run_dir),
    )


def read_series(run_dir: Path) -> dict[str, Series]:
    """Every point of every metric."""
    try:
        records = read_records(run_dir / METRICS)
    except OSError:
        return {}
    series: dict[str, Series] = {}
    for record in records:
        for key, value in record.metrics.items():
            one = series.setdefault(key, Series([], [], []))
            one.steps.append(record.step)
            one.times.append(record.time)
            one.values.append(value)
    return series


def _unfinished(run_dir: Path, has_started: bool) -> str:
    if is_alive(read_heartbeat(run_dir)):
        return view.RUNNING
    if has_started:
        return view.DEAD
    job = read_json(run_dir / JOB, {})
    if not job:
        return view.NEW
    return view.INTERRUPTED if job.get("is_cancelled") else view.QUEUED


def _last_records(path: Path) -> list[Record]:
    """The records at the end of a file, so far back that an evaluation is among them."""
    try:
        with path.open("rb") as file:
            for size in _TAILS:
                start = max(0, os.fstat(file.fileno()).st_size - size)
                file.seek(start)
                records = _records_in(file.read(), is_cut=start > 0)
                if start == 0 or any(key.startswith("eval/") for r in records for key in r.metrics):
                    break
    except OSError:
        return []
    return records


def _records_in(data: bytes, *, is_cut: bool) -> list[Record]:
    records: list[Record] = []
    lines = data[: data.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines()
    for line in lines[1 if is_cut else 0 :]:
        with contextlib.suppress(ValueError):
            add_line(records, unseal(line))
    return records


def last_line(trace: Any) -> str | None:
    """Of a traceback."""
    text = "".join(trace) if isinstance(trace, list) else ""
    return text.strip().splitlines()[-1] if text.strip() else None


def list_views(runs: Path) -> list[RunView]:
    """A summary of every run in a directory, oldest first.

    Summaries are kept in an index beside the runs and read anew when a file of theirs changed; an
    index that is lost, locked or damaged costs time alone.
    """
    signatures = dict(_signatures(runs))
    index = _Index(runs / INDEX)
    known = index.load()
    views: dict[str, RunView] = {}
    for run_id, signature in signatures.items():
        cached = known.get(run_id)
        if cached is not None and cached[0] == signature:
            views[run_id] = _from_index(runs / run_id, cached[1])  # the runs may have moved
        else:
            views[run_id] = read_view(runs / run_id)
    index.save(
        {i: (s, views[i]) for i, s in signatures.items() if known.get(i, ("",))[0] != s},
        gone=known.keys() - signatures.keys(),
    )
    return sorted(views.values(), key=lambda one: (one.started or 0.0, one.id))


def run_ids(runs: Path) -> list[str]:
    """The ids of all runs in a directory."""
    return [run_id for run_id, _ in _signatures(runs)]


def _signatures(runs: Path) -> Iterator[tuple[str, str]]:
    """(Id, what changes whenever the run's summary may have changed)."""
    try:
        entries = sorted(os.scandir(runs), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not os.path.exists(f"{entry.path}/{CONFIG}"):
            continue
        parts: list[str] = []
        for name in (EVENTS, METRICS, NOTES, REPLICA):
            try:
                status = os.stat(f"{entry.path}/{name}")
                parts.append(f"{status.st_size}.{status.st_mtime_ns}")
            except OSError:
                parts.append("")
        yield entry.name, " ".join(parts)


def _from_index(run_dir: Path, found: RunView) -> RunView:
    if found.directory != str(run_dir):
        found = replace(found, directory=str(run_dir))
    if found.ended is None:  # then the status changes without a change of these files
        sign = read_heartbeat(run_dir)
        status = _unfinished(run_dir, found.attempt > 0)
        return replace(found, status=status, heartbeat=(sign or {}).get("time"))
    return found


class _Index:
    """The summaries of the last time.

    Keys of configurations and metrics, which are the same in many runs, are stored once: reading
    them thousands of times would take most of the time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, tuple[str, RunView]]:
        try:
            with contextlib.closing(self._connect()) as database:
                names = dict(database.execute("SELECT id, names FROM names").fetchall())
                rows = database.execute("SELECT * FROM runs").fetchall()
            names = {number: json.loads(text) for number, text in names.items()}
            summaries = json.loads("[" + ",".join(row[-1] for row in rows) + "]")
            return {
                run_id: (signature, _decoded(summary, names[keys], names[metrics]))
                for (run_id, signature, keys, metrics, _), summary in zip(
                    rows, summaries, strict=True
                )
            }
        except (sqlite3.Error, ValueError, OSError, KeyError, TypeError):
            return {}

    def save(self, changed: dict[str, tuple[str, RunView]], *, gone: set[str]) -> None:
        if not changed and not gone:
            return
        try:
            with contextlib.closing(self._connect()) as database, database:
                rows = [
                    (
                        i,
                        s,
                        _number(database, one.config),
                        _number(database, one.metrics),
                        _text(one),
                    )
                    for i, (s, one) in changed.items()
                ]
                database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)", rows)
                database.executemany(
                    "DELETE FROM runs WHERE id = ?", [(run_id,) for run_id in gone]
                )
        except sqlite3.OperationalError:  # another process writes it, or it cannot be written
            return
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=1.0)
        database.executescript(
            "CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY, names TEXT UNIQUE);"
            "CREATE TABLE IF NOT EXISTS runs"
            " (id TEXT PRIMARY KEY, signature TEXT, keys INT, metrics INT, summary TEXT);"
        )
        return database


def _number(database: sqlite3.Connection, values: Mapping[str, Any]) -> int:
    """The number under which these keys are stored."""
    text = (json.dumps(list(values)),)
    database.execute("INSERT OR IGNORE INTO names (names) VALUES (?)", text)
    return int(database.execute("SELECT id FROM names WHERE names = ?", text).fetchone()[0])


def _text(one: RunView) -> str:
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    values |= {"config": list(one.config.values()), "metrics": list(one.metrics.values())}
    return json.dumps(list(values.values()))


def _decoded(summary: list[Any], keys: list[str], metrics: list[str]) -> RunView:
    values = dict(zip(_FIELDS, summary, strict=True))
    values["config"] = dict(zip(keys, values["config"], strict=True))
    values["metrics"] = dict(zip(metrics, values["metrics"], strict=True))
    values["tags"] = tuple(values["tags"])
    return RunView(**values)


_FIELDS = [field.name for field in fields(RunView)]
