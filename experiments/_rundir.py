"""Run directories: made once, found by path, id or prefix; the configuration and output in them.

    runs/20261122-074501-acppo-3f2a/
        checkpoint_<env steps>/  the newest checkpoints
        checkpoint_best/         the best one
        config.json, ...         the record (experiments.tracking.spool)

The directory of all runs is `runs`, or MARL_RUNS_DIR.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.tracking.spool import CONFIG, METRICS, OUTPUT
from marlcore import config_keys
from marlcore.config_errors import ConfigError, show
from marlcore.durable import write_whole

__all__ = ["CONFIG", "METRICS", "OUTPUT"]

BEST = "checkpoint_best"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CHECKPOINT = re.compile(r"checkpoint_(\d+)")


def runs_dir() -> Path:
    """Where runs lie."""
    return Path(os.environ.get("MARL_RUNS_DIR") or "runs")


def check_id(run_id: str) -> None:
    """Refuse an id that is no good name for a directory, or that is taken."""
    if not _ID.fullmatch(run_id):
        raise ConfigError(
            f"--id {show(run_id)} is refused; give 1 to 100 letters, digits, '-', '_' or '.', "
            "not starting with a sign"
        )
    if (runs_dir() / run_id).exists():
        raise ConfigError(
            f"--id {run_id}: {runs_dir() / run_id} exists; give another id, or go on with that "
            f"run by: with resume={run_id}"
        )


def new_id(name: str) -> str:
    """An id for a new run of a script."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{secrets.token_hex(2)}"


def create(name: str, config: Mapping[str, Any], run_id: str | None = None) -> Path:
    """Make a new directory with the configuration in it; two calls never share one.

    Raises:
        ConfigError: the directory cannot be made.
    """
    try:
        while True:
            path = runs_dir() / (run_id or new_id(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
                break
            except FileExistsError:
                if run_id or not path.parent.is_dir():
                    raise
        write_config(path, config)
    except OSError as error:
        raise ConfigError(
            f"the run directory cannot be made in {runs_dir()}: {error.strerror or error}; "
            "set MARL_RUNS_DIR to a directory that you may write to"
        ) from None
    return path


def write_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Write config.json whole or not at all."""
    write_whole(run_dir / CONFIG, json.dumps(config, indent=2) + "\n")


def read_config(run_dir: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        ConfigError: it is missing or damaged.
    """
    path = run_dir / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a configuration")
    return values


def find_run(text: str) -> Path:
    """The run directory that a path, an id or an unambiguous prefix of one means.

    A path inside a run (a checkpoint) means the run.

    Raises:
        ConfigError: there is none, or there are several.
    """
    for path in (Path(text), runs_dir() / text) if text else ():
        for place in (path, path.resolve().parent):
            if os.path.exists(path) and os.path.isfile(place / CONFIG):  # False for any bad name
                return place
    ids = _ids()
    matches = [run_id for run_id in ids if text and run_id.startswith(text)]
    if len(matches) == 1:
        return runs_dir() / matches[0]
    if matches:
        raise ConfigError(f"{text} fits {len(matches)} runs: {_some(matches)}; write more of it")
    near = config_keys.nearest(text, ids)
    if near:
        meant = f"did you mean {near}?"
    else:
        meant = f"there are {_some(ids)}" if ids else "there are no runs yet"
    raise ConfigError(f"no run {show(text)}, neither as a path nor in {runs_dir()}; {meant}")


def checkpoints(run_dir: Path) -> dict[int, Path]:
    """Checkpoint directories by env steps, oldest first."""
    found = {
        int(match[1]): path
        for path in run_dir.glob("checkpoint_*")
        if path.is_dir() and (match := _CHECKPOINT.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def is_checkpoint(path: Path) -> bool:
    """Whether this is the directory of a checkpoint."""
    name = path.resolve().name
    return os.path.isdir(path) and (name == BEST or _CHECKPOINT.fullmatch(name) is not None)


def find_start(text: str) -> Path | None:
    """The checkpoint from which a run goes on; None if it has none and begins anew.

    Raises:
        ConfigError: there is no such run.
    """
    run_dir = find_run(text)
    return find_checkpoint(text) if is_checkpoint(Path(text)) or checkpoints(run_dir) else None


def find_checkpoint(text: str, which: str = "latest") -> Path:
    """The checkpoint of a run: "latest", "best" or its env steps; a checkpoint's path is itself.

    Raises:
        ConfigError: there is no such run or checkpoint.
    """
    run_dir, path = find_run(text), Path(text)
    if is_checkpoint(path):
        return path
    if os.path.isdir(path) and path.resolve() != run_dir.resolve():
        raise ConfigError(f"{path} is no checkpoint; they are {run_dir}/checkpoint_*")
    found, best = checkpoints(run_dir), run_dir / BEST
    if not found and not best.is_dir():
        raise ConfigError(f"{run_dir} has no checkpoint yet")
    if which == "latest" and found:
        return list(found.values())[-1]
    if which == "best" and best.is_dir():
        return best
    if which.isdecimal() and int(which) in found:
        return found[int(which)]
    names = [*(["best"] if best.is_dir() else []), *(["latest"] if found else [])]
    choices = ", ".join([*names, *map(str, found)])
    raise ConfigError(f"{run_dir} has no checkpoint {show(which)}; choose one of {choices}")


def _ids() -> list[str]:
    try:
        return sorted(path.parent.name for path in runs_dir().glob(f"*/{CONFIG}"))
    except OSError:
        return []


def _some(ids: list[str]) -> str:
    newest = ids[-5:][::-1]
    return ", ".join(newest) + (", ..." if len(ids) > len(newest) else "")
