"""Where metrics go: the Recorder protocol, recorders in memory, of JSON lines, and for several.

The library never knows more of a record than this protocol; Sacred, TensorBoard, W&B and MongoDB
stand behind it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from marlcore.durable import LineFile, read_lines


class Recorder(Protocol):
    """Takes the metrics of a run, one record per update or evaluation."""

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Keep `metrics` (keys of marlcore.metrics) as of `step` env steps."""
        ...

    def add_artifact(self, path: Path) -> None:
        """Keep a file (a video, an evaluation) with the run."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class MemoryRecorder:
    """Keeps records in a list of (step, metrics)."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []
        self.artifacts: list[Path] = []

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append the record."""
        self.records.append((step, dict(metrics)))

    def add_artifact(self, path: Path) -> None:
        """Append the path."""
        self.artifacts.append(path)

    def close(self) -> None:
        """Do nothing: everything is in memory."""


class JsonLinesRecorder:
    """Appends a line `{"step": .., "time": .., "metrics": {..}, "crc32": ".."}` a record.

    A line is whole and seen by other processes after every call (marlcore.durable); a full disk
    pauses the call. Numbers that are not finite are the texts NaN, Infinity, -Infinity, since JSON
    has no others. Nothing is ever rewritten: a run that resumes from a checkpoint takes back the
    records after it by a line `{"rewind": step, ..}`.
    """

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)
        self._keys: dict[str, str] = {}

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append a line."""
        pairs = ", ".join([self._key(key) + _written(value) for key, value in metrics.items()])
        text = f'{{"step": {int(step)}, "time": {time.time()!r}, "metrics": {{{pairs}}}}}'
        self._file.append_json(text)  # by hand: json takes three times as long

    def _key(self, key: str) -> str:
        if key not in self._keys:
            self._keys[key] = json.dumps(key) + ": "
        return self._keys[key]

    def rewind(self, step: int, *, saved_at: float | None) -> None:
        """Take back the records later than a checkpoint: they are going to be repeated.

        `step` are its env steps, `saved_at` when it was written, if that is known: the evaluation
        behind a run's last checkpoint has the same step and comes later.
        """
        self._file.append({"rewind": step, "saved_at": saved_at, "time": time.time()})

    def add_artifact(self, path: Path) -> None:
        """Do nothing: artifacts lie beside the file already."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TeeRecorder:
    """Hands every record to several recorders."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = tuple(recorders)

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record with each."""
        for recorder in self._recorders:
            recorder.record(metrics, step=step)

    def add_artifact(self, path: Path) -> None:
        """Hand the artifact to each."""
        for recorder in self._recorders:
            recorder.add_artifact(path)

    def close(self) -> None:
        """Close each."""
        for recorder in self._recorders:
            recorder.close()


@dataclass(frozen=True)
class Record:
    """What was recorded at one moment."""

    step: int
    """Env steps."""
    time: float
    """Seconds since 1970."""
    metrics: dict[str, float]


def read_records(path: Path) -> list[Record]:
    """Read the records that stand: without a torn last line, damaged lines and what was rewound."""
    records: list[Record] = []
    for document in read_lines(path)[0]:
        add_line(records, document)
    return records


def add_line(records: list[Record], document: Mapping[str, object]) -> bool:
    """Apply a line of a metrics file to the records before it; whether it took some back."""
    if "rewind" in document:
        step, saved_at = document["rewind"], document.get("saved_at")
        if not isinstance(step, int):
            return False
        until = saved_at if isinstance(saved_at, float) else math.inf
        before = len(records)
        records[:] = [r for r in records if r.step <= step and not _is_later(r, step, until)]
        return len(records) < before
    step, moment, metrics = (document.get(name) for name in ("step", "time", "metrics"))
    if isinstance(step, int) and isinstance(moment, int | float) and isinstance(metrics, dict):
        values = cast(dict[str, object], metrics)
        kept = {key: _read(value) for key, value in values.items()}
        records.append(Record(step, float(moment), kept))
    return False


def _is_later(record: Record, step: int, until: float) -> bool:
    """Whether a record is the evaluation behind the checkpoint of that step."""
    is_evaluation = all(key.startswith("eval/") for key in record.metrics)
    return record.step == step and record.time > until and is_evaluation


def _written(value: float) -> str:
    value = float(value)  # of numpy or torch
    if math.isfinite(value):
        return repr(value)
    return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'


def _read(value: object) -> float:
    if isinstance(value, float):
        return value
    return math.nan if value is None else float(str(value))  # None: of an older version
