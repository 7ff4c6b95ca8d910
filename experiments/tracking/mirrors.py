"""Copies of the spool elsewhere: MongoDB, TensorBoard, W&B, each by a thread of its own.

A thread reads the spool and writes what is new; whatever it meets (a server that is away, slow or
wrong, a library that raises) is said once and never touches the run, and a later `marl sync`
brings the copy up to the spool.

    python -m experiments.tracking.mirrors      the process that a run starts (tracking.follower)

It is told by a line of JSON what to mirror, and goes on until its standard input ends: when the run
says so, or dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from experiments.tracking import mongo
from experiments.tracking.redaction import redact
from experiments.tracking.spool import METRICS, REPLICA, read_events, read_json, update_json
from experiments.tracking.tail import LinesTail
from marlcore.config import LoggingConfig
from marlcore.config_errors import parse_config
from marlcore.recording import Record, add_line

EVERY_S = 5.0
PATIENCE_S = 20.0
"""How long the end of a run waits for each copy."""


class Copy(Protocol):
    """Something that can be brought up to the spool."""

    def step(self) -> object:
        """Write what is new; may raise anything."""
        ...

    def close(self) -> None:
        """Write what is pending and let go."""
        ...


class Mirror:
    """Keeps one copy up to the spool until it is closed."""

    def __init__(self, name: str, make: Callable[[], Copy], *, every_s: float = EVERY_S) -> None:
        self._name, self._make, self._every_s = name, make, every_s
        self._copy: Copy | None = None
        self._fails = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name=name, daemon=True)
        self._thread.start()

    def ask_to_end(self) -> None:
        """Do a last step; `close` waits for it."""
        self._stop.set()

    def close(self, *, patience_s: float | None = None) -> None:
        """Wait for the last step, but not for ever."""
        self.ask_to_end()
        self._thread.join(PATIENCE_S if patience_s is None else patience_s)
        if self._thread.is_alive() or self._fails:
            _say(f"{self._name} has not everything; the run's directory has")

    def _keep_up(self) -> None:
        while True:
            last = self._stop.wait(self._every_s)
            self._attempt(last)
            if last:
                return

    def _attempt(self, last: bool) -> None:
        try:
            if self._copy is None:
                self._copy = self._make()
            self._copy.step()
            if last:
                self._copy.close()
                self._copy = None
        except Exception as error:  # whatever another service raises is no reason to stop
            if not self._fails:
                what = f"{type(error).__name__}: {redact(str(error))}".splitlines()[0][:300]
                _say(
                    f"warning: {self._name} is not up to date ({what}); "
                    "the run's directory has everything, and this is tried again"
                )
            self._fails = True
        else:
            if self._fails:
                _say(f"{self._name} is up to date again")
            self._fails = False
        if last and self._copy is not None:
            with contextlib.suppress(Exception):
                self._copy.close()


def _say(line: str) -> None:
    print(line, flush=True)


class MongoCopy:
    """The replica in MongoDB; while there is no server to write to, nothing is done."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._replicator: Any = None

    def step(self) -> None:
        """Write what is new to the database of now.

        Raises:
            ConnectionError: the embedded server was up and is not.
        """
        target = mongo.target(self._run_dir.resolve().parent)
        if target is None:
            if self._replicator is not None:
                raise ConnectionError("the embedded MongoDB is down")
            return
        if self._replicator is not None and self._replicator.target != target:
            self.close()
        if self._replicator is None:
            from experiments.tracking.replicator import Replicator  # pymongo is slow to import

            self._replicator = Replicator(self._run_dir, target)
        self._replicator.step()

    def close(self) -> None:
        """Leave the server."""
        if self._replicator is not None:
            self._replicator.close()
            self._replicator = None


class Writer(Protocol):
    """Another tool's record of a run."""

    def write(self, record: Record) -> None:
        """Take a record."""
        ...

    def add_artifact(self, path: Path) -> None:
        """Take a file."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class WriterCopy:
    """Hands the records of a spool to another tool, each once.

    Args:
        counted: the name under which replica.json counts the records that were handed over, for a
            tool that keeps what it got from earlier attempts; None hands over all of them again.
    """

    def __init__(self, run_dir: Path, writer: Writer, counted: str | None = None) -> None:
        self._run_dir, self._writer, self._counted = run_dir, writer, counted
        self._tail = LinesTail(run_dir / METRICS)
        self._artifacts: set[str] = set()
        replica = read_json(run_dir / REPLICA, {})
        self._to_skip = 0 if counted is None else int(replica.get(counted, 0))
        self._seen = 0
        self._pending: list[tuple[int, Record]] = []
        """(Number, record) of what the tool did not take yet."""

    def step(self) -> None:
        """Hand over what is new."""
        self._pending += self._fresh(self._tail.read())
        try:
            while self._pending:
                record = self._pending[0][1]
                self._writer.write(record)
                self._note(self._pending.pop(0)[0])
        finally:
            self._save_count()
        for event in read_events(self._run_dir):
            path = self._run_dir / str(event.get("file"))
            if event["event"] == "artifact" and path.is_file() and str(path) not in self._artifacts:
                self._writer.add_artifact(path)
                self._artifacts.add(str(path))

    def close(self) -> None:
        """End the other tool's record."""
        self._writer.close()

    def _fresh(self, new: Sequence[Mapping[str, object]]) -> list[tuple[int, Record]]:
        """Those records of new lines that stand and were not handed over by an earlier attempt."""
        records: list[Record] = []
        numbers: dict[int, int] = {}
        for document in new:
            add_line(records, document)
            if "rewind" not in document and records:
                self._seen += 1
                numbers[id(records[-1])] = self._seen
        numbered = [(numbers[id(record)], record) for record in records]
        return [(number, record) for number, record in numbered if number > self._to_skip]

    def _note(self, number: int) -> None:
        self._to_skip = number

    def _save_count(self) -> None:
        if self._counted is not None:
            key, count = self._counted, self._to_skip
            update_json(self._run_dir / REPLICA, lambda values: values.update({key: count}))


def tensorboard_copy(run_dir: Path) -> Copy:
    """TensorBoard's files, made anew from all of the spool."""
    from experiments.tracking.writers import TensorBoardWriter

    place = run_dir / "tensorboard"
    shutil.rmtree(place, ignore_errors=True)
    return WriterCopy(run_dir, TensorBoardWriter(place))


def wandb_copy(
    run_dir: Path, config: Mapping[str, Any], settings: LoggingConfig, *, online: bool
) -> Copy:
    """A W&B run: online one that goes on, offline one made anew from all of the spool."""
    from experiments.tracking.writers import WandbWriter

    if not online:
        shutil.rmtree(run_dir / "wandb", ignore_errors=True)
    writer = WandbWriter(run_dir, config, settings, online=online)
    return WriterCopy(run_dir, writer, "wandb_records" if online else None)


def start(run_dir: Path, config: Mapping[str, Any], settings: LoggingConfig) -> list[Mirror]:
    """All mirrors that a configuration (as plain data) and its logging section ask for."""
    mirrors = [Mirror("MongoDB", lambda: MongoCopy(run_dir))]
    if settings.tensorboard:
        mirrors.append(Mirror("TensorBoard", lambda: tensorboard_copy(run_dir)))
    if settings.wandb != "off":
        mirrors.append(Mirror("W&B", lambda: _wandb(run_dir, config, settings)))
    return mirrors


def _wandb(run_dir: Path, config: Mapping[str, Any], settings: LoggingConfig) -> Copy:
    """Online where that is asked for and there is a key, else offline."""
    from experiments.tracking.writers import has_wandb_key

    online = settings.wandb == "online" and has_wandb_key()
    if settings.wandb == "online" and not online:
        _say(
            "logging.wandb=online: there is no key, so the run is kept offline; set WANDB_API_KEY "
            f"or run `wandb login`, then: marl sync --wandb {run_dir.resolve().name}"
        )
    return wandb_copy(run_dir, config, settings, online=online)


def main() -> None:
    """Mirror one run until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)  # meant for the run, which ends this process
    os.nice(5)
    order = json.loads(sys.stdin.readline())
    settings = parse_config(order["config"]).logging
    mirrors = start(Path(order["run_dir"]), order["config"], settings)
    sys.stdin.read()
    for mirror in mirrors:
        mirror.ask_to_end()
    deadline = time.monotonic() + PATIENCE_S
    for mirror in mirrors:
        mirror.close(patience_s=max(0.0, deadline - time.monotonic()))
    sys.stdout.flush()
    os._exit(0)  # libraries that still wait for their servers are not waited for


if __name__ == "__main__":
    main()
