"""The record in a run's directory, and what is derived from it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import _rundir
from experiments.tracking import read, spool, view
from experiments.tracking.read import list_views, read_series, read_view
from experiments.tracking.spool import open_spool, read_events
from marlcore.config_errors import ConfigError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path))
    return tmp_path


def make(run_id: str = "r1", **config: object) -> Path:
    return _rundir.create("acppo", {"algorithm": {"name": "acppo"}, **config}, run_id)


def start(one: spool.Spool) -> None:
    one.start(provenance={"git": {"commit": "c0ffee", "dirty": True}}, sources={})


def test_the_status_follows_from_the_events(runs: Path) -> None:
    path = make()
    assert read_view(path).status == view.NEW
    one = open_spool(path)
    start(one)
    assert read_view(path).status == view.RUNNING
    one.end("PREEMPTED")
    one.end("FAILED")
    assert read_view(path).status == view.PREEMPTED
    one.close()
    again = open_spool(path)
    start(again)
    assert (read_view(path).status, read_view(path).attempt) == (view.RUNNING, 2)
    again.end("COMPLETED", result=None)
    again.close()
    found = read_view(path)
    assert (found.status, found.attempt, found.commit, found.dirty) == (
        view.COMPLETED,
        2,
        "c0ffee",
        True,
    )


def test_a_run_whose_process_is_gone_is_dead(runs: Path) -> None:
    path = make()
    code = (
        "import os; from pathlib import Path; from experiments.tracking.spool import open_spool\n"
        f"one = open_spool(Path({str(path)!r}))\n"
        "one.start(provenance={}, sources={}); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert read_view(path).status == view.DEAD
    open_spool(path).close()  # and can be written again


def test_a_run_elsewhere_is_dead_when_its_heartbeat_is_old(runs: Path) -> None:
    path = make()
    one = open_spool(path)
    start(one)
    one.close()
    sign = spool.read_heartbeat(path)
    assert sign is not None
    for age, status in ((5, view.RUNNING), (view.DEAD_AFTER_S + 5, view.DEAD)):
        sign |= {"host": "elsewhere", "time": time.time() - age}
        (path / spool.HEARTBEAT).write_text(json.dumps(sign))
        assert read_view(path).status == status
        if status == view.RUNNING:  # on a file system whose locks this machine does not see
            with pytest.raises(ConfigError, match="on elsewhere; wait until it ends"):
                open_spool(path)
    open_spool(path).close()


def test_two_writers_are_refused(runs: Path) -> None:
    path = make()
    one = open_spool(path)
    with pytest.raises(ConfigError, match=f"being written by process {os.getpid()}"):
        open_spool(path)
    one.close()
    open_spool(path).close()


def test_a_heartbeat_keeps_its_size(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make()
    one = open_spool(path)
    sizes = set()
    for text in (None, "the disk is full: " + "x" * 1000):
        monkeypatch.setattr("marlcore.durable.paused", lambda t=text: t)
        one.beat()
        sizes.add((path / spool.HEARTBEAT).stat().st_size)
        assert spool.read_heartbeat(path) is not None
    one.close()
    assert len(sizes) == 1


def test_an_artifact_from_elsewhere_is_copied(runs: Path, tmp_path: Path) -> None:
    path = make()
    one = open_spool(path)
    (tmp_path / "picture.png").write_bytes(b"png")
    (path / "evaluation.json").write_text("{}")
    one.add_artifact(tmp_path / "picture.png")
    one.add_artifact(path / "evaluation.json")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        one.add_artifact(path / "nothing")
    one.close()
    found = [(e["name"], e["file"], e["content_type"]) for e in read_events(path)]
    assert found == [
        ("picture.png", "artifacts/picture.png", "image/png"),
        ("evaluation.json", "evaluation.json", "application/json"),
    ]
    assert (path / "artifacts" / "picture.png").read_bytes() == b"png"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_written_by_one_all_the_same(
    runs: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    path = make()
    one = open_spool(path)
    start(one)
    sign = spool.read_heartbeat(path)
    assert sign is not None
    (path / spool.HEARTBEAT).write_text(
        json.dumps(sign | {"pid": os.getppid(), "process_start": spool.process_start(os.getppid())})
    )
    with pytest.raises(ConfigError, match="being written"):
        open_spool(path)
    one.end("COMPLETED")
    open_spool(path).close()
    one.close()


def test_a_spool_that_cannot_be_opened_leaves_nothing_open(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make()
    open_spool(path).close()
    before = len(os.listdir("/proc/self/fd"))

    def fails(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(spool, "LineFile", fails)
    for _ in range(3):
        with pytest.raises(PermissionError):
            open_spool(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_death_is_added_to_the_record_of_a_run_that_nobody_writes(runs: Path) -> None:
    path = make()
    one = open_spool(path)
    start(one)
    spool.note_death(path, "process 1 of 2 was killed by signal 9")
    assert [e["event"] for e in read_events(path)] == ["start"]
    one.close()
    spool.note_death(path, "process 1 of 2 was killed by signal 9")
    assert [e["event"] for e in read_events(path)] == ["start", "death", "end"]
    found = read_view(path)
    assert (found.status, found.error) == ("FAILED", "process 1 of 2 was killed by signal 9")


@pytest.mark.parametrize(
    "name",
    ["config.json", "notes.json", "replica.json", "heartbeat", "events.jsonl", "metrics.jsonl"],
)
@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "5", '{"tags": 3, "algorithm": 3, "number": 1}', "\0", '{"event": "start"}'],
)
def test_a_damaged_file_stops_no_listing(runs: Path, name: str, text: str) -> None:
    for run_id in ("good", "bad"):
        one = open_spool(make(run_id))
        start(one)
        one.end("COMPLETED")
        one.close()
    (runs / "bad" / name).write_text(text + "\n")
    for _ in range(2):
        found = {v.id: v.status for v in list_views(runs)}
        assert found["good"] == "COMPLETED"
        assert set(found) == {"good", "bad"}
    read_series(runs / "bad")


def test_events_hold_no_secret(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", "canary-password")
    path = make()
    one = open_spool(path)
    one.end("FAILED", fail_trace=["ValueError: canary-password\n"])
    one.close()
    assert "canary" not in (path / spool.EVENTS).read_text()


def test_the_index_gives_what_the_directories_give(runs: Path) -> None:
    for number in range(5):
        path = make(f"r{number}", seed=number)
        one = open_spool(path)
        start(one)
        recorder = one.recorder(resumed_at=0)
        recorder.record({"a": number / 2}, step=number)
        recorder.close()
        if number % 2:
            one.end("COMPLETED")
        one.close()
    fresh = [read_view(runs / f"r{number}") for number in range(5)]
    for _ in range(2):  # without and with an index
        assert sorted(list_views(runs), key=lambda v: v.id) == fresh
    assert (runs / read.INDEX).exists()
    one = open_spool(runs / "r1")
    start(one)
    one.end("FAILED", fail_trace=["ValueError: x\n"])
    one.close()
    found = {v.id: v for v in list_views(runs)}
    assert (found["r1"].status, found["r1"].error) == ("FAILED", "ValueError: x")
    (runs / read.INDEX).write_bytes(b"rubbish")
    assert {v.id: v.status for v in list_views(runs)} == {v.id: v.status for v in found.values()}


def test_the_last_values_are_found_at_the_end_of_a_long_file(runs: Path) -> None:
    path = make()
    one = open_spool(path)
    recorder = one.recorder(resumed_at=0)
    for step in range(3000):
        recorder.record({"a": float(step), "b": -1.0}, step=step)
    recorder.close()
    one.close()
    found = read_view(path)
    assert (found.env_steps, found.metrics) == (2999, {"a": 2999.0, "b": -1.0})
    assert len(read_series(path)["a"].values) == 3000
