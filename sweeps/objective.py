"""The objective: a unit of a trial as a recorded run, trained in a process of its own.

The run is an ordinary one: it can be looked at, resumed and repeated without the sweep. Its
directory is made first, with trial.json in it; then its script is told to go on with it, which
begins it, or goes on from its checkpoint if a worker before died.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from experiments import _launch, _rundir, _stop
from experiments._experiment import resolve_command
from experiments._program import last_words
from experiments.tracking import spool, view
from experiments.tracking.read import read_series, read_view
from marlcore import durable
from marlcore.config_errors import ConfigError
from sweeps import ledger
from sweeps.curves import Curve, score
from sweeps.ledger import LeaseLostError, Unit
from sweeps.patience import DATABASE_ERRORS, patiently
from sweeps.storage import said
from sweeps.study import Shared

_POLL_S = 0.2
_KILL_AFTER_S = 600.0
"""A run that is told to stop ends after its update and a checkpoint."""
_PRUNED = "SIGUSR1"
"""The signal that ends a run as PRUNED."""


class Objective:
    """Runs units, one at a time.

    Args:
        study: of the units; here, or elsewhere (sweeps.service).
        log: what the runs print is appended to it.
        num_tasks: processes of a run, by srun if there are several.
    """

    def __init__(self, study: Shared, log: IO[bytes], *, num_tasks: int = 1) -> None:
        self._study, self._log, self._num_tasks = study, log, num_tasks
        self._renew_at, self._is_cut_off = 0.0, False

    def run(self, claimed: Unit) -> None:
        """Have the unit's run done, and tell the study; gives the unit back when told to stop."""
        try:
            params = patiently(lambda: self._study.params(claimed.trial))
            run_dir = self._run_dir(claimed, params)
            unit = patiently(lambda: self._renew(claimed, run_dir.name))
            if _stop.should_stop():
                patiently(lambda: self._study.release(unit))
            elif read_view(run_dir).status == view.COMPLETED:  # its worker died before it told
                self._judge(unit, run_dir)
            else:
                self._train(unit, run_dir)
        except ConfigError as error:  # ends of the space are checked, not all that lies between
            said_so = str(error)
            patiently(lambda: self._study.finish(claimed, ledger.FAILED, error=said_so))
        except LeaseLostError:
            print(f"trial {claimed.trial}, seed {claimed.seed}: lease lost; nothing is reported")

    def _train(self, unit: Unit, run_dir: Path) -> None:
        begin = self._log.seek(0, os.SEEK_END)
        print(f"trial {unit.trial}, seed {unit.seed}: run {run_dir.name}", flush=True)
        process = subprocess.Popen(
            self._command(run_dir),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the worker, which hands it on
        )
        try:
            told = self._watch(unit, run_dir, process)
        except BaseException:
            process.kill()
            process.wait()
            raise
        code = process.returncode
        if code == 0:
            self._judge(unit, run_dir)
        elif told == _PRUNED:
            patiently(lambda: self._study.finish(unit, ledger.PRUNED))
        elif told is not None or code in (_stop.exit_code(name) for name in _stop.STATUSES):
            patiently(lambda: self._study.release(unit))
        elif code in (1, 2):
            why = (read_view(run_dir).error if code == 1 else None) or self._last_line(begin)
            patiently(lambda: self._study.finish(unit, ledger.FAILED, error=why))
        else:
            how = f"run {run_dir.name} was killed by signal {-code if code < 0 else code - 128}"
            patiently(lambda: self._study.release(unit, was_killed=how))

    def _watch(self, unit: Unit, run_dir: Path, process: subprocess.Popen[bytes]) -> str | None:
        """Wait for the process, keep the lease, report the curve.

        Returns the name of the signal by which the run was told to stop; None if it was not.
        """
        curve = Curve(self._study, unit, run_dir)
        told: str | None = None
        deadline = math.inf
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
                return told
            if told is None:
                told = _stop.stop_requested() or (_PRUNED if curve.is_bad() else None)
                if told is not None:
                    self._tell(process, told)
                    deadline = time.monotonic() + _KILL_AFTER_S
            elif time.monotonic() > deadline:
                process.kill()
            if time.monotonic() > self._renew_at:
                self._keep(unit, process)

    def _keep(self, unit: Unit, process: subprocess.Popen[bytes]) -> None:
        """Renew the lease of a unit whose run goes on."""
        try:
            self._renew(unit)
        except LeaseLostError:
            self._tell(process, "SIGTERM")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_AFTER_S)
            raise  # what does not end by then is killed
        except DATABASE_ERRORS as error:
            if not self._is_cut_off:
                print(f"the lease is not renewed ({said(error)}); trying again", flush=True)
            self._is_cut_off = True
            self._renew_at = time.monotonic() + 1.0

    def _tell(self, process: subprocess.Popen[bytes], name: str) -> None:
        if name == _stop.TIME_LIMIT or (self._num_tasks > 1 and name == "SIGINT"):
            name = "SIGTERM"  # srun takes the first SIGINT for a question
        process.send_signal(signal.Signals[name])

    def _judge(self, unit: Unit, run_dir: Path) -> None:
        metric = self._study.sweep.metric
        series = read_series(run_dir).get(metric)
        if series is None:
            error = f"run {run_dir.name} has no value of {metric}"
            patiently(lambda: self._study.finish(unit, ledger.FAILED, error=error))
            return
        value = score(series)
        if patiently(lambda: self._study.finish(unit, ledger.DONE, score=value)):
            print(f"trial {unit.trial}, seed {unit.seed}: {metric} {value:.6g}", flush=True)

    def _renew(self, unit: Unit, run: str | None = None) -> Unit:
        mine = self._study.renew(unit, run=run)
        if mine is None:
            raise LeaseLostError
        self._renew_at = time.monotonic() + self._study.sweep.lease_s / 4
        self._is_cut_off = False
        return mine

    def _command(self, run_dir: Path) -> list[str]:
        python = [sys.executable, "-m", f"experiments.{self._study.definition.script.name}"]
        words = ["with", f"resume={run_dir}"]
        if self._num_tasks > 1:
            cores = os.environ.get("SLURM_CPUS_PER_TASK", "1")
            srun = ["srun", "--unbuffered", "--kill-on-bad-exit=1", f"--cpus-per-task={cores}"]
            return [*srun, *python, *words]
        return [*python, *words]

    def _environment(self) -> dict[str, str]:
        if self._num_tasks > 1:
            return dict(os.environ)
        return {**os.environ, _launch.LAUNCHER: str(os.getpid())}

    def _run_dir(self, unit: Unit, params: Mapping[str, Any]) -> Path:
        """The directory of the unit's run, made if there is none.

        If a process of a worker that lost the unit still writes the run, and goes on for longer
        than a lease, another run takes its place.

        Raises:
            ConfigError: the script refuses these parameters together.
        """
        definition, key = self._study.definition, self._study.key
        argv = ["with", *definition.words(params, unit.seed)]
        config = resolve_command(definition.script, argv).model_dump(mode="json")
        facts = {
            "study": definition.name,
            "key": key,
            "trial": unit.trial,
            "role": unit.role,
            "settings": definition.space.settings(params),
            "argv": [definition.script.name, *argv],
        }
        for attempt in range(1, 100):
            name = f"{definition.name}-t{unit.trial:04d}-s{unit.seed}"
            path = _rundir.runs_dir() / (name if attempt == 1 else f"{name}-{attempt}")
            if not path.exists():
                durable.patiently(  # while the disk is full
                    lambda n=path.name: _rundir.create(definition.script.name, config, n),
                    place=path.parent,
                    what=path.name,
                )
                spool.write_trial(path, tag="sweep", **facts)
                return path
            if _is_same(path, facts, config) and self._becomes_free(unit, path):
                return path
        raise RuntimeError(f"{_rundir.runs_dir()} has no free name like {name}")

    def _becomes_free(self, unit: Unit, path: Path) -> bool:
        deadline = time.monotonic() + self._study.sweep.lease_s
        while spool.is_written(path):
            if _stop.should_stop():
                return True  # the unit is given back before anything is done with it
            if time.monotonic() > deadline:
                return False
            patiently(lambda: self._renew(unit))
            time.sleep(_POLL_S)
        return True

    def _last_line(self, begin: int) -> str:
        """What the run said last; its log is read by its name, for it is open for appending."""
        with open(self._log.name, "rb") as file:
            file.seek(begin)
            return last_words(file.read())


def _is_same(path: Path, facts: Mapping[str, object], config: Mapping[str, object]) -> bool:
    """Whether a run that is there is the one that is wanted."""
    if spool.read_json(path / spool.CONFIG, {}) != config:
        return False
    there = spool.read_json(path / spool.TRIAL, {})
    if not there and not spool.read_events(path):  # its maker was killed before it wrote more
        spool.write_trial(path, tag="sweep", **facts)
        return True
    return all(there.get(name) == facts[name] for name in ("key", "trial", "role"))
