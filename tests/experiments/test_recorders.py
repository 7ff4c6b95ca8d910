"""Recorders of other tools, and the console."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments import _output, console
from experiments.console import ConsoleRecorder, format_seconds, print_summary, result_rows
from experiments.recorders import SacredRecorder, TolerantRecorder, make_recorder
from marlcore import metrics
from marlcore.config_errors import parse_config
from marlcore.recording import MemoryRecorder, read_records

UPDATE = {
    "rollout/return_mean": 2.5,
    "update/policy_loss": -0.01,
    "update/approx_kl": math.nan,
    "time/env_steps_per_s": 1234.0,
}


class FakeSacredRun:
    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.artifacts: list[str] = []

    def log_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def add_artifact(self, filename: str, name: str) -> None:
        self.artifacts.append(name)


class FailingRecorder:
    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        raise OSError("no route to the service")

    def add_artifact(self, path: Path) -> None:
        raise AssertionError("not reached")

    def close(self) -> None:
        raise AssertionError("not reached")


def test_sacred_gets_finite_numbers_with_their_step() -> None:
    run = FakeSacredRun()
    SacredRecorder(run).record(UPDATE, step=7)
    assert ("rollout/return_mean", 2.5, 7) in run.scalars
    assert "update/approx_kl" not in {name for name, _, _ in run.scalars}


def test_an_artifact_never_takes_the_name_of_a_file_of_sacred(tmp_path: Path) -> None:
    run = FakeSacredRun()
    for name in ("config.json", "video.mp4"):
        (tmp_path / name).write_text("")
        SacredRecorder(run).add_artifact(tmp_path / name)
    assert run.artifacts == ["artifact_config.json", "video.mp4"]


def test_a_recorder_that_fails_is_reported_once_and_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorder = TolerantRecorder("W&B", FailingRecorder)
    for step in range(3):
        recorder.record(UPDATE, step=step)
    recorder.add_artifact(Path("x"))
    recorder.close()
    assert capsys.readouterr().err.count("W&B failed") == 1


def test_a_recorder_that_cannot_be_made_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    def make() -> MemoryRecorder:
        raise RuntimeError("not logged in")

    TolerantRecorder("W&B", make).record(UPDATE, step=1)
    assert "W&B failed and gets no more metrics (RuntimeError: not" in capsys.readouterr().err


def test_a_recorder_that_works_is_handed_everything() -> None:
    memory = MemoryRecorder()
    recorder = TolerantRecorder("memory", lambda: memory)
    recorder.record(UPDATE, step=1)
    recorder.add_artifact(Path("x"))
    assert (len(memory.records), memory.artifacts) == (1, [Path("x")])


def test_every_metric_of_the_console_is_declared() -> None:
    for _, key, _ in console._SHOWN + console._SHOWN_EVALUATION:
        assert metrics.meaning(key)


def test_a_plain_line_shows_progress_and_what_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorder = ConsoleRecorder("plain", total_env_steps=10_000)
    recorder.record(UPDATE, step=2500)
    line = capsys.readouterr().out
    assert line.startswith("update 1  2,500/10,000 env steps (25%)  left 0:00:0")
    assert "return 2.50  policy loss -0.0100  kl nan  steps/s 1,234" in line
    assert "success" not in line


def test_lines_are_rare_but_the_first_and_the_last_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorder = ConsoleRecorder("plain", total_env_steps=100)
    for step in range(1, 101):
        recorder.record(UPDATE, step=step)
    recorder.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["update 1", "update 100"]


def test_progress_goes_on_from_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = ConsoleRecorder("plain", total_env_steps=100, start_step=50, start_update=5)
    recorder.record(UPDATE, step=60)
    assert "update 6  60/100 env steps (60%)" in capsys.readouterr().out


def test_an_evaluation_stands_behind_its_update(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = ConsoleRecorder("plain", total_env_steps=100)
    for step in (5, 10):
        recorder.record(UPDATE, step=step)
    recorder.record({"eval/return_mean": 3.0, "eval/success_rate": 0.5}, step=10)
    recorder.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["update 1", "update 2"]
    assert lines[2:] == ["evaluation at 10 env steps  return 3.00  success 50%"]


def test_a_console_that_is_off_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = ConsoleRecorder("off", total_env_steps=100)
    recorder.record(UPDATE, step=10)
    recorder.close()
    assert capsys.readouterr().out == ""


def test_a_live_display_writes_its_lines_to_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    with _output.copied_to(tmp_path / "stdout.log"):
        recorder = ConsoleRecorder("rich", total_env_steps=100)
        recorder.record(UPDATE, step=10)
        recorder.record({"eval/return_mean": 3.0}, step=10)
        recorder.close()
        print("after")
    log = (tmp_path / "stdout.log").read_text()
    assert log.startswith("update 1  10/100 env steps (10%)")
    assert log.endswith("evaluation at 10 env steps  return 3.00\nafter\n")
    assert "evaluation at 10 env steps" in terminal.getvalue()


def test_output_is_copied_and_streams_are_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = (sys.stdout, sys.stderr)
    with _output.copied_to(tmp_path / "stdout.log"):
        print("to both \u4e2d")
        print("an error", file=sys.stderr)
        _output.log_line("to the log")
    assert (sys.stdout, sys.stderr) == streams
    log = (tmp_path / "stdout.log").read_text(encoding="utf-8")
    assert log == "to both \u4e2d\nan error\nto the log\n"
    assert capsys.readouterr() == ("to both \u4e2d\n", "an error\n")


def test_a_terminal_that_went_away_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with _output.copied_to(tmp_path / "stdout.log"):
        print("still here")
    assert (tmp_path / "stdout.log").read_text() == "still here\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (math.inf, "?"), (0, "0:00:00"), (3725, "1:02:05")]
)
def test_a_duration_is_hours_minutes_seconds(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_result_without_episodes_has_no_rate() -> None:
    labels = [label for label, _ in result_rows({"return_mean": 1.0, "num_episodes": 0})]
    assert labels == ["return, mean of episodes"]


def test_the_summary_names_what_can_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary({"num_episodes": 4, "num_successes": 4}, run_dir=Path("runs/r1"), resume="RESUME")
    output = capsys.readouterr().out
    assert "100.0% [51.0%, 100.0%] (4 of 4 episodes)" in output
    assert "python experiments/evaluate.py r1" in output
    assert "RESUME total_timesteps=N" in output


def configured(**logging: Any) -> Any:
    return parse_config({"algorithm": {"name": "mappo"}, "logging": logging})


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    for start, steps in ((0, (100, 200, 300)), (200, (300, 400))):
        recorder = make_recorder(
            configured(console="off"), run_dir=tmp_path, sacred_run=None, start_step=start
        )
        for step in steps:
            recorder.record(UPDATE, step=step)
        recorder.close()
    steps = [record["step"] for record in read_records(tmp_path / "metrics.jsonl")]
    assert steps == [100, 200, 300, 400]


def test_a_fresh_run_takes_every_recorder_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sacred = FakeSacredRun()
    recorder = make_recorder(configured(console="plain"), run_dir=tmp_path, sacred_run=sacred)
    recorder.record(UPDATE, step=5)
    recorder.close()
    assert sacred.scalars
    assert capsys.readouterr().out.startswith("update 1  5/200,000")


@pytest.mark.filterwarnings("default")
def test_tensorboard_files_hold_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recorder = make_recorder(
        configured(console="off", tensorboard=True), run_dir=tmp_path, sacred_run=None
    )
    recorder.record(UPDATE, step=5)
    recorder.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (scalar,) = events.Scalars("rollout/return_mean")
    assert (scalar.step, scalar.value) == (5, 2.5)
