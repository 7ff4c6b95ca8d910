"""The record of a run: files in its directory, written first and whatever else happens.

    config.json      the resolved configuration
    events.jsonl     a line per start, artifact and end of an attempt, with checksums
    metrics.jsonl    a line per record, with checksums (marlcore.recording)
    stdout.log       what was printed
    heartbeat        who writes, and when it last showed life
    notes.json       tags and notes, of `marl tag` and `marl note`
    replica.json     how far MongoDB has it
    job.json         what was submitted to a scheduler (slurm.record)
    trial.json       whose run it is: of a sweep or of a study

Only one process writes, the first of a run's; it holds a lock on `lock`. Everything else about a
run (status, attempts, duration) is derived from these files.
"""

from __future__ import annotations

import contextlib
import json
import math
import mimetypes
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.tracking import locks
from experiments.tracking.redaction import redact_all
from experiments.tracking.view import DEAD_AFTER_S
from marlcore import durable
from marlcore.config_errors import ConfigError
from marlcore.durable import LineFile, patiently, read_lines
from marlcore.recording import JsonLinesRecorder

EVENTS, METRICS, OUTPUT = "events.jsonl", "metrics.jsonl", "stdout.log"
CONFIG, NOTES, REPLICA = "config.json", "notes.json", "replica.json"
HEARTBEAT, LOCK = "heartbeat", "lock"
JOB, TRIAL = "job.json", "trial.json"
FROZEN = ".frozen"
"""Beside the runs: code and packages of jobs (slurm.freeze)."""
SWEEPS = "sweeps"
"""Beside the runs: a directory a study (sweeps.storage)."""
BEAT_EVERY_S = 5.0
_BEAT_BYTES = 512
"""Fixed, so that a beat needs no space on a full disk."""


class Spool:
    """Writes the record of one run; made by `open_spool`."""

    def __init__(self, run_dir: Path, lock: int) -> None:
        self.run_dir = run_dir
        self._lock = lock
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        self._beat = os.open(run_dir / HEARTBEAT, flags, 0o644)
        try:
            self.beat()
            self._events = LineFile(run_dir / EVENTS)
        except BaseException:
            os.close(self._beat)
            raise
        self.opened = time.time()
        self.attempt = sum(e["event"] == "start" for e in _all_events(run_dir)) + 1
        self._ended = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()

    def start(self, **facts: Any) -> None:
        """The attempt begins; `facts` are plain data (what Sacred knows, provenance)."""
        if trial := read_json(self.run_dir / TRIAL, {}):
            facts["trial"] = {name: trial[name] for name in trial if name != "argv"}
        self._event("start", attempt=self.attempt, pid=os.getpid(), host=platform.node(), **facts)

    def end(self, status: str, **facts: Any) -> None:
        """The attempt ends, with one of the statuses; what comes after the first end is ignored."""
        if not self._ended:
            self._event("end", attempt=self.attempt, status=status, **facts)
            self._ended = True

    def refuse(self) -> None:
        """Take the attempt back: it could not begin, and the run is what it was before."""
        if self.attempt > 1:
            self._event("refused", attempt=self.attempt)

    def add_artifact(self, path: Path) -> None:
        """Keep a file with the run; one that lies outside its directory is copied there.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"artifact {path} does not exist")
        if not path.resolve().is_relative_to(self.run_dir.resolve()):
            target = self.run_dir / "artifacts" / path.name
            target.parent.mkdir(exist_ok=True)
            patiently(lambda: shutil.copyfile(path, target), place=target, what=str(target))
            path = target
        self._event(
            "artifact",
            name=path.name,
            file=str(path.resolve().relative_to(self.run_dir.resolve())),
            content_type=mimetypes.guess_type(path.name)[0],
        )

    def recorder(self, *, resumed_at: int, saved_at: float | None = None) -> SpoolRecorder:
        """The recorder of this run.

        `resumed_at` are the env steps of the checkpoint it goes on from, or 0, and `saved_at` when
        that was written.
        """
        return SpoolRecorder(self, resumed_at, saved_at)

    def beat(self) -> None:
        """Show life."""
        paused = durable.paused()
        sign = {
            "time": time.time(),
            "host": platform.node(),
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "paused": paused and paused.encode("ascii", "replace").decode()[:200],
        }
        text = json.dumps(sign)
        os.pwrite(self._beat, (text.ljust(_BEAT_BYTES - 1) + "\n").encode(), 0)

    def close(self) -> None:
        """Everything is on the disk, and others may write."""
        self._stop.set()
        self._thread.join()
        self.beat()
        self._events.close()
        os.close(self._beat)
        os.close(self._lock)

    def _event(self, event: str, **facts: Any) -> None:
        self._events.append(_document(event, facts))

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_EVERY_S):
            try:
                self.beat()
            except OSError:  # the disk may be away for a while
                continue


class SpoolRecorder:
    """Records metrics and artifacts in the run's directory. A Recorder."""

    def __init__(self, spool: Spool, resumed_at: int, saved_at: float | None) -> None:
        self._spool = spool
        self._metrics = JsonLinesRecorder(spool.run_dir / METRICS)
        if (spool.run_dir / METRICS).stat().st_size:
            self._metrics.rewind(resumed_at, saved_at=saved_at)

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append the record."""
        self._metrics.record(metrics, step=step)

    def add_artifact(self, path: Path) -> None:
        """Note the file."""
        self._spool.add_artifact(path)

    def close(self) -> None:
        """Have the metrics on the disk."""
        self._metrics.close()


def _document(event: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"event": event, "time": time.time(), **_strict(redact_all(facts))}


def _strict(value: Any) -> Any:
    """Plain data in which numbers that JSON lacks are texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _strict(item) for name, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list) else value


@contextlib.contextmanager
def unwritten(run_dir: Path) -> Iterator[bool]:
    """Whether nobody writes the run, and nobody begins to while the context lasts."""
    lock = os.open(run_dir / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        yield locks.take(lock, wait=False)
    finally:
        os.close(lock)


def is_written(run_dir: Path) -> bool:
    """Whether a process writes the run, here or on another machine."""
    with unwritten(run_dir) as is_free:
        sign = read_heartbeat(run_dir)
        return not is_free or (is_alive(sign) and not has_ended(run_dir))


def note_death(run_dir: Path, what: str) -> None:
    """Add to the record of a run that all of its processes are gone, and how the first went.

    Nothing is added while a process writes the run.
    """
    with unwritten(run_dir) as is_free:
        starts = [event for event in read_events(run_dir) if event["event"] == "start"]
        if not starts or not is_free:
            return
        attempt, events = starts[-1]["attempt"], LineFile(run_dir / EVENTS)
        events.append(_document("death", {"attempt": attempt, "what": what}))
        if not has_ended(run_dir):
            facts = {"attempt": attempt, "status": "FAILED", "fail_trace": [what + "\n"]}
            events.append(_document("end", facts))
        events.close()


def open_spool(run_dir: Path, *, wait_s: float = 0.0) -> Spool:
    """Take the run for writing.

    A process that was killed on another machine seems to live for DEAD_AFTER_S: a scheduler that
    starts its successor can wait so long.

    Raises:
        ConfigError: another process has it.
    """
    deadline, has_said = time.monotonic() + wait_s, False
    while True:
        lock = patiently(
            lambda: os.open(run_dir / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644),
            place=run_dir,
            what=LOCK,
        )
        writer = _writer(run_dir, lock)
        if writer is None:
            break
        os.close(lock)
        if time.monotonic() >= deadline:
            raise ConfigError(
                f"run {run_dir.resolve().name} is being written by {writer}; wait until it ends, "
                "or stop it (it saves and can then be resumed)"
            )
        if not has_said:
            print(f"waiting for {writer}, which writes this run, to end or to be dead", flush=True)
            has_said = True
        time.sleep(1.0)
    try:
        return patiently(lambda: Spool(run_dir, lock), place=run_dir, what=EVENTS)
    except BaseException:
        os.close(lock)
        raise


def _writer(run_dir: Path, lock: int) -> str | None:
    """Who writes the run, other than this process; None, with the lock taken, if nobody does."""
    is_free = locks.take(lock, wait=False)
    sign = read_heartbeat(run_dir)
    own = sign is not None and (sign["host"], sign["pid"]) == (platform.node(), os.getpid())
    if is_free and (own or not is_alive(sign) or has_ended(run_dir)):  # a beat tells without locks
        return None
    return f"process {sign['pid']} on {sign['host']}" if sign else "another process"


def process_start(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None if it is gone.

    A process that has ended and was not waited for counts as gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The events of a run that stand, in order; none if it has not started."""
    events = _all_events(run_dir)
    refused = {event["attempt"] for event in events if event["event"] == "refused"}
    return [event for event in events if event.get("attempt") not in refused]


def _all_events(run_dir: Path) -> list[dict[str, Any]]:
    try:
        lines = read_lines(run_dir / EVENTS)[0]
    except OSError:
        return []
    return [line for line in lines if _is_event(line)]


def _is_event(line: Mapping[str, Any]) -> bool:
    needed = {
        "start": {"attempt": int, "host": str, "provenance": dict, "sources": dict},
        "end": {"attempt": int, "status": str},
        "artifact": {"name": str, "file": str},
        "refused": {"attempt": int},
        "death": {"attempt": int, "what": str},
    }.get(str(line.get("event")))
    times = isinstance(line.get("time"), int | float)
    return (
        needed is not None and times and all(isinstance(line.get(k), t) for k, t in needed.items())
    )


def has_ended(run_dir: Path) -> bool:
    """Whether the last attempt said how it ended."""
    kinds = [e["event"] for e in read_events(run_dir) if e["event"] in ("start", "end")]
    return bool(kinds) and kinds[-1] == "end"


def read_heartbeat(run_dir: Path) -> dict[str, Any] | None:
    """The last sign of life; None if there is none that makes sense."""
    sign = read_json(run_dir / HEARTBEAT, {})
    types = {"time": int | float, "host": str, "pid": int}
    if not all(isinstance(sign.get(name), kind) for name, kind in types.items()):
        return None
    return sign if 0 <= sign["time"] < 1e11 else None


def is_alive(sign: Mapping[str, Any] | None) -> bool:
    """Whether the process of a heartbeat lives; on other machines, whether the beat is fresh."""
    if sign is None:
        return False
    if sign["host"] == platform.node() and sign.get("process_start") is not None:
        return process_start(int(sign["pid"])) == sign["process_start"]
    return abs(time.time() - float(sign["time"])) < DEAD_AFTER_S  # clocks differ a little


def read_json(path: Path, default: Any) -> Any:
    """A JSON file; `default` if it is missing, damaged, or of another type than that."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default
    return value if isinstance(value, type(default)) else default


def update_json(path: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Change a small JSON object; two processes that do so at once do not lose a change."""
    with locks.held(path.with_name(f".{path.name}.lock")):
        values = read_json(path, {})
        change(values)
        durable.write_whole(path, json.dumps(values, indent=1) + "\n")
    return values


def write_trial(run_dir: Path, *, tag: str, **facts: object) -> None:
    """Say whose run it is, before it begins; the tag is what Omniboard filters by.

    Args:
        run_dir: of the run.
        tag: what kind of study has it: sweep or study.
        facts: the name of the `study`, the `argv` of the run, and more.
    """
    durable.write_whole(run_dir / TRIAL, json.dumps(facts, indent=1) + "\n")
    tags = [f"{tag}:{facts['study']}"]
    update_json(run_dir / NOTES, lambda notes: notes.update({"tags": tags} | notes))
