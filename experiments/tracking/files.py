"""A run's sources and artifacts in GridFS, each content once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bson import ObjectId
from gridfs import GridFS

from experiments.tracking.documents import identity, storable
from experiments.tracking.store import Store

DIFF = "code.diff"
"""Artifact that holds what was changed since the commit."""


class Files:
    """Puts the files of one run where Sacred's MongoObserver puts them."""

    def __init__(self, fs: GridFS, run_dir: Path) -> None:
        self._fs, self._run_dir = fs, run_dir
        self._store = Store(run_dir.resolve().parent)
        self._there: set[ObjectId] = set()
        self._sums: dict[tuple[Path, int, int], str] = {}

    def sources(self, events: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """[name, file id] of every source of the last attempt."""
        start = [event for event in events if event["event"] == "start"][-1]
        root, result = start["sacred"]["experiment"]["base_dir"], []
        for name, content in start["sources"].items():
            path = storable(os.path.join(root, name))
            file_id = identity("source", path, content)
            try:
                self._put(file_id, lambda c=content: self._store.get(c), filename=path)
            except FileNotFoundError:
                continue
            result.append([storable(name), file_id])
        return result

    def artifacts(self, number: int, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """{name, file_id} of every artifact that is still there, the newest of a name."""
        found: dict[str, tuple[Path, str | None]] = {}
        for event in events:
            if event["event"] == "artifact":
                found[event["name"]] = (self._run_dir / event["file"], event["content_type"])
        result = [self._diff(number, events)]
        for name, (path, content_type) in found.items():
            if path.is_file():
                content = self._sha256(path)
                result.append(self._artifact(number, name, content, path.read_bytes, content_type))
        return [artifact for artifact in result if artifact is not None]

    def _diff(self, number: int, events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        start = [event for event in events if event["event"] == "start"][-1]
        content = (start["provenance"].get("git") or {}).get("diff")
        if content is None or content not in self._store:
            return None
        return self._artifact(
            number, DIFF, content, lambda: self._store.get(content), "text/x-diff"
        )

    def _artifact(
        self, number: int, name: str, content: str, read: Any, content_type: str | None
    ) -> dict[str, Any]:
        filename = f"artifact://runs/{number}/{name}"
        file_id = identity("artifact", filename, content)
        fresh = file_id not in self._there
        self._put(file_id, read, filename=filename, metadata=None, content_type=content_type)
        if fresh:  # a resumed run replaces what the attempt before left under that name
            for old in self._fs.find({"filename": filename, "_id": {"$ne": file_id}}):
                self._fs.delete(old._id)
        return {"name": name, "file_id": file_id}

    def _put(self, file_id: ObjectId, read: Any, **fields: Any) -> None:
        """Store a file unless it is there; what a killed attempt left of it is removed."""
        if file_id in self._there:
            return
        if not self._fs.exists(file_id):
            self._fs.delete(file_id)
            self._fs.put(read(), _id=file_id, **fields)
        self._there.add(file_id)

    def _sha256(self, path: Path) -> str:
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._sums:
            self._sums[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._sums[key]
