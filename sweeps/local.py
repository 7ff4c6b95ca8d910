"""Workers on this machine, and what is seen of a study while they work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments import _launch, _stop
from experiments.console import format_seconds
from sweeps import ledger
from sweeps.ledger import Unit
from sweeps.patience import DATABASE_ERRORS
from sweeps.study import TEST, TUNING, Study

_POLL_S = 0.3
_LOOK_EVERY_S = 1.0
_ASK_EVERY_S = 10.0
"""How often a scheduler is asked whether workers are there."""
_RESTARTS = 3
"""So often is each worker that dies replaced."""
REFUSED, HOPELESS = 2, 3
"""Exit codes of workers that another one would end with, too."""


def run_workers(study: Study, folder: Path, num_workers: int) -> int:
    """Have workers do all there is to do, and show it; returns an exit code.

    0: nothing is left to do. 1: workers die. 2, 3: as a worker said. A signal: its code.
    """
    if study.is_complete():
        return 0
    display, workers = Display(study), _Workers(folder, num_workers)
    told = None
    try:
        while workers.are_left():
            time.sleep(_POLL_S)
            if told is None and (told := _stop.stop_requested()) is not None:
                print(f"stopping ({told}): runs save and end; again to stop at once", flush=True)
                workers.stop(signal.Signals[told])
            workers.look()
            display.look()
    finally:
        workers.kill()
    display.look(at_once=True)
    return _stop.exit_code(told) if told is not None else workers.code


class _Workers:
    """Processes; one that dies is replaced, some times."""

    def __init__(self, folder: Path, number: int) -> None:
        self.code = 0
        self._folder, self._is_stopping = folder, False
        self._restarts_left = _RESTARTS * number
        self._processes = {index: _start(folder, index) for index in range(number)}

    def are_left(self) -> bool:
        return bool(self._processes)

    def stop(self, number: signal.Signals) -> None:
        self._is_stopping = True
        for process in self._processes.values():
            process.send_signal(number)

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()  # their runs are told by the system, save and end

    def look(self) -> None:
        for index, process in list(self._processes.items()):
            if process.poll() is not None:
                del self._processes[index]
                if not self._is_stopping:
                    self._ended(index, process.returncode)

    def _ended(self, index: int, code: int) -> None:
        if code in (0, REFUSED, HOPELESS):
            self.code = self.code or code
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if self._restarts_left:
            self._restarts_left -= 1
            print(f"worker {index} {how}; another one takes its place", flush=True)
            self._processes[index] = _start(self._folder, index)
        else:
            print(f"worker {index} {how}", file=sys.stderr)
            self.code = 1


def watch(study: Study, count_workers: Callable[[], int]) -> int:
    """Show a study that workers elsewhere work on, until it is complete; returns an exit code."""
    display, ask_at, missing = Display(study), time.monotonic() + _ASK_EVERY_S, 0
    while not study.is_complete():
        if (told := _stop.stop_requested()) is not None:
            return _stop.exit_code(told)
        time.sleep(_LOOK_EVERY_S)
        display.look()
        if time.monotonic() > ask_at:
            ask_at = time.monotonic() + _ASK_EVERY_S
            missing = 0 if count_workers() else missing + 1
            if missing > 1 and not study.is_complete():
                print("no worker is left", file=sys.stderr)
                return 1
    display.look(at_once=True)
    return 0


def _start(folder: Path, index: int) -> subprocess.Popen[bytes]:
    log = folder / f"worker-{index}.log"
    environment = {**os.environ, _launch.LAUNCHER: str(os.getpid()), **_gpu(index)}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "sweeps.worker", str(folder), str(log)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is handed on, once
        )


def _gpu(index: int) -> Mapping[str, str]:
    """Workers take the GPUs in turn, unless the user has chosen."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else _gpus()
    return {"CUDA_VISIBLE_DEVICES": names[index % len(names)]} if names and given != "" else {}


def _gpus() -> list[str]:
    try:
        return [str(number) for number, _ in enumerate(os.listdir("/proc/driver/nvidia/gpus"))]
    except OSError:
        return []


class Display:
    """A line for every trial that ends and every test of a finalist."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._started = time.monotonic()
        self._look_at = 0.0
        self._units = self._read()
        self._done_before = _count_done(self._units)
        if self._done_before:
            print(f"going on: {self._done_before} runs are done", flush=True)

    def look(self, *, at_once: bool = False) -> None:
        """Say what is new."""
        if time.monotonic() < self._look_at and not at_once:
            return
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        try:
            before, self._units = self._units, self._read()
        except DATABASE_ERRORS:  # workers say so
            return
        known = {unit.key: unit.state for unit in before}
        for unit in self._units:
            if unit.role == TEST and unit.is_final and known.get(unit.key) != unit.state:
                value = f"{unit.score:.4g}" if unit.score is not None else unit.error or unit.state
                self._say(f"finalist {unit.trial}, fresh seed {unit.seed}: {value}")
        ended_before = _ended(before)
        for trial, units in _ended(self._units).items():
            if trial not in ended_before:
                self._say(self._describe(trial, units))

    def _read(self) -> list[Unit]:
        return self._study.ledger.units()

    def _describe(self, trial: int, units: Sequence[Unit]) -> str:
        frozen = self._study.optuna.get_trials(deepcopy=False)[trial]
        settings = self._study.definition.space.settings(frozen.params)
        words = " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in settings.items())
        scores = [unit.score for unit in units if unit.score is not None]
        if all(unit.state == ledger.DONE for unit in units):
            single = " ".join(f"{score:.4g}" for score in scores)
            what = f"{self._study.aggregate(scores):.4g} ({single})"
        else:
            error = next((unit.error for unit in units if unit.error), None)
            what = f"failed: {error}" if error else "pruned"
        return f"trial {trial}: {what}  {words}"

    def _say(self, text: str) -> None:
        print(f"[{self._progress()}] {text}", flush=True)

    def _progress(self) -> str:
        sweep, units = self._study.sweep, self._units
        trials = {unit.trial for unit in units if unit.role == TUNING}
        tests = sum(unit.role == TEST for unit in units)
        if not tests:
            baseline = 1 if sweep.baseline else 0
            tests = (sweep.finalists + baseline) * len(sweep.test_seeds)
        missing = max(0, sweep.trials - len(trials)) * len(sweep.tuning_seeds)
        total = sum(unit.role == TUNING for unit in units) + missing + tests
        done = _count_done(units)
        new, passed = done - self._done_before, time.monotonic() - self._started
        left = (
            f", left {format_seconds(passed / new * (total - done))}"
            if new and total > done
            else ""
        )
        return f"{done} of {total} runs{left}"


def _count_done(units: Sequence[Unit]) -> int:
    return sum(unit.is_final for unit in units)


def _ended(units: Sequence[Unit]) -> dict[int, list[Unit]]:
    by_trial: dict[int, list[Unit]] = {}
    for unit in units:
        if unit.role == TUNING:
            by_trial.setdefault(unit.trial, []).append(unit)
    return {n: group for n, group in by_trial.items() if all(unit.is_final for unit in group)}
