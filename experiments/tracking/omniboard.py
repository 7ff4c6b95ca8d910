"""Omniboard, the page on which runs are browsed: installed once, guarded, on loopback.

The version is fixed by omniboard_page/package-lock.json; guard.js beside it is loaded into the
process; patches.json mends what breaks with our records.
"""

from __future__ import annotations

import base64
import http.client
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.tracking._omniboard_install import VERSION, find_node, install
from experiments.tracking._server_files import free_port, is_free
from marlcore.config_errors import ConfigError

__all__ = ["PORT", "USER", "VERSION", "Page", "cache_dir", "install", "open_in_browser", "start"]

USER = "marl"
PORT = 9000
"""Omniboard's own. The browser keeps columns and filters by port."""
START_S = 40.0
_GUARD = Path(__file__).parent / "omniboard_page" / "guard.js"
_TAKEN = 98
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "TMPDIR")
_LOG_BYTES = 4000
_REFUSED = "Authentication failed"


@dataclass
class Page:
    """A running Omniboard."""

    process: subprocess.Popen[bytes] = field(repr=False)
    port: int
    read_only: bool
    password: str = field(repr=False)
    _links: list[Path] = field(default_factory=list, repr=False)

    @property
    def address(self) -> str:
        """Where it is; a browser asks for user and password there."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def url(self) -> str:
        """A link that needs no password, since it holds it."""
        return f"{self.address}?token={self.password}"

    @property
    def is_up(self) -> bool:
        """Whether its process lives."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it and remove the files that hold its link."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for folder in self._links:
            shutil.rmtree(folder, ignore_errors=True)


def cache_dir() -> Path:
    """Where Omniboard is installed: MARL_CACHE_DIR, else marlcore in the user's cache.

    Raises:
        ConfigError: the user has no home directory.
    """
    own = os.environ.get("MARL_CACHE_DIR")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(shared) if shared else Path.home() / ".cache") / "marlcore"
    except RuntimeError:
        raise ConfigError("there is no home directory; set MARL_CACHE_DIR") from None


def start(
    uri: str,
    *,
    port: int | None = None,
    read_only: bool = False,
    cache: Path | None = None,
    log: Path | None = None,
    say: Callable[[str], None] = print,
) -> Page:
    """Start Omniboard on a database and wait until it shows it; install it first if need be.

    Args:
        uri: the database, with user and password; no process list shows it.
        port: the one to use; 9000 or, if that is taken, any unless it is given.
        read_only: refuse every change; give the URI of a user who can only read as well.
        cache: where it is installed; cache_dir() unless given.
        log: what it prints is appended to this file.
        say: is called with lines that tell of progress.

    Raises:
        ConfigError: it cannot be installed or started, or does not reach the database.
    """
    home = install(cache or cache_dir(), say)
    for chosen in (port,) if port is not None else (PORT, free_port(), free_port()):
        if not is_free(chosen):
            continue
        page = _start(home, uri, chosen, read_only, log)
        if page is not None:
            return page
    wanted = f"port {port} is" if port is not None else f"port {PORT} and others are"
    raise ConfigError(f"{wanted} taken on 127.0.0.1; give another one by --port")


def _start(home: Path, uri: str, port: int, read_only: bool, log: Path | None) -> Page | None:
    """The page, once it answers; None if the port is taken."""
    token = secrets.token_urlsafe(24)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {
        "NODE_ENV": "production",
        "MONGO_URI": uri,
        "PORT": str(port),
        "MARL_PAGE_PORT": str(port),
        "MARL_PAGE_TOKEN": token,
        "MARL_PAGE_PARENT": str(os.getpid()),
        "MARL_PAGE_READ_ONLY": "1" if read_only else "0",
        "npm_package_version": VERSION,
    }
    with _log_file(log) as output:
        begin = output.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [find_node(), "--no-deprecation", "-r", str(_GUARD), str(home / "dist" / "index.js")],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        page = Page(process, port, read_only, token)
        try:
            deadline = time.monotonic() + START_S
            while (found := _answers(page)) is not True:
                if process.poll() == _TAKEN:
                    return None
                said = _said(output, begin)
                late = time.monotonic() > deadline or _REFUSED in said
                if late or process.poll() is not None:
                    raise _failed(said, process.poll(), found)
                time.sleep(0.1)
        except BaseException:
            page.stop()
            raise
    return page


def _log_file(log: Path | None) -> Any:
    if log is None:
        return tempfile.TemporaryFile()
    return os.fdopen(os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b")


def _answers(page: Page) -> bool | int:
    """True if a query of the database succeeds; else the status, or False without an answer."""
    login = base64.b64encode(f"{USER}:{page.password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
    try:
        path = "/sacred/api/v1/Runs?limit=1&select=_id"
        connection.request("GET", path, headers={"Authorization": f"Basic {login}"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True if status == 200 else status


def _said(output: Any, begin: int) -> str:
    """The end of what it has printed."""
    end = output.seek(0, os.SEEK_END)
    output.seek(max(begin, end - _LOG_BYTES))
    return output.read().decode(errors="replace")


def _failed(said: str, code: int | None, status: bool | int) -> ConfigError:
    errors = [line.strip() for line in said.splitlines() if "Error" in line or "failed" in line]
    last = f"; it says: {errors[-1][:300]}" if errors else ""
    if code is not None:
        what = f"ended with code {code}"
    elif status or _REFUSED in said:
        what = "cannot read the database"
    else:
        what = f"does not answer within {START_S:g} s"
    return ConfigError(f"Omniboard {what}{last}; is the database up?")


def open_in_browser(page: Page) -> bool:
    """Open the page in the user's browser; False if there is none, or no display.

    The browser is given a private file that leads on, since others can read its command line.
    """
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    folder = Path(tempfile.mkdtemp(prefix="marl-"))
    page._links.append(folder)
    path = folder / "runs.html"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        link = f'<meta http-equiv="refresh" content="0;url={page.url}">'
        file.write(f'<!doctype html>{link}<a href="{page.url}">Runs</a>\n')
    return browser.open(path.as_uri())
