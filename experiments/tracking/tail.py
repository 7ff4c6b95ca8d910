"""Reads on in a metrics file that grows."""

from __future__ import annotations

from pathlib import Path

from experiments.tracking.decimation import Decimator
from marlcore.durable import unseal
from marlcore.recording import Record, add_line


class LinesTail:
    """The lines of a growing file, each once; a line that is not whole yet comes later."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> list[dict[str, object]]:
        """What is new."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        documents: list[dict[str, object]] = []
        for line in whole.decode("utf-8", "replace").splitlines():
            try:
                documents.append(unseal(line))
            except ValueError:  # damaged: `marl doctor` tells
                continue
        return documents


class MetricsTail:
    """The points of a growing metrics file, decimated."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, LinesTail(path)
        self.decimators: dict[str, Decimator] = {}

    def read(self) -> bool:
        """Take in what is new; returns whether the run took records back."""
        new = self._lines.read()
        if any("rewind" in document for document in new) and self.decimators:
            return self._read_anew()
        records: list[Record] = []
        for document in new:
            add_line(records, document)
        self._add(records)
        return False

    def _read_anew(self) -> bool:
        self._lines, self.decimators = LinesTail(self._path), {}
        self.read()
        return True

    def _add(self, records: list[Record]) -> None:
        for record in records:
            for name, value in record.metrics.items():
                self.decimators.setdefault(name, Decimator()).add((record.step, record.time, value))
