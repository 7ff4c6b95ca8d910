"""Real runs while servers, processes and disks fail: nothing lost, nothing twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.tracking import server
from experiments.tracking.read import read_series, read_view
from experiments.tracking.spool import read_events, read_heartbeat
from tests.tracking import faults
from tests.tracking.faults import Outcome, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome | BaseException]:
    if server.find_mongod() is None:
        pytest.skip("there is no mongod")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "OUTAGE_S", 30.0)  # docs/RECORDS.md has those of a minute
        return faults.run_all()


@pytest.mark.parametrize("name", faults.SCENARIOS)
def test_nothing_is_lost_and_nothing_doubled(
    name: str, outcomes: dict[str, Outcome | BaseException]
) -> None:
    outcome = outcomes[name]
    if isinstance(outcome, BaseException):
        raise outcome
    assert outcome.written > 100
    assert (outcome.found, outcome.doubled) == (outcome.written, 0)
    expected = {"run_killed": ("DEAD", -9), "rank_killed": ("FAILED", 137)}
    assert (outcome.status, outcome.exit_code) == expected.get(name, ("PREEMPTED", 143))
    if name == "rank_killed":
        assert "process 1 of 2 on" in outcome.output
        assert "was killed by signal 9" in outcome.output
    else:
        assert "Traceback" not in outcome.output


def test_an_outage_is_said_once_and_its_end_as_well(
    outcomes: dict[str, Outcome | BaseException],
) -> None:
    outcome = outcomes["killed_for_a_minute"]
    assert isinstance(outcome, Outcome)
    assert outcome.output.count("warning: MongoDB is not up to date") == 1
    assert outcome.output.count("MongoDB is up to date again") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Take the free space but for some bytes."""
    filler = disk / "filler"
    with filler.open("ab") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return filler


def wait_until_paused(run: Run) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert run.process.poll() is None, run.output()
        sign = read_heartbeat(run.directory) or {}
        if sign.get("paused"):
            return str(sign["paused"])
        time.sleep(0.5)
    raise AssertionError(f"not paused: {run.output()}")


def assert_whole(run: Run) -> None:
    """Every update left a record, in order."""
    steps = read_series(run.directory)["update/entropy"].steps
    assert steps == [800 * n for n in range(1, len(steps) + 1)]
    assert "Traceback" not in run.output()
    assert not list(run.directory.glob(".*.tmp"))


def test_a_full_disk_pauses_recording_until_there_is_space(small_disk: Path) -> None:
    run = Run(small_disk, "checkpoint_every=100000000")
    run.wait_for_records(5)
    filler = fill(small_disk, leave=0)
    assert "metrics.jsonl waits" in wait_until_paused(run)
    records = run.num_records()
    time.sleep(7)
    assert run.num_records() == records
    assert time.time() - read_heartbeat(run.directory)["time"] < 7  # type: ignore[index]
    assert read_view(run.directory).status == "RUNNING"
    filler.unlink()
    run.wait_for_records(records + 5)
    assert run.stop() == 143
    assert_whole(run)
    assert "PAUSED: the disk of" in (run.directory / "stdout.log").read_text()
    assert "space is back: metrics.jsonl is written" in run.output()


def test_a_full_disk_pauses_a_checkpoint_until_there_is_space(small_disk: Path) -> None:
    wide = "policy.hidden_sizes=[400,400]"
    run = Run(small_disk, wide, "checkpoint_every=4000", "keep_checkpoints=1")
    run.wait_for_records(3)
    filler = fill(small_disk, leave=1_500_000)
    assert "checkpoint_" in wait_until_paused(run)
    time.sleep(3)
    filler.unlink()
    records = run.num_records()
    run.wait_for_records(records + 5)
    assert run.stop() == 143
    assert_whole(run)
    resumed = subprocess.run(
        [
            *(sys.executable, "experiments/acppo.py", "with", "resume=r1"),
            f"training.total_timesteps={800 * run.num_records() + 1600}",
        ],
        cwd=faults.ROOT,
        env=run.environment,
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr


def test_a_run_that_is_killed_can_be_resumed_and_is_the_same_run(tmp_path: Path) -> None:
    run = Run(tmp_path, "checkpoint_every=1600")
    run.wait_for_records(12)
    run.stop(9)
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99999, "time": 1.0, "met')  # a torn line, as a kill may leave it
    assert read_view(run.directory).status == "DEAD"
    last = read_view(run.directory).env_steps
    assert last is not None
    resumed = run.marl("resume", "r1", f"total_timesteps={last + 1600}")
    assert resumed.returncode == 0, resumed.stderr
    view = read_view(run.directory)
    assert (view.status, view.attempt) == ("COMPLETED", 2)
    assert_whole(run)
    starts = [e["attempt"] for e in read_events(run.directory) if e["event"] == "start"]
    assert starts == [1, 2]


def test_fifty_megabytes_of_output_are_kept_and_do_not_stop_replication(tmp_path: Path) -> None:
    if server.find_mongod() is None:
        pytest.skip("there is no mongod")
    talks = "tests.tracking.talkative:talkative"
    running = server.start(tmp_path)
    try:
        run = Run(tmp_path, "env.kind=pettingzoo", f"env.factory={talks}", "num_workers=0")
        deadline = time.monotonic() + 120
        while not (log := run.directory / "stdout.log").exists() or log.stat().st_size < 50_000_000:
            assert time.monotonic() < deadline and run.process.poll() is None, run.output()[-2000:]
            time.sleep(0.5)
        time.sleep(6)
        assert run.stop() == 143
        outcome = run.outcome("50 MB of output")
        assert (outcome.found, outcome.doubled) == (outcome.written, 0)
        import pymongo

        with pymongo.MongoClient(running.uri()) as client:
            (document,) = client.sacred.runs.find()
        assert len(document["captured_out"]) < 600_000
        assert "bytes are left out here" in document["captured_out"]
    finally:
        server.stop(tmp_path)


def test_listings_are_plain_data(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.wait_for_records(3)
    listed = json.loads(run.marl("runs", "--json").stdout)
    assert [(one["id"], one["status"]) for one in listed] == [("r1", "RUNNING")]
    run.stop()
