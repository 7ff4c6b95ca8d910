"""Files that outlive crashes: checksummed lines, small files written whole, patience.

A process killed at any moment leaves at most one torn line, which readers drop and the next writer
removes. What was appended is on the disk within a few seconds (power failure), at once for any
other process (kill -9). A full disk pauses the writer until there is space.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

_T = TypeVar("_T")
_POLL_S = 1.0
_SYNC_EVERY_S = 2.0
_SEAL = ', "crc32": "'
_NO_SPACE_BYTES = 64 * 1024
_encode = json.JSONEncoder(allow_nan=False).encode

_paused: list[str] = []
_impatient = threading.Event()


def paused() -> str | None:
    """What this process waits for space to write; None if it does not wait."""
    return _paused[-1] if _paused else None


def set_patience(waits: bool) -> None:
    """Whether `patiently` waits; not in a process that is being ended at once."""
    (_impatient.clear if waits else _impatient.set)()


def patiently(action: Callable[[], _T], *, place: Path, what: str) -> _T:
    """Do `action`; while the disk of `place` is full, say so, wait, and do it again.

    Args:
        action: may be repeated: it undoes what a failed attempt left.
        place: a path on the disk that is written to.
        what: what is written, for the message.

    Raises:
        KeyboardInterrupt: a signal handler may end the wait so.
        Exception: whatever `action` raises for another reason than a full disk.
    """
    started: float | None = None
    while True:
        try:
            result = action()
        except Exception as error:
            if _impatient.is_set() or not is_full(error, place):
                raise
            if started is None:
                started = time.monotonic()
                _say(
                    f"PAUSED: the disk of {_existing(place)} is full, {what} cannot be written; "
                    "nothing is lost. Free some space and this goes on by itself"
                )
            _wait_for_space(place, what)
            continue
        if started is not None:
            _say(f"space is back: {what} is written, after {time.monotonic() - started:.0f} s")
        return result


def is_full(error: BaseException, place: Path) -> bool:
    """Whether an error comes from a full disk (or a quota used up), whoever raised it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
        return True  # of libraries that raise errors of their own
    return shutil.disk_usage(_existing(place)).free < _NO_SPACE_BYTES


def _wait_for_space(place: Path, what: str) -> None:
    """Wait until the free space has grown; a while at most, since quotas do not show there."""
    _paused.append(f"the disk is full: {what} waits")
    try:
        free = shutil.disk_usage(_existing(place)).free
        for _ in range(10):
            time.sleep(_POLL_S)
            if shutil.disk_usage(_existing(place)).free > free:
                return
    finally:
        _paused.pop()


def _existing(place: Path) -> Path:
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Write a small file so that a reader finds the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")

    def write() -> None:
        try:
            with open(temporary, "wb", opener=lambda p, flags: os.open(p, flags, mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)

    patiently(write, place=path, what=path.name)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendFile:
    """A file that grows by whole pieces: what a failed write left of one is taken back.

    One process writes to it at a time. Pieces are synced to the disk by a thread, for a sync takes
    longer than a training step may wait.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = patiently(
            lambda: os.open(path, flags, 0o644), place=path, what=path.name
        )
        if is_new:
            sync(path.parent)
        self._end = os.fstat(self._descriptor).st_size
        self._lock = threading.RLock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._syncer = threading.Thread(target=self._sync, name=f"sync {path.name}", daemon=True)
        self._syncer.start()

    def append(self, data: bytes) -> None:
        """Append all of `data`, waiting while the disk is full."""
        try:
            self.try_append(data)
        except OSError:
            patiently(lambda: self.try_append(data), place=self.path, what=self.path.name)

    def try_append(self, data: bytes) -> None:
        """Append all of `data` or nothing.

        Raises:
            OSError: the disk is full, or broken.
            ValueError: the file is closed.
        """
        with self._lock:
            if self._closing.is_set():
                raise ValueError(f"{self.path} is closed")
            written = 0
            try:
                while written < len(data):
                    written += os.write(self._descriptor, data[written:])
            except BaseException:
                os.ftruncate(self._descriptor, self._end)
                raise
            self._end += written
        if not self._dirty.is_set():
            self._dirty.set()

    def cut(self, size: int) -> None:
        """Drop what stands behind the first `size` bytes."""
        with self._lock:
            os.ftruncate(self._descriptor, size)
            self._end = size

    def read(self) -> bytes:
        """All that is in the file."""
        return self.path.read_bytes()

    def close(self) -> None:
        """Have everything on the disk and close."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        self._dirty.set()
        self._syncer.join()
        os.close(self._descriptor)

    def _sync(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            last = self._closing.is_set()
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                _say(f"warning: {self.path} may not be on the disk yet: {error.strerror}")
            if last:
                return
            self._closing.wait(_SYNC_EVERY_S)


class LineFile:
    """An append-only file of JSON objects, a line each, each with a checksum."""

    def __init__(self, path: Path) -> None:
        self._file = AppendFile(path)
        whole = self._file.read()
        torn = len(whole) - (whole.rfind(b"\n") + 1)
        if torn:  # the writer before was killed in the middle of a line
            self._file.cut(len(whole) - torn)

    def append(self, document: Mapping[str, object]) -> None:
        """Append one line, waiting while the disk is full; other processes see it at once."""
        self._file.append(_sealed(_encode(document)))

    def append_json(self, text: str) -> None:
        """`append` for a JSON object that is written already."""
        self._file.append(_sealed(text))

    def close(self) -> None:
        """Have everything on the disk and close."""
        self._file.close()


def seal(document: Mapping[str, object]) -> str:
    """A line of JSON that ends with the checksum of what stands before it."""
    return _sealed(_encode(document)).decode()


def _sealed(text: str) -> bytes:
    body = text[:-1].encode()
    return b'%b, "crc32": "%08x"}\n' % (body, zlib.crc32(body))


def unseal(line: str) -> dict[str, object]:
    """The object of a sealed line; a line of an older version, without checksum, is taken as it is.

    Raises:
        ValueError: the line is torn or changed.
    """
    body, mark, checksum = line.rstrip("\n").rpartition(_SEAL)
    if mark and checksum != f'{zlib.crc32(body.encode()):08x}"}}':
        raise ValueError("the checksum does not match")
    document = json.loads(body + "}" if mark else line)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return cast(dict[str, object], document)


def read_lines(path: Path) -> tuple[list[dict[str, object]], list[int]]:
    """The whole lines of a file, and the numbers (from 1) of damaged ones that were passed over.

    A last line without its end is being written, or was torn by a kill: it is no damage. A line
    without checksum is damaged behind one that has it.
    """
    documents: list[dict[str, object]] = []
    damaged: list[int] = []
    sealed = False
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                break
            try:
                document = unseal(line)
            except ValueError:
                damaged.append(number)
                continue
            if _SEAL in line:
                sealed = True
            elif sealed:
                damaged.append(number)
                continue
            documents.append(document)
    return documents, damaged
