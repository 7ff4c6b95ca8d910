"""Copies of the spool in other tools, and what happens when they fail."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from experiments import _rundir, cli
from experiments.tracking import mirrors
from experiments.tracking.follower import Follower
from experiments.tracking.mirrors import Mirror, WriterCopy, tensorboard_copy
from experiments.tracking.spool import open_spool
from marlcore.config_errors import parse_config
from marlcore.recording import Record


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MARL_MONGO_URI", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path))
    return tmp_path


def make(runs: Path, steps: range = range(1, 11)) -> Path:
    values = parse_config({"algorithm": {"name": "acppo"}}).model_dump(mode="json")
    path = _rundir.create("acppo", values, "r1")
    record(path, steps)
    return path


def record(path: Path, steps: range, *, resumed_at: int = 0) -> None:
    spool = open_spool(path)
    recorder = spool.recorder(resumed_at=resumed_at)
    for step in steps:
        recorder.record({"rollout/return_mean": step / 2}, step=step)
    recorder.close()
    spool.close()


class MemoryWriter:
    """Keeps what it is handed; fails at those steps, once each."""

    def __init__(self, *fails_at: int) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []
        self.artifacts: list[Path] = []
        self.fails_at = list(fails_at)

    def write(self, record: Record) -> None:
        if record.step in self.fails_at:
            self.fails_at.remove(record.step)
            raise ConnectionError
        self.records.append((record.step, record.metrics))

    def add_artifact(self, path: Path) -> None:
        self.artifacts.append(path)

    def close(self) -> None:
        pass


class Failing:
    """A copy that fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures, self.steps, self.closed = failures, 0, threading.Event()

    def step(self) -> None:
        self.steps += 1
        if self.steps <= self.failures:
            raise ConnectionError("no route\nto the host")

    def close(self) -> None:
        self.closed.set()


def test_a_failure_is_said_once_and_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    copy = Failing(5)
    mirror = Mirror("The copy", lambda: copy, every_s=0.01)
    deadline = time.monotonic() + 10
    while copy.steps < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    mirror.close()
    output = capsys.readouterr().out
    assert output.splitlines() == [
        "warning: The copy is not up to date (ConnectionError: no route); the run's directory has "
        "everything, and this is tried again",
        "The copy is up to date again",
    ]
    assert copy.closed.is_set()


def test_what_stays_away_is_said_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    mirror = Mirror("The copy", lambda: Failing(10**9), every_s=0.01)
    time.sleep(0.1)
    mirror.close()
    assert "The copy has not everything; the run's directory has" in capsys.readouterr().out


def test_what_hangs_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mirrors, "PATIENCE_S", 0.2)
    release = threading.Event()

    class Hanging:
        def step(self) -> None:
            release.wait(30)

        def close(self) -> None:
            pass

    mirror = Mirror("The copy", Hanging, every_s=0.01)
    start = time.monotonic()
    mirror.close()
    assert time.monotonic() - start < 5
    assert "has not everything" in capsys.readouterr().out
    release.set()


def test_a_recorder_is_handed_every_record_and_artifact_once(runs: Path) -> None:
    path = make(runs)
    memory = MemoryWriter()
    copy = WriterCopy(path, memory)
    copy.step()
    copy.step()
    record(path, range(11, 13))
    (path / "video.mp4").write_bytes(b"x")
    spool = open_spool(path)
    spool.add_artifact(path / "video.mp4")
    spool.close()
    copy.step()
    copy.step()
    assert [step for step, _ in memory.records] == list(range(1, 13))
    assert memory.artifacts == [path / "video.mp4"]


def test_what_a_tool_did_not_take_is_handed_over_again(runs: Path) -> None:
    path = make(runs)
    writer = MemoryWriter(3, 7)
    copy = WriterCopy(path, writer, "wandb_records")
    for handed in (2, 6):
        with pytest.raises(ConnectionError):
            copy.step()
        assert json.loads((path / "replica.json").read_text())["wandb_records"] == handed
    copy.step()
    assert [step for step, _ in writer.records] == list(range(1, 11))


def test_a_tool_that_keeps_what_it_got_is_handed_the_rest(runs: Path) -> None:
    path = make(runs)
    WriterCopy(path, MemoryWriter(), "wandb_records").step()
    record(path, range(8, 12), resumed_at=7)
    memory = MemoryWriter()
    WriterCopy(path, memory, "wandb_records").step()
    assert [step for step, _ in memory.records] == [8, 9, 10, 11]


@pytest.mark.filterwarnings("default")
def test_tensorboard_has_the_points_that_stand(runs: Path) -> None:
    path = make(runs)
    for _ in range(2):  # made anew by the next attempt
        copy = tensorboard_copy(path)
        copy.step()
        copy.close()
        assert tensorboard(path) == [(step, step / 2) for step in range(1, 11)]
    record(path, range(6, 8), resumed_at=5)
    copy = tensorboard_copy(path)
    copy.step()
    copy.close()
    assert tensorboard(path) == [(step, step / 2) for step in range(1, 8)]


def tensorboard(path: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path / "tensorboard")).Reload()
    return [(scalar.step, scalar.value) for scalar in events.Scalars("rollout/return_mean")]


@pytest.mark.filterwarnings("default")
def test_a_run_can_be_written_for_wandb_later(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(runs)
    assert cli.main(["sync", "--wandb", "r1"]) == 2
    assert "W&B has no key" in capsys.readouterr().err
    assert cli.main(["sync", "--wandb", "--offline", "r1"]) == 0
    (written,) = (path / "wandb").rglob("*.wandb")
    deadline = time.monotonic() + 10  # W&B's own process writes it
    while b"rollout/return_mean" not in written.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_without_anything_to_mirror_to_no_process_is_started(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", pytest.fail)
    path = make(runs)
    settings = parse_config({"algorithm": {"name": "acppo"}}).logging
    Follower(path, {}, settings).close()


def test_a_process_that_mirrors_and_is_killed_is_replaced(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.tracking.follower.EVERY_S", 0.05)
    monkeypatch.setattr("experiments.tracking.follower._PAUSE_S", 0.05)
    path = make(runs)
    config = parse_config({"algorithm": {"name": "acppo"}, "logging": {"tensorboard": True}})
    follower = Follower(path, config.model_dump(mode="json"), config.logging)
    first = follower._process
    assert first is not None
    first.kill()
    deadline = time.monotonic() + 20
    while follower._process is first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert follower._process is not first
    follower.close()
    assert tensorboard(path) == [(step, step / 2) for step in range(1, 11)]
