"""What a study does with units and trials, on both storages; and that it finds an optimum."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from marlcore.config_errors import ConfigError
from sweeps import ledger
from sweeps.ledger import Owner, Unit
from sweeps.results import read_results
from sweeps.study import WAIT, HopelessError, Study
from sweeps.worker import work
from tests.sweeps.conftest import OpenStudy
from tests.sweeps.toy import BEST, evaluate, formula, open_toy, settings_of

ME = Owner.of_this_process()


def claim(study: Study) -> Unit:
    unit = study.claim(ME)
    assert isinstance(unit, Unit)
    return unit


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.optuna.get_trials(deepcopy=False)]


def test_the_best_are_run_again_on_fresh_seeds(open_study: OpenStudy) -> None:
    study = open_study(
        trials=6, tuning_seeds=[0, 1], test_seeds=[7, 8, 9], finalists=2, baseline=True
    )

    def score(settings: dict[str, Any], seed: int) -> float:
        return formula(settings) + seed / 100

    work(study, evaluate(study, score))
    assert states(study) == ["COMPLETE"] * 6
    results = read_results(study)
    ranked = [trial.number for trial in study.ranked()]
    assert {row.number for row in results.rows if row.test} == {*ranked[:2], 0}
    assert results.rows[0] == results.winner
    assert results.winner is not None
    assert results.winner.test is not None
    best = formula(results.winner.settings)
    assert results.winner.test.value == pytest.approx(best + 0.08)
    assert results.winner.tuning is not None
    assert results.winner.tuning.value == pytest.approx(best + 0.005)
    assert results.baseline is not None
    assert results.baseline.settings["algorithm.gamma_prime"] == 0.99
    assert results.is_complete
    assert study.claim(ME) is None


def test_another_worker_waits_while_the_last_unit_is_worked_on(open_study: OpenStudy) -> None:
    study = open_study(trials=1)
    unit = claim(study)
    assert open_study(trials=1).claim(ME) == WAIT
    assert study.finish(unit, ledger.DONE, score=1.0)
    assert open_study(trials=1).claim(ME) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_score_that_is_not_finite_fails_the_trial(open_study: OpenStudy, value: Any) -> None:
    study = open_study(trials=2, tuning_seeds=[0, 1])
    assert study.finish(claim(study), ledger.DONE, score=value)
    assert states(study) == ["FAIL"]
    first = study.ledger.units()
    assert [unit.state for unit in first] == [ledger.FAILED, ledger.CANCELLED]
    assert claim(study).trial == 1  # and the search goes on
    rows = read_results(study).rows
    assert any(row.error and str(value) in row.error for row in rows)


def test_a_study_goes_on_where_it_was_and_may_become_longer(open_study: OpenStudy) -> None:
    for trials in (3, 5):
        study = open_study(trials=trials)
        work(study, evaluate(study))
        assert states(study) == ["COMPLETE"] * trials


def test_another_sweep_under_the_same_name_is_refused(open_study: OpenStudy) -> None:
    open_study(trials=3)
    open_study(trials=9, finalists=2, test_seeds=[5])
    with pytest.raises(ConfigError, match=r"has begun with another sweep: tuning_seeds was \[0\]"):
        open_study(tuning_seeds=[3])


def test_a_claim_settles_what_a_dead_worker_left_half_done(open_study: OpenStudy) -> None:
    study = open_study(trials=3)
    asked = study.optuna.ask(study.definition.space.distributions)  # and died before it said so
    half = study.optuna.ask()  # died while parameters were drawn
    unit = claim(study)
    assert unit.trial == asked.number
    assert study.optuna.trials[half.number].params.keys() == asked.params.keys()
    assert study.ledger.finish(unit, ledger.DONE, score=1.5)  # and died before Optuna was told
    assert states(study)[0] == "RUNNING"
    work(study, evaluate(study))
    assert states(study) == ["COMPLETE"] * 3
    assert study.optuna.trials[0].value == 1.5


def test_what_is_killed_again_and_again_is_given_up(open_study: OpenStudy) -> None:
    study = open_study(trials=1, max_failures=3)
    for _ in range(3):
        unit = claim(study)
        assert unit.trial == 0
        assert study.release(unit, was_killed="run x was killed by signal 9")
    assert states(study) == ["FAIL"]
    assert study.optuna.trials[0].user_attrs["error"].endswith("signal 9, 3 times")


def test_what_is_given_back_in_order_counts_as_no_failure(open_study: OpenStudy) -> None:
    study = open_study(trials=1, max_failures=1)
    for _ in range(3):
        assert study.release(claim(study))
    assert states(study) == ["RUNNING"]


def test_what_takes_its_workers_down_with_it_is_given_up(open_study: OpenStudy) -> None:
    study, dead = open_study(trials=2), replace(ME, started=1)
    units = [study.claim(dead) for _ in range(21)]
    assert {unit.trial for unit in units if isinstance(unit, Unit)} == {0}
    assert claim(study).trial == 1
    assert states(study) == ["FAIL", "RUNNING"]
    assert study.optuna.trials[0].user_attrs["error"].endswith("21 workers died at it")


def test_a_sweep_in_which_everything_fails_ends(open_study: OpenStudy) -> None:
    study = open_study(trials=40)
    others = [claim(study) for _ in range(3)]  # that other workers have not ended yet

    def fail(unit: Unit) -> None:
        study.finish(unit, ledger.FAILED, error="no such camera")

    with pytest.raises(HopelessError, match=r"all 5 trials so far failed.*no such camera"):
        work(study, fail)
    assert study.finish(others[0], ledger.DONE, score=1.0)
    assert claim(study).trial == 8


def test_a_study_is_complete_only_when_its_last_trial_has_its_value(open_study: OpenStudy) -> None:
    study = open_study(trials=1)
    assert study.ledger.finish(claim(study), ledger.DONE, score=1.5)  # and its worker died
    assert not study.is_complete()
    assert study.claim(ME) is None
    assert study.is_complete()
    assert states(study) == ["COMPLETE"]


def test_the_same_study_draws_the_same_points_however_often_it_was_stopped(tmp_path: Path) -> None:
    def points(study: Study) -> list[dict[str, Any]]:
        return [trial.params for trial in study.optuna.trials]

    whole = open_toy(tmp_path / "a", trials=14)
    work(whole, evaluate(whole))
    for trials in range(2, 15, 3):
        part = open_toy(tmp_path / "b", trials=trials)
        work(part, evaluate(part))
    assert points(part) == points(whole)
    assert len({tuple(one.values()) for one in points(whole)}) == 14


def test_a_curve_that_is_worse_than_the_median_is_pruned(open_study: OpenStudy) -> None:
    study = open_study(
        trials=4, pruner={"kind": "median", "by": "curve", "num_points": 4, "num_startup_trials": 2}
    )
    for height in (1.0, 2.0):
        unit = claim(study)
        for point in range(4):
            assert not study.report(unit, point, height + point)
        study.finish(unit, ledger.DONE, score=height)
    unit = claim(study)
    assert not study.report(unit, 0, 1.6)
    assert study.report(unit, 1, 0.0)
    assert not study.report(replace(unit, token=7), 2, 0.0)  # whoever lost the lease
    assert study.finish(unit, ledger.PRUNED)
    assert states(study) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert study.optuna.trials[2].intermediate_values == {0: 1.6, 1: 0.0}


def test_the_baseline_is_never_pruned(open_study: OpenStudy) -> None:
    pruner = {"kind": "median", "by": "curve", "num_points": 2, "num_startup_trials": 1}
    study = open_study(trials=3, baseline=True, pruner=pruner)
    baseline, other, bad = (claim(study) for _ in range(3))
    study.report(other, 0, 5.0)
    study.finish(other, ledger.DONE, score=5.0)
    assert study.report(bad, 0, 1.0)
    assert not study.report(baseline, 0, 1.0)


def test_a_trial_whose_seeds_are_worse_is_pruned_before_the_others_run(
    open_study: OpenStudy,
) -> None:
    seeds = list(range(8))
    study = open_study(
        trials=2, tuning_seeds=seeds, pruner={"kind": "wilcoxon", "by": "seed", "p_threshold": 0.2}
    )
    for seed in seeds:
        study.finish(claim(study), ledger.DONE, score=10.0 + seed)
    unit = claim(study)
    while isinstance(unit, Unit):
        study.finish(unit, ledger.DONE, score=float(unit.seed))
        unit = study.claim(ME)
    assert states(study) == ["COMPLETE", "PRUNED"]
    counts = [unit.state for unit in study.ledger.units() if unit.trial == 1]
    assert counts.count(ledger.DONE) < 6
    assert counts.count(ledger.CANCELLED) == 8 - counts.count(ledger.DONE)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc"])
def test_every_sampler_draws_in_the_space(tmp_path: Path, sampler: str) -> None:
    changes: dict[str, Any] = {"num_startup_trials": 3} if sampler in ("tpe", "gp") else {}
    study = open_toy(tmp_path, trials=6, sampler=sampler, **changes)
    work(study, evaluate(study))
    points = [tuple(trial.params.values()) for trial in study.optuna.trials]
    assert len(set(points)) == 6
    assert all(0.001 <= gamma <= 0.5 and 0.05 <= clip <= 0.5 for gamma, clip in points)


def test_tpe_finds_the_optimum_and_random_search_does_not_come_as_near(tmp_path: Path) -> None:
    """50 trials, three seeds of the sampler: TPE's best is always within 0.01 of the optimum 0."""
    found: dict[str, list[float]] = {"tpe": [], "random": []}
    for sampler, best in found.items():
        for seed in range(3):
            study = open_toy(
                tmp_path / f"{sampler}{seed}", trials=50, sampler=sampler, sampler_seed=seed
            )
            work(study, evaluate(study))
            best.append(float(study.optuna.best_value))
    assert min(found["tpe"]) > -0.01
    assert sum(found["tpe"]) > sum(found["random"])
    study = open_toy(tmp_path / "tpe0", trials=50, sampler="tpe")
    best_settings = settings_of(study, Unit(study.ranked()[0].number, "tuning", 0))
    assert best_settings["algorithm.clip_epsilon"] == pytest.approx(BEST["clip_epsilon"], abs=0.02)
    assert best_settings["algorithm.gamma_prime"] == pytest.approx(BEST["gamma_prime"], abs=0.005)


def test_optunas_dashboard_state_is_what_the_rows_say(open_study: OpenStudy) -> None:
    study = open_study(trials=2)
    work(study, evaluate(study))
    values = [trial.value for trial in study.optuna.trials]
    assert values == [unit.score for unit in study.ledger.units()]
    assert all(trial.state == TrialState.COMPLETE for trial in study.optuna.trials)
