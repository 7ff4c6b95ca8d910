"""Recorders of the library."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from marlcore.recording import (
    JsonLinesRecorder,
    MemoryRecorder,
    TeeRecorder,
    drop_after,
    read_records,
)


def write(path: Path, *steps: int) -> None:
    recorder = JsonLinesRecorder(path)
    for step in steps:
        recorder.record({"rollout/return_mean": step / 2}, step=step)
    recorder.close()


def steps(path: Path) -> list[object]:
    return [record["step"] for record in read_records(path)]


def test_a_record_is_on_the_disk_after_every_call(tmp_path: Path) -> None:
    recorder = JsonLinesRecorder(tmp_path / "run" / "metrics.jsonl")
    recorder.record({"a": 1.0}, step=3)
    (record,) = read_records(tmp_path / "run" / "metrics.jsonl")
    assert (record["step"], record["metrics"]) == (3, {"a": 1.0})
    recorder.close()


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    recorder = JsonLinesRecorder(path)
    recorder.record({"a": math.nan, "b": math.inf, "c": 0.0}, step=1)
    recorder.close()
    metrics = json.loads(path.read_text(), parse_constant=pytest.fail)["metrics"]
    assert metrics == {"a": None, "b": None, "c": 0.0}


def test_a_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    write(path, 3)
    assert steps(path) == [1, 2, 3]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    path.write_text(path.read_text()[:-5])
    assert steps(path) == [1]


def test_records_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 100, 200, 300)
    drop_after(path, step=200)
    assert steps(path) == [100, 200]
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_dropping_mends_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    path.write_text(path.read_text()[:-5])
    drop_after(path, step=10)
    write(path, 2)
    assert steps(path) == [1, 2]


def test_dropping_without_a_file_changes_nothing(tmp_path: Path) -> None:
    drop_after(tmp_path / "metrics.jsonl", step=1)
    assert not list(tmp_path.iterdir())


def test_a_tee_hands_everything_to_each(tmp_path: Path) -> None:
    first, second = MemoryRecorder(), MemoryRecorder()
    tee = TeeRecorder([first, second])
    tee.record({"a": 1.0}, step=2)
    tee.add_artifact(tmp_path)
    tee.close()
    for recorder in (first, second):
        assert recorder.records == [(2, {"a": 1.0})]
        assert recorder.artifacts == [tmp_path]
