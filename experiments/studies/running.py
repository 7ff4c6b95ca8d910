"""The runs of a study that are missing: begun or gone on with, here or on a cluster.

A run is an ordinary one: it can be looked at, resumed and repeated without the study. Its directory
is made first, with trial.json in it; then its script is told to go on with it, which begins it, or
goes on from its checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from experiments import _launch, _rundir, _stop
from experiments._program import last_words
from experiments.console import format_seconds
from experiments.studies.definition import Study, Unit
from experiments.tracking import spool, view
from experiments.tracking.groups import identity, plain
from experiments.tracking.read import read_view
from experiments.tracking.view import RunView, flat
from marlcore.config_errors import ConfigError, parse_config

_POLL_S = 0.2
Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where the run of a unit is, or would be."""

    unit: Unit
    directory: Path
    found: RunView | None
    """None: there is no such run."""

    @property
    def status(self) -> str:
        """Of the run; NEW where there is none."""
        return self.found.status if self.found else view.NEW


def places(study: Study) -> list[Place]:
    """The runs of a study, unit by unit."""
    return [_place(unit) for unit in study.units]


def is_busy(place: Place) -> bool:
    """Whether the run goes on elsewhere, or waits for a scheduler."""
    return place.status in (view.RUNNING, view.QUEUED)


def is_missing(place: Place) -> bool:
    """Whether something is left to do that nobody does."""
    return place.status != view.COMPLETED and not is_busy(place)


def run_here(study: Study, missing: Sequence[Place], num_at_once: int, say: Say) -> int:
    """Have runs done on this machine; returns an exit code.

    0: all are complete. 1: some are not. A signal: its code.
    """
    waiting, busy, num_done = list(missing), list[_Process](), 0
    told: str | None = None
    try:
        while busy or (waiting and told is None):
            while waiting and told is None and len(busy) < num_at_once:
                place = waiting.pop(0)
                say(f"{place.unit}: {'goes on' if place.found else 'begins'}, {place.directory}")
                busy.append(_Process(study, place))
            time.sleep(_POLL_S)
            if told is None and (told := _stop.stop_requested()) is not None:
                say(f"stopping ({told}): runs save and end; again to stop at once")
                for process in busy:
                    process.stop(told)
            for process in [one for one in busy if one.has_ended()]:
                busy.remove(process)
                num_done += process.code == 0
                say(f"{process.describe()} ({num_done} of {len(missing)} done)")
    finally:
        for process in busy:
            process.kill()  # told by the system that their launcher is gone, they save and end
    if told is not None:
        return _stop.exit_code(told)
    return 0 if num_done == len(missing) else 1


def submit(study: Study, missing: Sequence[Place], preset: str, say: Say) -> int:
    """Hand runs to Slurm, each a job; returns an exit code."""
    from experiments.cli import main as marl
    from slurm.submit import main as slurm_submit

    for place in missing:
        unit, directory = place.unit, place.directory
        if place.found is None:
            path = f"experiments/{unit.script.name}.py"
            words = [path, "with", *unit.words, "--id", directory.name, "--preset", preset]
            code = slurm_submit(words)
        else:
            code = marl(["jobs", "resume", directory.name, "--preset", preset])
        if code:
            return code
        _write_facts(study, unit, directory)
        say(f"{unit}: submitted, {directory}")
    return 0


class _Process:
    """A run that goes on in a process of its own."""

    def __init__(self, study: Study, place: Place) -> None:
        self.unit, self._directory = place.unit, place.directory
        self._started = time.monotonic()
        if place.found is None:
            _rundir.create(self.unit.script.name, self.unit.config, self._directory.name)
        _write_facts(study, self.unit, self._directory)
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in describe
        module = f"experiments.{self.unit.script.name}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "with", f"resume={self._directory}"],
            env={**os.environ, _launch.LAUNCHER: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is handed on, once
        )

    @property
    def code(self) -> int:
        """The exit code, once it has ended."""
        return self._process.returncode

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self, name: str) -> None:
        self._process.send_signal(signal.Signals[name])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def describe(self) -> str:
        """How it ended; its output is let go."""
        with self._output as output:
            if self.code == 0:
                spent = format_seconds(time.monotonic() - self._started)
                return f"{self.unit}: complete after {spent}"
            output.seek(0)
            return f"{self.unit}: ended with code {self.code}: {last_words(output.read())}"


def _place(unit: Unit) -> Place:
    """The first directory that has this unit's run, or none at all."""
    for attempt in range(1, 1000):
        name = unit.name if attempt == 1 else f"{unit.name}-{attempt}"
        path = _rundir.runs_dir() / name
        if not path.exists():
            return Place(unit, path, None)
        if _is_same(path, unit):
            return Place(unit, path, read_view(path))
    raise ConfigError(f"{_rundir.runs_dir()} has no free name like {unit.name}")


def _is_same(path: Path, unit: Unit) -> bool:
    """Whether a run computes what the unit wants, by its recorded configuration."""
    try:
        recorded = parse_config(_rundir.read_config(path)).model_dump(mode="json")
    except ConfigError:
        return False  # of another version of the schema
    return _computed(recorded) == _computed(unit.config)


def _computed(config: object) -> dict[str, object]:
    values = flat(plain(config))  # pyright: ignore[reportArgumentType]
    return {**identity(values), "seed": values["seed"]}


def _write_facts(study: Study, unit: Unit, path: Path) -> None:
    if (path / spool.TRIAL).exists():
        return
    spool.write_trial(
        path,
        tag="study",
        study=study.name,
        role="study",
        algorithm=unit.algorithm,
        environment=unit.environment,
        argv=[unit.script.name, "with", *unit.words],
    )
