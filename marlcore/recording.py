"""Where metrics go: the Recorder protocol, recorders in memory, of JSON lines, and for several.

The library never knows more of a record than this protocol; Sacred, TensorBoard, W&B and MongoDB
stand behind it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


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
    """Appends a line `{"step": .., "time": .., "metrics": {..}}` a record; whole after every call.

    Numbers that are not finite are written as null, for JSON has no others. On resuming, records
    later than the checkpoint are dropped first (`drop_after`), so that a repeated step stands once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append a line and flush it."""
        values = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), "metrics": values}) + "\n")
        self._file.flush()

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


def read_records(path: Path) -> list[dict[str, object]]:
    """Read the lines of a JsonLinesRecorder without a torn last line (the process was killed)."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def drop_after(path: Path, *, step: int) -> None:
    """Rewrite a metrics file without records later than `step`, atomically; no file, no change."""
    if not path.exists():
        return
    kept = [record for record in read_records(path) if int(str(record["step"])) <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    temporary.replace(path)
