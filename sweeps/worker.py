"""A worker of a study: claims a unit, has it run, tells what came of it, until nothing is left.

    python -m sweeps.worker STUDY_DIRECTORY LOG [array | served]

sweeps/launch.py starts some here, or a Slurm array of them. Those of an array give each run all
tasks of their job; if they are served, they reach the study through its launcher. A worker that is
told to stop gives back what it works on; one that is killed loses it when its lease ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import _launch, _stop
from experiments._output import print_error
from experiments.tracking import spool
from marlcore.config_errors import ConfigError
from sweeps import cluster, storage
from sweeps.definition import Definition, define
from sweeps.ledger import Owner, Unit
from sweeps.objective import Objective
from sweeps.patience import patiently
from sweeps.service import RemoteStudy
from sweeps.study import WAIT, HopelessError, Shared, Study

REFUSED, HOPELESS = 2, 3
"""Exit codes that another worker would end with, too."""
HERE, ARRAY, SERVED = "here", "array", "served"
_WAIT_S = 0.5


def open_study(folder: Path, kind: str = HERE) -> Shared:
    """The study of a directory, at hand or served by its launcher.

    Raises:
        ConfigError: the study is in another database than the one that is to be opened.
    """
    definition, written = read_definition(folder), _written(folder)
    if kind == SERVED:
        return RemoteStudy(definition, folder, str(written.get("key")))
    return open_here(definition, storage.storage_of(folder), folder)


def open_here(definition: Definition, kept: storage.Storage, folder: Path) -> Study:
    """A study at hand, which may be new; sweep.json says in which database it was begun.

    Raises:
        ConfigError: it was begun in another one.
    """
    written = _written(folder)
    begun = written.get("database", kept.kind)
    if begun != kept.kind:
        change = "set" if begun == "postgresql" else "unset"
        raise ConfigError(
            f"study {definition.name} was begun in {begun}, this is {kept}; {change} "
            f"{storage.OPTUNA_URL}, or begin another study by --study NAME"
        )
    study = Study(definition, kept)
    if kept.is_shared and written.get("key", study.key) != study.key:
        study.close()
        raise ConfigError(
            f"study {definition.name} was begun in another PostgreSQL than {kept}; correct "
            f"{storage.OPTUNA_URL}, or begin another study by --study NAME"
        )
    return study


def _written(folder: Path) -> dict[str, Any]:
    return spool.read_json(folder / storage.SWEEP, {})


def work(study: Shared, run: Callable[[Unit], None]) -> None:
    """Claim and run units until nothing is left to do, or a signal came.

    Raises:
        HopelessError: every trial fails.
    """
    owner = Owner.of_this_process()
    while not _stop.should_stop():
        unit = patiently(lambda: study.claim(owner))
        if unit is None:
            return
        if unit == WAIT:
            time.sleep(_WAIT_S)
            continue
        assert isinstance(unit, Unit)
        run(unit)


def read_definition(folder: Path) -> Definition:
    """The sweep of a study's directory.

    Raises:
        ConfigError: sweep.json is missing or damaged.
    """
    path = folder / storage.SWEEP
    written = _written(folder)
    if not isinstance(written.get("sweep"), dict) or not isinstance(written.get("name"), str):
        raise ConfigError(f"{path} is missing or damaged; call launch.py with the sweep file again")
    return define(written["sweep"], name=written["name"], place=str(path))


def main(argv: Sequence[str]) -> int:
    """Work; returns the exit code."""
    folder, log, kind = Path(argv[0]), Path(argv[1]), [*argv, HERE][2]
    num_tasks = 1 if kind == HERE else int(os.environ.get("SLURM_NTASKS", "1"))
    with _stop.install(), contextlib.suppress(_stop.StopAtOnceError):
        _launch.end_with_launcher()
        try:
            opened = contextlib.closing(open_study(folder, kind))
            with opened as study, log.open("ab", buffering=0) as file:
                work(study, Objective(study, file, num_tasks=num_tasks).run)
        except ConfigError as error:
            print_error(error)
            return REFUSED
        except HopelessError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return HOPELESS
    told = _stop.stop_requested()
    if told is not None and kind != HERE:
        try:
            cluster.queue_again(told)
        except ConfigError as error:
            print_error(error)
    return _stop.exit_code(told) if told else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
