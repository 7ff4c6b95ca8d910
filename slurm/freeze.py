"""Code and packages as they are when a run is submitted: what is edited later is not in it.

    runs/.frozen/code-3fa2.../          the files of the repository
    runs/.frozen/environment-91c0.../   the virtual environment

Named by what they hold, so that many runs share them. They are made under another name and then
renamed: what has its name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.tracking import provenance
from experiments.tracking.provenance import ORIGIN, ROOT
from experiments.tracking.spool import FROZEN
from experiments.tracking.store import Store
from marlcore.config_errors import ConfigError

_PARTS = ("marlcore", "experiments", "sweeps", "slurm", "pyproject.toml", "requirements.lock")
"""What is copied where there is no git to say what belongs to the repository."""
_LARGEST = 20 * 2**20
"""Bytes; larger files are no code."""


def freeze_code(runs: Path) -> Path:
    """Copy the repository's files, committed or not, and say which commit they are near.

    Raises:
        ConfigError: they cannot be copied.
    """
    names = sorted(_files())
    origin = json.dumps(provenance.git(ROOT, Store(runs)), sort_keys=True)
    digest = hashlib.sha256(origin.encode())
    for name in names:
        content = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        digest.update(f"\0{name}\0{content}".encode())

    def fill(folder: Path) -> None:
        for name in [*names, *_compiled()]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)  # with its time: numba's cache looks at it
        (folder / ORIGIN).write_text(origin, encoding="utf-8")

    return _made(runs, f"code-{digest.hexdigest()[:16]}", fill)


def freeze_environment(runs: Path) -> Path:
    """Copy the virtual environment, by hard links where it lies on the same disk.

    What pip changes later are new files, so links keep the old ones.

    Returns:
        Its interpreter; outside of a virtual environment the one that runs this.

    Raises:
        ConfigError: it cannot be copied.
    """
    if sys.prefix == sys.base_prefix:
        print(
            f"note: {sys.executable} is in no virtual environment: packages are not frozen, and "
            "jobs use those that are there when they start"
        )
        return Path(sys.executable)
    prefix = Path(sys.prefix)

    def fill(folder: Path) -> None:
        if not _is_on_disk_of(prefix, folder):
            print(f"copying the packages of {prefix} to {folder.parent} (once)", flush=True)
        shutil.copytree(prefix, folder, symlinks=True, copy_function=_linked, dirs_exist_ok=True)

    made = _made(runs, f"environment-{_environment_key(prefix)}", fill)
    return made / "bin" / Path(sys.executable).name


def _environment_key(prefix: Path) -> str:
    """Changes whenever a package is installed, removed or updated."""
    digest = hashlib.sha256(f"{sys.version} {prefix}".encode())
    for record in sorted(prefix.glob("lib*/python*/site-packages/*.dist-info")):
        digest.update(f"{record.name} {record.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _made(runs: Path, name: str, fill: Callable[[Path], None]) -> Path:
    target = runs.resolve() / FROZEN / name
    try:
        if target.is_dir():
            os.utime(target)  # marl gc spares what was needed lately
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=target.parent))
        try:
            temporary.chmod(0o755)
            fill(temporary)
            os.utime(temporary)
            temporary.rename(target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            if not target.is_dir():  # another submission was faster
                raise
    except (OSError, shutil.Error) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"{target} cannot be made: {what[:200]}; MARL_RUNS_DIR says where runs are kept, and "
            "there must be space"
        ) from None
    return target


def _files() -> Iterator[str]:
    """The repository's files: what git knows or does not ignore, without what is gone.

    Hidden files that git does not know are left out: they may hold secrets.
    """
    others = _listed("--others", "--exclude-standard")
    listed = _listed("--cached") + [n for n in others if not Path(n).name.startswith(".")]
    if not any(listed):
        paths = [path for part in _PARTS for path in (ROOT / part).rglob("*")]
        paths += [ROOT / part for part in _PARTS]
        listed = [str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts]
    for name in filter(None, dict.fromkeys(listed)):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
            yield name


def _listed(*options: str) -> list[str]:
    words = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
    try:
        done = subprocess.run(words, capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return done.stdout.decode(errors="surrogateescape").split("\0") if not done.returncode else []


def _compiled() -> list[str]:
    """What numba has compiled of it: else every job would begin with that."""
    found = (ROOT / "marlcore").rglob("__pycache__/*.nb[ic]")
    return [str(path.relative_to(ROOT)) for path in found]


def _is_on_disk_of(path: Path, other: Path) -> bool:
    return path.stat().st_dev == other.stat().st_dev


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
