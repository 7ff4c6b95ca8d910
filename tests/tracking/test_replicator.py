"""From spool to MongoDB: nothing lost, nothing twice, whatever happens between."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo import errors

from experiments import _rundir, cli
from experiments.tracking import mongo, server
from experiments.tracking.replica import is_current
from experiments.tracking.replicator import Replicator
from experiments.tracking.spool import NOTES, open_spool, read_events
from marlcore.durable import write_whole
from marlcore.recording import read_records
from tests.tracking.proxy import Proxy


@pytest.fixture
def runs(mongod: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs directory with a running server of its own."""
    directory = mongod()
    monkeypatch.setenv("MARL_RUNS_DIR", str(directory))
    monkeypatch.setattr(mongo, "TIMEOUT_S", 3.0)
    return directory


@pytest.fixture
def database(runs: Path) -> Iterator[Any]:
    client: Any = pymongo.MongoClient(server.start(runs).uri("admin"))
    yield client.sacred
    client.close()


def target_of(runs: Path) -> mongo.Target:
    found = mongo.target(runs)
    assert found is not None
    return found


def make_run(run_id: str, steps: Sequence[int] = range(1, 101), *, ends: bool = True) -> Path:
    """A run that recorded two metrics at these env steps."""
    run_dir = _rundir.create("acppo", {"seed": 1, "algorithm": {"name": "acppo"}}, run_id)
    spool = open_spool(run_dir)
    spool.start(
        sacred={
            "experiment": {"name": "acppo", "base_dir": "/x", "dependencies": []},
            "command": "train",
            "host": {"hostname": "here"},
            "meta": {},
            "start_time": "2026-11-20T10:00:00",
        },
        sources={},
        provenance={},
    )
    recorder = spool.recorder(resumed_at=0)
    for step in steps:
        recorder.record({"a/b": float(step), "c": -float(step)}, step=step)
    recorder.close()
    if ends:
        spool.end("COMPLETED", result={"x": 1})
    spool.close()
    return run_dir


def replicate(run_dir: Path, target: mongo.Target) -> None:
    replicator = Replicator(run_dir, target)
    try:
        assert replicator.step()
    finally:
        replicator.close()


def assert_same(run_dir: Path, database: Any) -> None:
    """MongoDB has every point of the spool, once, and nothing else of the run."""
    (run,) = database.runs.find({"info.run_id": run_dir.name})
    found = {m["name"]: m for m in database.metrics.find({"run_id": run["_id"]})}
    assert database.metrics.count_documents({"run_id": run["_id"]}) == len(found)
    wanted: dict[str, list[tuple[int, float]]] = {}
    for record in read_records(run_dir / "metrics.jsonl"):
        for name, value in record.metrics.items():
            wanted.setdefault(name, []).append((record.step, value))
    assert {m["name"]: m["id"] for m in run["info"]["metrics"]} == {
        name: str(m["_id"]) for name, m in found.items()
    }
    for name, points in wanted.items():
        pairs = list(zip(found[name]["steps"], found[name]["values"], strict=True))
        assert repr(pairs) == repr(points)
        assert len(found[name]["timestamps"]) == len(points)
    assert set(wanted) == set(found)


def test_a_repeated_replication_changes_nothing(runs: Path, database: Any) -> None:
    run_dir = make_run("r1")
    for _ in range(3):
        replicate(run_dir, target_of(runs))
        assert_same(run_dir, database)
    assert database.runs.count_documents({}) == 1
    assert is_current(run_dir, target_of(runs).name)


def test_runs_are_numbered_as_sacred_numbers_them(runs: Path, database: Any) -> None:
    database.runs.insert_one({"_id": 7, "info": {}})
    for run_id in ("r1", "r2"):
        replicate(make_run(run_id), target_of(runs))
    assert sorted(run["_id"] for run in database.runs.find()) == [7, 8, 9]


def test_what_is_recorded_later_is_appended(runs: Path, database: Any) -> None:
    run_dir = make_run("r1", ends=False)
    replicator = Replicator(run_dir, target_of(runs))
    for start in (101, 201, 301):
        replicator.step()
        assert_same(run_dir, database)
        spool = open_spool(run_dir)
        recorder = spool.recorder(resumed_at=0)
        for step in range(start, start + 50):
            recorder.record({"a/b": math.nan, "d": math.inf}, step=step)
        recorder.close()
        spool.close()
    replicator.step()
    assert_same(run_dir, database)
    replicator.close()


def test_a_rewind_takes_points_and_metrics_back(runs: Path, database: Any) -> None:
    run_dir = make_run("r1", ends=False)
    spool = open_spool(run_dir)
    recorder = spool.recorder(resumed_at=100)
    recorder.record({"only/late": 1.0}, step=150)
    recorder.close()
    spool.close()
    replicator = Replicator(run_dir, target_of(runs))
    replicator.step()
    assert database.metrics.count_documents({"name": "only/late"}) == 1
    spool = open_spool(run_dir)
    recorder = spool.recorder(resumed_at=50)
    recorder.record({"a/b": 0.5}, step=60)
    recorder.close()
    spool.close()
    replicator.step()
    replicator.close()
    assert_same(run_dir, database)
    (metric,) = database.metrics.find({"name": "a/b"})
    assert metric["steps"] == [*range(1, 51), 60]


def test_a_connection_cut_anywhere_loses_and_doubles_nothing(runs: Path, database: Any) -> None:
    settings = server.start(runs)
    proxy = Proxy(settings.port)
    uri = settings.uri().replace(f":{settings.port}/", f":{proxy.port}/")
    uri = uri.replace("replicaSet=rs0", "directConnection=true")
    target = mongo.Target(uri, "sacred", embedded=False)
    run_dir = make_run("r1")
    cuts = 0
    for room in range(500, 12_000, 900):
        proxy.cut_at(room)
        try:
            replicate(run_dir, target)
        except errors.PyMongoError:
            cuts += 1
    proxy.cut_at(None)
    replicate(run_dir, target)
    proxy.close()
    assert cuts >= 3
    assert_same(run_dir, database)


def test_two_at_once_write_each_point_once(runs: Path, database: Any) -> None:
    run_dir = make_run("r1", range(1, 1001))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                replicate(run_dir, target_of(runs))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert database.runs.count_documents({}) == 1
    assert_same(run_dir, database)


def test_a_server_killed_and_restarted_is_written_on(runs: Path, database: Any) -> None:
    run_dir = make_run("r1", ends=False)
    replicator = Replicator(run_dir, target_of(runs))
    replicator.step()
    os.kill(server.start(runs).pid, signal.SIGKILL)
    spool = open_spool(run_dir)
    recorder = spool.recorder(resumed_at=0)
    recorder.record({"a/b": 1.0}, step=200)
    recorder.close()
    spool.close()
    with pytest.raises(errors.PyMongoError):
        replicator.step()
    server.start(runs)
    replicator.step()
    replicator.close()
    assert_same(run_dir, database)


@pytest.mark.slow
def test_a_million_points_arrive_in_ten_thousand(runs: Path, database: Any) -> None:
    run_dir = make_run("r1", [1])
    with (run_dir / "metrics.jsonl").open("a") as file:
        for step in range(2, 1_000_001):
            value = 1e6 if step == 777_777 else math.sin(step / 1000)
            file.write(json.dumps({"step": step, "time": 1.0, "metrics": {"a/b": value}}) + "\n")
    replicate(run_dir, target_of(runs))
    metric = database.metrics.find_one({"name": "a/b"})
    assert len(metric["steps"]) <= 10_001
    assert metric["steps"] == sorted(set(metric["steps"]))
    assert (metric["steps"][-1], max(metric["values"])) == (1_000_000, 1e6)


def test_tags_and_notes_go_both_ways(runs: Path, database: Any) -> None:
    run_dir = make_run("r1")
    write_whole(run_dir / NOTES, json.dumps({"tags": ["good"], "notes": "here"}))
    assert not is_current(run_dir, target_of(runs).name)
    replicate(run_dir, target_of(runs))
    assert database.runs.find_one()["omniboard"] == {"tags": ["good"], "notes": "here"}
    database.runs.update_one({}, {"$set": {"omniboard": {"tags": ["best"], "notes": "there"}}})
    replicate(run_dir, target_of(runs))
    assert json.loads((run_dir / NOTES).read_text()) == {"tags": ["best"], "notes": "there"}
    replicate(run_dir, target_of(runs))
    assert database.runs.find_one()["omniboard"] == {"tags": ["best"], "notes": "there"}


def test_what_is_recorded_during_a_step_is_written_by_the_next(
    runs: Path, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run("r1", ends=False)
    write = Replicator._write_metrics

    def slow(self: Replicator, *arguments: Any, **options: Any) -> None:
        write(self, *arguments, **options)
        monkeypatch.undo()
        spool = open_spool(run_dir)
        spool.end("COMPLETED")
        spool.close()

    monkeypatch.setattr(Replicator, "_write_metrics", slow)
    replicator = Replicator(run_dir, target_of(runs))
    replicator.step()
    assert database.runs.find_one()["status"] == "RUNNING"
    assert not is_current(run_dir, target_of(runs).name)
    replicator.step()
    replicator.close()
    assert database.runs.find_one()["status"] == "COMPLETED"


def test_a_run_that_failed_and_goes_on_has_no_traceback_any_more(runs: Path, database: Any) -> None:
    run_dir = make_run("r1", ends=False)
    spool = open_spool(run_dir)
    spool.end("FAILED", fail_trace=["ValueError: x\n"])
    spool.close()
    replicate(run_dir, target_of(runs))
    assert database.runs.find_one()["fail_trace"] == ["ValueError: x\n"]
    (start,) = [e for e in read_events(run_dir) if e["event"] == "start"]
    spool = open_spool(run_dir)
    spool.start(**{name: start[name] for name in ("sacred", "sources", "provenance")})
    replicate(run_dir, target_of(runs))
    run = database.runs.find_one()
    assert run["status"] == "RUNNING"
    assert not {"fail_trace", "stop_time"} & set(run)
    spool.close()


def test_a_deleted_document_comes_back_with_its_own_number(runs: Path, database: Any) -> None:
    first = make_run("r1", ends=False)
    replicator = Replicator(first, target_of(runs))
    replicator.step()
    database.runs.delete_one({"info.run_id": "r1"})
    second = make_run("r2")
    replicate(second, target_of(runs))
    spool = open_spool(first)
    spool.end("COMPLETED")
    spool.close()
    replicator.step()
    replicator.close()
    assert {run["info"]["run_id"]: run["_id"] for run in database.runs.find()} == {"r1": 2, "r2": 1}
    assert_same(first, database)
    assert_same(second, database)


def test_tags_reach_a_new_database(runs: Path, database: Any) -> None:
    run_dir = make_run("r1")
    write_whole(run_dir / NOTES, json.dumps({"tags": ["good"], "notes": "keep"}))
    replicate(run_dir, target_of(runs))
    database.client.drop_database("sacred")
    replicate(run_dir, target_of(runs))
    assert json.loads((run_dir / NOTES).read_text()) == {"tags": ["good"], "notes": "keep"}
    assert database.runs.find_one()["omniboard"] == {"tags": ["good"], "notes": "keep"}
    write_whole(run_dir / NOTES, "[")
    replicate(run_dir, target_of(runs))
    assert database.runs.find_one()["omniboard"] == {"tags": ["good"], "notes": "keep"}


def test_a_run_that_mongodb_alone_has_is_shown_all_the_same(
    runs: Path, database: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run("r1")
    (run_dir / "stdout.log").write_text("one\ntwo\n")
    replicate(run_dir, target_of(runs))
    shutil.rmtree(run_dir)
    database.runs.insert_one({"_id": "text", "status": None, "omniboard": 5})
    database.metrics.insert_one({"run_id": "text", "name": "x", "steps": []})
    assert cli.main(["runs", "--json"]) == 0
    listed = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
    assert (listed["r1"]["status"], listed["r1"]["where"]) == ("COMPLETED", "mongo")
    assert listed["r1"]["metrics"] == {"a/b": 100.0, "c": -100.0}
    for words in (
        ["show", "1"],
        ["diff", "r1", "text"],
        ["export", "r1", "-o", "-", "--format", "csv"],
    ):
        assert cli.main(words) == 0, words
    assert "not here; it is in MongoDB as 1" in capsys.readouterr().out
    assert cli.main(["tail", "r1", "-n", "1"]) == 0
    assert capsys.readouterr().out == "two\n"
    assert cli.main(["tag", "r1", "good"]) == 0
    assert database.runs.find_one({"_id": 1})["omniboard"]["tags"] == ["good"]
    assert cli.main(["resume", "r1"]) == 2
    assert "is in MongoDB alone" in capsys.readouterr().err


def test_a_run_that_has_not_started_is_left_alone(runs: Path, database: Any) -> None:
    run_dir = _rundir.create("acppo", {}, "r1")
    replicator = Replicator(run_dir, target_of(runs))
    assert not replicator.step()
    replicator.close()
    assert database.runs.count_documents({}) == 0


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://u:p@ss@host:1/db?x=secret", "mongodb://host:1/db"),
        ("mongodb://host/db", "mongodb://host/db"),
    ],
)
def test_a_target_shows_neither_user_nor_options(uri: str, shown: str) -> None:
    target = mongo.Target(uri, "db", embedded=False)
    assert str(target) == f"MongoDB at {shown}"
    assert "ss" not in repr(target).replace(shown, "")
