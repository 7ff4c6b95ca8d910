"""Starts the process that mirrors a run, once there is something to mirror to, and ends it.

A process, not a thread: what a replica costs is then no time of the training loop, which would
otherwise wait for Python's lock, and nothing that goes wrong there can touch the run.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.tracking import mongo
from experiments.tracking.provenance import ROOT
from experiments.tracking.redaction import environment_elsewhere
from marlcore.config import LoggingConfig
from marlcore.config_errors import ConfigError

EVERY_S = 5.0
_PAUSE_S = 30.0
"""Between two processes: one that fails at once is not started again and again."""
PATIENCE_S = 30.0
"""How long the end of a run waits; the mirrors themselves give up earlier."""


class Follower:
    """Mirrors the run in `run_dir` while it lives. `config` is plain data."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], settings: LoggingConfig) -> None:
        self._run_dir, self._config = run_dir, dict(config)
        self._always = settings.tensorboard or settings.wandb != "off"
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._stop = threading.Event()
        self._started = -math.inf
        self._start_if_wanted()
        self._watcher = threading.Thread(target=self._watch, name="follower", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Have the mirrors do their last step, but do not wait for ever."""
        self._stop.set()
        self._watcher.join()
        self._start_if_wanted()
        if self._process is None:
            return
        if self._process.stdin is None or self._reader is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1.0)
        if self._process.returncode:
            print("what mirrors the run did not end well; later: marl sync", file=sys.stderr)

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._start_if_wanted()

    def _start_if_wanted(self) -> None:
        """Start the process unless it runs; one that was killed is replaced."""
        if self._process is not None and self._process.poll() is None:
            return
        try:
            wanted = self._always or mongo.target(self._run_dir.resolve().parent) is not None
        except ConfigError:  # said when the run began
            return
        if not wanted or time.monotonic() - self._started < _PAUSE_S:
            return
        self._started = time.monotonic()
        try:
            self._start()
        except OSError as error:  # no memory, no processes left
            print(f"warning: nothing mirrors this run now ({error})", file=sys.stderr)

    def _start(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.tracking.mirrors"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            start_new_session=True,
            env=environment_elsewhere(),
        )
        assert self._process.stdin is not None
        order = {"run_dir": str(self._run_dir.resolve()), "config": self._config}
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return
        self._reader = threading.Thread(target=_repeat, args=(self._process.stdout,), daemon=True)
        self._reader.start()


def _repeat(lines: Any) -> None:
    """Say what the process says."""
    with lines:
        for line in lines:
            print(line, end="", file=sys.stderr, flush=True)
