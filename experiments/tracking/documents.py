"""A run's spool as the documents that Sacred's MongoObserver 0.7.0 would have written.

Nothing here talks to a server. Ids of files and metrics follow from what they are of, so that who
writes them twice writes the same.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bson import ObjectId

from experiments.tracking.decimation import Point
from experiments.tracking.spool import OUTPUT

FORMAT = "MongoObserver-0.7.0"
_HEAD, _TAIL = 100_000, 400_000
"""Bytes of output that a document holds; stdout.log has all."""


def moment(seconds: float) -> datetime.datetime:
    """A time as Sacred writes it: UTC without a zone; MongoDB keeps milliseconds."""
    utc = datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


def identity(*parts: str | bytes) -> ObjectId:
    """The id of a thing that `parts` name."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return ObjectId(digest.digest()[:12])


def started(events: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """Those fields that are known when a run starts; sources and artifacts are still missing."""
    starts = [event for event in events if event["event"] == "start"]
    sacred = starts[-1]["sacred"]
    return {
        "experiment": storable(sacred["experiment"]),
        "format": FORMAT,
        "command": sacred["command"],
        "host": storable(sacred["host"]),
        "start_time": _sacred_time(starts[0]["sacred"]["start_time"]),
        "config": storable(config),
        "meta": storable(sacred["meta"]),
        "status": "RUNNING",
        "resources": [],
        "artifacts": [],
        "captured_out": "",
        "info": info(starts),
        "heartbeat": None,
    }


def ended(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Status and end of the last attempt; RUNNING if there is none."""
    last = [event for event in events if event["event"] in ("start", "end")][-1]
    if last["event"] == "start":
        return {"status": "RUNNING"}
    fields = {"status": last["status"], "stop_time": moment(last["time"])}
    for name in ("result", "fail_trace"):
        if name in last:
            fields[name] = storable(last[name])
    return fields


def info(starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What Sacred leaves to the experiment: here the id, the attempts and the provenance."""
    last = starts[-1]
    return {
        "run_id": last["run_id"],
        "attempts": [
            {"attempt": s["attempt"], "host": s["host"], "start_time": moment(s["time"])}
            for s in starts
        ],
        "provenance": storable(last["provenance"]),
        **({"trial": storable(last["trial"])} if "trial" in last else {}),
    }


def metric(run_number: int, name: str, points: Sequence[Point]) -> dict[str, Any]:
    """A metric's document but for its id."""
    return {
        "run_id": run_number,
        "name": name,
        "steps": [step for step, _, _ in points],
        "timestamps": [moment(seconds) for _, seconds, _ in points],
        "values": [value for _, _, value in points],
    }


def output(run_dir: Path) -> str:
    """What was printed; of a long output the beginning and the end."""
    path = run_dir / OUTPUT
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= _HEAD + _TAIL:
                return _text(file.read())
            head = _text(file.read(_HEAD))
            file.seek(size - _TAIL)
            tail = _text(file.read())
    except OSError:
        return ""
    left_out = size - _HEAD - _TAIL
    return f"{head}\n[... {left_out:,} bytes are left out here; stdout.log has all ...]\n{tail}"


def storable(value: Any) -> Any:
    """Plain data as BSON can hold it: keys are texts without a leading $, integers have 64 bits."""
    if isinstance(value, Mapping):
        return {_key(str(name)): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return str(value)
    return value


def _key(name: str) -> str:
    """As Sacred changes a key that MongoDB would not take."""
    name = storable(name).replace(".", ",").replace("\0", "")
    return "@" + name[1:] if name.startswith("$") else name


def _sacred_time(text: str) -> datetime.datetime:
    return moment(datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
