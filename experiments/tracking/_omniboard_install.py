"""Installing Omniboard: npm ci into a folder of the user's cache, once, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from marlcore.config_errors import ConfigError

VERSION = "2.16.1"
SOURCE = Path(__file__).parent / "omniboard_page"
PROGRESS_S = 10.0
INSTALL_S = 900.0
OLDEST_NODE = 16
_LEFT_OVER_S = 86400.0
_UNUSED = ("web/node_modules", "web/src", "docs")
"""A third of a gigabyte that the built page does not need."""
_OFFLINE = re.compile(
    r"ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|EIDLETIME"
)
_NO_NODE = "install Node.js 16 or newer by: apt-get install -y nodejs npm"


def find_node() -> str:
    """The node to run.

    Raises:
        ConfigError: there is none, or it is too old.
    """
    node = shutil.which("node")
    if node is None:
        raise ConfigError(f"Omniboard needs node, which is not on PATH; {_NO_NODE}")
    done = subprocess.run([node, "--version"], capture_output=True, text=True)
    match = re.match(r"v(\d+)\.", done.stdout)
    if match is None or int(match[1]) < OLDEST_NODE:
        found = done.stdout.strip() or "does not run"
        raise ConfigError(f"Omniboard needs another node than {node} ({found}); {_NO_NODE}")
    return node


def install(cache: Path, say: Callable[[str], None] = print) -> Path:
    """The folder of an installed Omniboard; installs it there the first time (about a minute).

    Raises:
        ConfigError: node or npm is missing, the registry is out of reach, or the disk is full.
    """
    files = [SOURCE / name for name in ("package-lock.json", "patches.json")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    target = cache / f"omniboard-{VERSION}-{digest[:12]}"
    page = Path("node_modules/omniboard")
    if (target / page).is_dir():
        return target / page
    find_node()
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(f"Omniboard is installed by npm, which is not on PATH; {_NO_NODE}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(cache)
        folder = Path(tempfile.mkdtemp(prefix=".omniboard-", dir=cache))
        try:
            _npm_ci(npm, folder, say)
            _patch(folder / page, say)
            for name in _UNUSED:
                shutil.rmtree(folder / page / name, ignore_errors=True)
            _put(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"Omniboard cannot be installed in {cache}: {error.strerror or error}; it takes 600 MB "
            "for a while and 200 MB to stay; set MARL_CACHE_DIR to a directory with room"
        ) from None
    say(f"Omniboard {VERSION} is installed in {target}")
    return target / page


def _put(folder: Path, target: Path) -> None:
    """Give the finished folder its name, unless another process was faster."""
    folder.chmod(0o755)
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _npm_ci(npm: str, folder: Path, say: Callable[[str], None]) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(SOURCE / name, folder / name)
    names = json.loads((folder / "package-lock.json").read_text())["packages"]
    say(f"installing Omniboard {VERSION} ({len(names) - 1} packages, once, takes about a minute)")
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress"]
    command += ["--loglevel=error", "--no-update-notifier"]
    command += [
        "--fetch-retries=2",
        "--fetch-retry-mintimeout=1000",
        "--fetch-retry-maxtimeout=5000",
    ]
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            while True:
                try:
                    code = process.wait(PROGRESS_S)
                    break
                except subprocess.TimeoutExpired:
                    spent = time.monotonic() - begin
                    if spent > INSTALL_S:
                        raise ConfigError(
                            f"npm has not installed Omniboard within {INSTALL_S:g} s; "
                            "try again where the registry is faster"
                        ) from None
                    say(f"  {spent:.0f} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        if code:
            raise _refused(code, output.read())


def _refused(code: int, output: str) -> ConfigError:
    lines = [re.sub(r"//[^/\s]*@", "//", line) for line in output.splitlines()]
    told = [re.sub(r"^npm (error|ERR!)\s*", "", line).strip() for line in lines]
    told = [line for line in told if line and "complete log" not in line and line[0] != "/"]
    if "ENOSPC" in output:
        return ConfigError("npm finds no room on the disk for Omniboard; free 600 MB")
    if match := _OFFLINE.search(output):
        return ConfigError(
            f"npm cannot reach its registry ({match[0]}), so Omniboard cannot be installed; "
            "connect to the network, name another by `npm config set registry URL`, or copy the "
            "cache of a machine that has it (MARL_CACHE_DIR)"
        )
    last = f": {'; '.join(told[:2])[:300]}" if told else ""
    return ConfigError(f"npm ended with code {code} installing Omniboard{last}")


def _patch(page: Path, say: Callable[[str], None]) -> None:
    for patch in json.loads((SOURCE / "patches.json").read_text()):
        paths = list(page.glob(patch["file"]))
        text = paths[0].read_text(encoding="utf-8") if len(paths) == 1 else ""
        if text.count(patch["find"]) != 1:
            say(f"warning: Omniboard differs from what was expected; not mended: {patch['why']}")
            continue
        paths[0].write_text(text.replace(patch["find"], patch["replace"]), encoding="utf-8")


def _remove_left_overs(cache: Path) -> None:
    """Remove what installations left that were killed, but none that may still go on."""
    for path in cache.glob(".omniboard-*"):
        if time.time() - os.stat(path).st_mtime > _LEFT_OVER_S:
            shutil.rmtree(path, ignore_errors=True)
