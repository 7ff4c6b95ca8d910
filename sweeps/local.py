"""Workers on this machine, or elsewhere, and a study watched while they work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments import _launch, _stop
from marlcore.config_errors import ConfigError
from sweeps.display import Display
from sweeps.patience import patiently
from sweeps.study import Study
from sweeps.worker import HOPELESS, REFUSED

_POLL_S = 0.3
_LOOK_EVERY_S = 1.0
_ASK_EVERY_S = 10.0
"""How often a scheduler is asked whether workers are there."""
_RESTARTS = 3
"""So often is each worker that dies replaced."""


def run_workers(study: Study, folder: Path, num_workers: int) -> int:
    """Have workers do all there is to do, and show it; returns an exit code.

    0: nothing is left to do. 1: workers die. 2, 3: as a worker said. A signal: its code.
    """
    if study.is_complete():
        return 0
    told = None
    with Display(study) as display:
        workers = _Workers(folder, num_workers, display.say)
        try:
            while workers.are_left():
                time.sleep(_POLL_S)
                if told is None and (told := _stop.stop_requested()) is not None:
                    display.say(f"stopping ({told}): runs save and end; again to stop at once")
                    workers.stop(signal.Signals[told])
                workers.look()
                display.look()
        finally:
            workers.kill()
        display.look(at_once=True)
    return _stop.exit_code(told) if told is not None else workers.code


class _Workers:
    """Processes; one that dies is replaced, some times."""

    def __init__(self, folder: Path, number: int, say: Callable[[str], None]) -> None:
        self.code, self._say = 0, say
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
            self._say(f"worker {index} {how}; another one takes its place")
            self._processes[index] = _start(self._folder, index)
        else:
            self._say(f"worker {index} {how}")
            self.code = 1


def watch(study: Study, count_workers: Callable[[], int]) -> int:
    """Show a study that workers elsewhere work on, until it is complete; returns an exit code."""
    ask_at, missing = time.monotonic() + _ASK_EVERY_S, 0
    with Display(study) as display:
        while not patiently(study.is_complete):
            if (told := _stop.stop_requested()) is not None:
                return _stop.exit_code(told)
            time.sleep(_LOOK_EVERY_S)
            display.look()
            if time.monotonic() > ask_at:
                ask_at = time.monotonic() + _ASK_EVERY_S
                with contextlib.suppress(ConfigError):  # Slurm does not answer: nothing is known
                    missing = 0 if count_workers() else missing + 1
                if missing > 1 and not patiently(study.is_complete):
                    display.say("no worker is left")
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
        return [str(n) for n in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []
