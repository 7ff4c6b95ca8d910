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
    read_records,
)


def write(path: Path, *steps: int) -> None:
    recorder = JsonLinesRecorder(path)
    for step in steps:
        recorder.record({"rollout/return_mean": step / 2}, step=step)
    recorder.close()


def steps(path: Path) -> list[object]:
    return [record.step for record in read_records(path)]


def test_a_record_is_on_the_disk_after_every_call(tmp_path: Path) -> None:
    recorder = JsonLinesRecorder(tmp_path / "run" / "metrics.jsonl")
    recorder.record({"a": 1.0}, step=3)
    (record,) = read_records(tmp_path / "run" / "metrics.jsonl")
    assert (record.step, record.metrics) == (3, {"a": 1.0})
    recorder.close()


def test_numbers_that_are_not_finite_come_back_from_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    recorder = JsonLinesRecorder(path)
    recorder.record({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0}, step=1)
    recorder.close()
    json.loads(path.read_text(), parse_constant=pytest.fail)
    (record,) = read_records(path)
    assert math.isnan(record.metrics.pop("a"))
    assert record.metrics == {"b": math.inf, "c": -math.inf, "d": 0.0}


def test_a_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "time": 2.0, "metrics": {"a": null, "b": 3.0}}\n')
    (record,) = read_records(path)
    assert (record.step, record.time, record.metrics["b"]) == (1, 2.0, 3.0)
    assert math.isnan(record.metrics["a"])


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


def test_a_rewind_takes_back_the_records_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 100, 200, 300)
    recorder = JsonLinesRecorder(path)
    recorder.rewind(200, saved_at=None)
    recorder.record({"a": 1.0}, step=250)
    recorder.close()
    assert steps(path) == [100, 200, 250]
    assert len(path.read_text().splitlines()) == 5  # nothing was rewritten


def test_the_next_writer_removes_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    path.write_text(path.read_text()[:-5])
    write(path, 2)
    assert steps(path) == [1, 2]


def test_a_changed_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2, 3)
    path.write_text(
        path.read_text().replace('"rollout/return_mean": 1.0', '"rollout/return_mean": 9.0')
    )
    assert steps(path) == [1, 3]


def test_a_tee_hands_everything_to_each(tmp_path: Path) -> None:
    first, second = MemoryRecorder(), MemoryRecorder()
    tee = TeeRecorder([first, second])
    tee.record({"a": 1.0}, step=2)
    tee.add_artifact(tmp_path)
    tee.close()
    for recorder in (first, second):
        assert recorder.records == [(2, {"a": 1.0})]
        assert recorder.artifacts == [tmp_path]
