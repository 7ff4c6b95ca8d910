"""How far MongoDB has a run, as far as the run's directory knows; without pymongo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.tracking.spool import (
    CONFIG,
    EVENTS,
    METRICS,
    NOTES,
    OUTPUT,
    REPLICA,
    read_json,
)

NO_NOTES: dict[str, Any] = {"tags": [], "notes": ""}


def sizes(run_dir: Path) -> list[int]:
    """What grows whenever there is something new to replicate."""
    paths = [run_dir / name for name in (EVENTS, METRICS, OUTPUT, CONFIG)]
    return [path.stat().st_size if path.exists() else 0 for path in paths]


def notes(run_dir: Path) -> dict[str, Any] | None:
    """Tags and notes as they stand here; None if the file is damaged."""
    if not (run_dir / NOTES).exists():
        return NO_NOTES
    return as_notes(read_json(run_dir / NOTES, {"damaged": True}))


def as_notes(values: Any) -> dict[str, Any] | None:
    """{"tags": [..], "notes": ".."}; None if it is nothing of the kind."""
    if not isinstance(values, dict):
        return None
    tags, text = values.get("tags") or [], values.get("notes") or ""
    if "damaged" in values or not isinstance(tags, list) or not isinstance(text, str):
        return None
    return {"tags": [str(tag) for tag in tags], "notes": text}


def is_current(run_dir: Path, target: str) -> bool:
    """Whether a database was brought up to all that the run's directory holds."""
    replica = read_json(run_dir / REPLICA, {})
    return (
        replica.get("target") == target
        and replica.get("sizes") == sizes(run_dir)
        and notes(run_dir) in (None, replica.get("notes") or NO_NOTES)
    )


def describe_replica(run_dir: Path) -> str:
    """For people."""
    replica = read_json(run_dir / REPLICA, {})
    if replica.get("number") is None or not isinstance(replica.get("target"), str):
        return "not there; bring it there by: marl sync " + run_dir.resolve().name
    place = f"number {replica['number']} in {replica['target']}"
    if is_current(run_dir, replica["target"]):
        return f"{place}, up to date"
    return f"{place}, not up to date: marl sync {run_dir.resolve().name}"
