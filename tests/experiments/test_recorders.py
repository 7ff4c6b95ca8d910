"""Recorders of other tools, and the console."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments import _output, console
from experiments.console import ConsoleRecorder, format_seconds, print_summary, result_rows
from experiments.recorders import make_recorder
from experiments.tracking.spool import open_spool
from marlcore import metrics
from marlcore.config_errors import parse_config
from marlcore.recording import read_records

UPDATE = {
    "rollout/return_mean": 2.5,
    "update/policy_loss": -0.01,
    "update/approx_kl": math.nan,
    "time/env_steps_per_s": 1234.0,
}


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


def test_success_that_was_reached_and_success_that_was_held_are_told_apart() -> None:
    rows = dict(result_rows({"num_episodes": 4, "num_successes": 4, "num_held": 3}))
    assert rows["success rate"].endswith("(4 of 4 episodes)")
    assert rows["held at the end"].endswith("(3 of 4 episodes)")


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
        spool = open_spool(tmp_path)
        recorder = make_recorder(configured(console="off"), spool=spool, start_step=start)
        for step in steps:
            recorder.record(UPDATE, step=step)
        recorder.close()
        spool.close()
    assert [r.step for r in read_records(tmp_path / "metrics.jsonl")] == [100, 200, 300, 400]


def test_a_training_loop_records_to_the_spool_and_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = open_spool(tmp_path)
    recorder = make_recorder(configured(console="plain"), spool=spool)
    recorder.record(UPDATE, step=5)
    recorder.close()
    spool.close()
    assert [r.step for r in read_records(tmp_path / "metrics.jsonl")] == [5]
    assert capsys.readouterr().out.startswith("update 1  5/200,000")
