"""Contents shared by the runs of a directory, each once, by their sha256: sources, lock, patches.

runs/.store/3f/3fa2...    a file's content
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from marlcore.durable import write_whole

STORE = ".store"


class Store:
    """The contents beside the runs in `runs`."""

    def __init__(self, runs: Path) -> None:
        self.root = runs / STORE

    def put(self, content: bytes) -> str:
        """Keep the content; returns its sha256."""
        name = hashlib.sha256(content).hexdigest()
        path = self._path(name)
        try:
            os.utime(path)  # gc spares what was needed lately
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        return name

    def get(self, name: str) -> bytes:
        """The content of that sha256.

        Raises:
            FileNotFoundError: it is not here, or was changed since.
        """
        content = self._path(name).read_bytes()
        if hashlib.sha256(content).hexdigest() != name:
            raise FileNotFoundError(f"{self._path(name)} does not match its sha256: it was changed")
        return content

    def __contains__(self, name: str) -> bool:
        """Whether that content is here."""
        return self._path(name).is_file()

    def names(self) -> dict[str, Path]:
        """Everything there is."""
        return {path.name: path for path in self.root.glob("??/*") if not path.name.startswith(".")}

    def _path(self, name: str) -> Path:
        return self.root / name[:2] / name
