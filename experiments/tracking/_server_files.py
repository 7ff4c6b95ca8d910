"""The files and the port of an embedded MongoDB, and whether its process lives."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import random
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from marlcore.config_errors import ConfigError

FOLDER = ".mongo"
DATA, LOG, PID = "data", "mongod.log", "mongod.pid"
KEY, SETTINGS, LOCK = "keyfile", "server.json", "lock"
SET = "rs0"
DATABASE = "sacred"
"""The name that Omniboard and Sacred take."""
USERS = ("admin", "marl", "reader")
LONGEST_LOG = 5_000_000


@dataclass(frozen=True)
class Settings:
    """What server.json holds. member: the port that the replica set knows; None before set-up."""

    port: int
    member: int | None
    passwords: dict[str, str] = field(repr=False)

    @property
    def ready(self) -> bool:
        """Whether the replica set and the users stand, at this port."""
        return self.member == self.port

    def uri(self, user: str) -> str:
        """The URI for a user; it holds the password."""
        place = f"{user}:{self.passwords[user]}@127.0.0.1:{self.port}/{DATABASE}"
        return f"mongodb://{place}?replicaSet={SET}&authSource=admin&retryWrites=true&w=majority"


def folder_of(directory: Path) -> Path:
    """Where the database of a runs directory lies."""
    return directory.resolve() / FOLDER


def make(folder: Path) -> None:
    """Make the folder, for its owner alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)


@contextmanager
def locked(folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock that one start or stop holds at a time.

    Raises:
        ConfigError: another process has held it for longer than timeout_s.
    """
    with (folder / LOCK).open("a") as file:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"another process has been starting or stopping the database in {folder} "
                        f"for {timeout_s:g} s; end it and try again"
                    ) from None
                time.sleep(0.05)
        yield


def running_pid(folder: Path) -> int | None:
    """The process id of the mongod of this folder, if it lives on this machine."""
    try:
        pid = int((folder / PID).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(folder / DATA) in words else None


def read(folder: Path) -> Settings | None:
    """What server.json holds; None if it is missing or damaged."""
    try:
        values = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        passwords = {user: str(values["passwords"][user]) for user in USERS}
        member = values["member"]
        return Settings(int(values["port"]), None if member is None else int(member), passwords)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def new_settings(folder: Path) -> Settings:
    """Make and write new passwords, a new key and the empty folder of the data."""
    _write(folder / KEY, base64.b64encode(secrets.token_bytes(512)).decode() + "\n", 0o600)
    passwords = {user: secrets.token_urlsafe(24) for user in USERS}
    settings = _save(folder, Settings(free_port(), None, passwords))
    (folder / DATA).mkdir(mode=0o700)
    return settings


def with_other_port(folder: Path, settings: Settings) -> Settings:
    """Change the port to a free one."""
    return _save(folder, replace(settings, port=free_port()))


def mark_ready(folder: Path, settings: Settings) -> Settings:
    """Note that the replica set and the users stand, at this port."""
    return _save(folder, replace(settings, member=settings.port))


def remove_data(folder: Path) -> None:
    """Remove what a start that was cut short has left."""
    shutil.rmtree(folder / DATA, ignore_errors=True)


def size(folder: Path) -> int:
    """Bytes of all files in the folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # mongod removes files as it likes
            continue
    return total


def prepare_log(folder: Path) -> None:
    """Begin a new log once it is long, and mark where this start begins."""
    path = folder / LOG
    length = path.stat().st_size if path.exists() else 0
    if length > LONGEST_LOG:
        path.replace(folder / (LOG + ".old"))
        length = 0
    (folder / (LOG + ".start")).write_text(str(length))


def last_error(folder: Path) -> str:
    """The last error that mongod has logged since its start."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(int((folder / (LOG + ".start")).read_text()))
            lines = file.read(LONGEST_LOG).splitlines()
    except (OSError, ValueError):
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("s") in ("E", "F"):
            return _explain(entry)[:300]
    return ""


def _explain(entry: dict[str, Any]) -> str:
    """What a line of the log says; WiredTiger nests its own message in it."""
    details = entry.get("attr", {})
    message = details.get("message", {})
    if isinstance(message, dict) and "error_str" in message:
        return f"{message['error_str']} ({message.get('msg', '')})"
    return " ".join(f"{entry.get('msg', '')} {details.get('error', '')}".split())


def _save(folder: Path, settings: Settings) -> Settings:
    _write(folder / SETTINGS, json.dumps(asdict(settings), indent=2) + "\n", 0o600)
    return settings


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file whole or not at all; it is never readable by others."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def is_free(port: int, *, within_s: float = 0.0) -> bool:
    """Whether a server could listen on this port of loopback, now or soon."""
    deadline = time.monotonic() + within_s
    while not _can_bind(port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free port below those that the system gives to outgoing connections."""
    ports = random.SystemRandom().sample(range(20000, 32000), 200)
    for port in ports:
        if is_free(port):
            return port
    raise ConfigError("there is no free port on 127.0.0.1 from 20000 to 32000")
