"""A real PostgreSQL for tests: on loopback, with a password, gone when the context ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_USER = "postgres"
"""It does not run as root; Debian's package makes this user."""


def why_not() -> str | None:
    """Why it cannot be had here; None if it can."""
    if _bin() is None:
        return "there is no PostgreSQL; Debian's package is postgresql"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(_USER)
        except KeyError:
            return f"there is no user {_USER}, and PostgreSQL does not run as root"
    return None


@dataclass
class Server:
    """A running server."""

    data: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        """As MARL_OPTUNA_URL."""
        return f"postgresql://marl:{self.password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories=''"
        self._control("-l", str(self.data / "log"), "-w", "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        """`immediate` is as good as kill -9."""
        self._control("-m", how, "stop")

    def _control(self, *words: str) -> None:
        run_as_server([str(_bin() / "pg_ctl"), "-D", str(self.data), *words])


def run_as_server(command: Sequence[str], **options: object) -> None:
    """Run a program of it as its user."""
    if os.geteuid() == 0:
        entry = pwd.getpwnam(_USER)
        options |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", **options)
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def running_postgres() -> Iterator[Server]:
    """A server with a database and a user `marl`."""
    folder = Path(tempfile.mkdtemp(prefix="marl-postgres-"))
    server = Server(folder / "data", _free_port(), secrets.token_urlsafe(16))
    try:
        password = folder / "password"
        password.write_text(server.password)
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_USER)
            for path in (folder, password):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        words = ["-U", "marl", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync"]
        run_as_server([str(_bin() / "initdb"), "-D", str(server.data), *words, "-E", "UTF8"])
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).parent if path else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
