"""Units as runs: killed, failed, pruned, taken over."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import _stop
from experiments._rundir import checkpoints
from experiments.tracking.read import read_view
from experiments.tracking.spool import read_events
from experiments.tracking.view import Series
from sweeps import ledger
from sweeps.curves import Curve, points, score
from sweeps.ledger import Owner, Unit
from sweeps.objective import Objective
from sweeps.study import Study
from tests.sweeps.toy import open_toy

ME = Owner.of_this_process()
SHORT = ["partition", "total_timesteps=1600", "logging.video=false", "num_eval_episodes=1"]
LONG = ["partition", "total_timesteps=10000000", "logging.video=false"]


@pytest.fixture
def open_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    monkeypatch.delenv("MARL_OPTUNA_URL", raising=False)
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))
    return lambda **changes: open_toy(tmp_path / "study", **changes)


def run(study: Study, unit: Unit | None = None, log: str = "log") -> Unit:
    """Run a unit; what stands in the ledger then."""
    unit = unit or claim(study)
    with open(Path(os.environ["MARL_RUNS_DIR"]).parent / log, "ab", buffering=0) as file:
        Objective(study, file).run(unit)
    return next(u for u in study.ledger.units() if u.key == unit.key)


def claim(study: Study) -> Unit:
    unit = study.claim(ME)
    assert isinstance(unit, Unit)
    return unit


def run_dir(unit: Unit) -> Path:
    assert unit.run is not None
    return Path(os.environ["MARL_RUNS_DIR"]) / unit.run


def when(condition: Callable[[], bool], action: Callable[[], Any]) -> threading.Thread:
    """Do something once a condition holds, beside the test."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def kill_run(folder: Path, number: int) -> None:
    lines = [e for e in read_events(folder) if e["event"] == "start"]
    os.kill(lines[-1]["pid"], number)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_as_the_same_run(open_real: Any, tmp_path: Path) -> None:
    study = open_real(trials=1, **{"with": [*LONG, "checkpoint_every=1600"]})
    folder = tmp_path / "runs" / "toy-t0000-s0"
    thread = when(
        lambda: folder.exists() and bool(checkpoints(folder)),
        lambda: kill_run(folder, signal.SIGKILL),
    )
    unit = run(study)
    thread.join()
    assert (unit.state, unit.failures, unit.run) == (ledger.WAITING, 1, "toy-t0000-s0")
    thread = when(
        lambda: read_view(folder).attempt == 2 and read_view(folder).status == "RUNNING",
        lambda: kill_run(folder, signal.SIGTERM),
    )
    unit = run(study)
    thread.join()
    assert (unit.state, unit.failures) == (ledger.WAITING, 1)  # told to stop is no failure
    assert read_view(folder).status == "PREEMPTED"


@pytest.mark.slow
def test_a_run_whose_curve_is_bad_ends_pruned_with_its_checkpoint(open_real: Any) -> None:
    pruner = {"kind": "median", "by": "curve", "num_points": 5, "num_startup_trials": 1}
    words = [*SHORT[:1], "total_timesteps=60000", *SHORT[2:]]
    study = open_real(trials=2, pruner=pruner, **{"with": words})
    first = claim(study)
    for point in range(5):
        study.report(first, point, 100.0)  # no run is ever as good
    study.finish(first, ledger.DONE, score=100.0)
    unit = run(study)
    assert unit.state == ledger.PRUNED
    one = read_view(run_dir(unit))
    assert one.status == "PRUNED"
    assert one.env_steps is not None
    assert 12_000 <= one.env_steps < 60_000
    assert max(checkpoints(run_dir(unit))) == one.env_steps
    assert [trial.state.name for trial in study.optuna.trials] == ["COMPLETE", "PRUNED"]


@pytest.mark.slow
def test_a_complete_run_of_a_dead_worker_is_taken_as_it_is(open_real: Any, tmp_path: Path) -> None:
    study = open_real(trials=1, **{"with": SHORT})
    unit = run(study)
    assert unit.state == ledger.DONE
    before = read_events(run_dir(unit))
    with sqlite3.connect(tmp_path / "study" / "study.db") as database:  # it died before it told
        database.execute("UPDATE marl_units SET state = 'running', score = NULL, expires = 0")
    database.close()
    again = run(study)
    assert (again.state, again.run, again.score) == (ledger.DONE, unit.run, unit.score)
    assert again.token == unit.token + 1
    assert read_events(run_dir(unit)) == before


@pytest.mark.slow
def test_a_run_of_another_study_by_that_name_is_left_alone(open_real: Any, tmp_path: Path) -> None:
    first = run(open_real(trials=1, **{"with": SHORT}))
    (tmp_path / "study" / "study.db").unlink()
    second = run(open_real(trials=1, **{"with": SHORT}))
    assert (first.run, second.run) == ("toy-t0000-s0", "toy-t0000-s0-2")


@pytest.mark.slow
def test_a_run_that_fails_fails_its_trial_with_the_reason(open_real: Any, tmp_path: Path) -> None:
    words = ["env.kind=pettingzoo", "env.factory=tests.faulty_env:no_such_function"]
    study = open_real(trials=1, **{"with": [*words, "logging.video=false"]})
    unit = run(study)
    assert unit.state == ledger.FAILED
    assert unit.error is not None
    assert "no_such_function" in unit.error
    assert study.optuna.trials[0].user_attrs["error"] == f"seed 0: {unit.error}"


def test_settings_that_are_refused_together_fail_their_trial(open_real: Any) -> None:
    rows, minibatches = (
        {"choices": [40, 64]},
        {"choices": [7, 12]},
    )  # none of one by one of the other
    space = {"num_minibatches": minibatches, "num_steps_per_rollout": rows}
    words = ["partition", "num_envs=1", "num_steps_per_rollout=84", "num_minibatches=4"]
    study = open_real(trials=1, space=space, **{"with": words})
    unit = run(study)
    assert unit.state == ledger.FAILED
    assert unit.error is not None
    assert "rows do not split into" in unit.error


def test_a_worker_that_is_told_to_stop_gives_its_unit_back(
    open_real: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_real(trials=1, **{"with": SHORT})
    monkeypatch.setattr(_stop, "should_stop", lambda: True)
    unit = run(study)
    assert (unit.state, unit.failures, unit.run) == (ledger.WAITING, 0, "toy-t0000-s0")
    assert read_view(run_dir(unit)).status == "NEW"


def test_the_first_seeds_curve_is_compared_and_no_other(open_real: Any, tmp_path: Path) -> None:
    pruner = {"kind": "median", "by": "curve"}
    study = open_real(trials=1, tuning_seeds=[3, 4], pruner=pruner, **{"with": SHORT})
    (tmp_path / "config.json").write_text('{"training": {"total_timesteps": 100}}')
    units = [Unit(0, "tuning", 3), Unit(0, "tuning", 4), Unit(0, "test", 3)]
    assert [Curve(study, unit, tmp_path)._is_wanted for unit in units] == [True, False, False]


def series(steps: list[int], values: list[float]) -> Series:
    return Series(steps, [0.0] * len(steps), values)


def test_a_score_is_the_mean_of_the_last_tenth_and_hides_nothing() -> None:
    assert score(series([100, 900, 950, 1000], [9.0, 9.0, 1.0, 3.0])) == 2.0
    assert score(series([100], [5.0])) == 5.0
    assert str(score(series([100, 950, 1000], [1.0, float("nan"), 3.0]))) == "nan"
    assert str(score(series([], []))) == "nan"


def test_points_are_means_of_parts_that_are_complete() -> None:
    curve = series([100, 200, 300, 700], [1.0, 3.0, 5.0, 7.0])
    assert points(curve, [250, 500, 750]) == [(0, 2.0), (1, 5.0)]
    assert points(curve, [700, 800]) == [(0, 4.0)]
