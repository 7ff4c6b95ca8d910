"""What a study has found: trials ranked, the best ones on fresh seeds, the winner and its command.

The best trials were chosen by their tuning scores, which therefore flatter them; the test scores,
on seeds that the search never saw, do not.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import TrialState

from experiments.tracking.compare import LEVEL, Estimate, bootstrap
from sweeps import ledger
from sweeps.ledger import Unit
from sweeps.study import TEST, TUNING, Study

SEED = 0
"""Of the bootstrap."""


@dataclass(frozen=True)
class Row:
    """A trial."""

    number: int
    state: str
    """complete, pruned, failed or running."""
    settings: dict[str, Any]
    is_baseline: bool
    tuning: Estimate | None
    """None until all of its tuning seeds are done."""
    test: Estimate | None
    """None if it was not run on all test seeds."""
    test_scores: tuple[float, ...]
    """In the order of the test seeds; empty if it was not run on all of them."""
    units: tuple[Unit, ...]
    error: str | None


@dataclass(frozen=True)
class Results:
    """A study so far."""

    rows: tuple[Row, ...]
    """Finalists by their test scores, then the other complete trials by their tuning scores, then
    the rest."""
    winner: Row | None
    """The first of the finalists; without test seeds the first of all; None while tests run."""
    baseline: Row | None
    gain: Estimate | None
    """By how much the winner is better than the baseline on the same test seeds (mean of the
    differences, positive is better)."""
    is_complete: bool
    """Whether nothing is left to do."""


def read_results(study: Study) -> Results:
    """The results of a study, whether or not it is complete."""
    units = ledger.by_trial(study.ledger.units())
    rows = [
        _row(study, trial, units.get(trial.number, []))
        for trial in study.optuna.get_trials(deepcopy=False)
        if trial.number in units
    ]
    sign = 1.0 if study.sweep.direction == "minimize" else -1.0

    def order(row: Row) -> tuple[int, float, int]:
        if row.test is not None:
            return 0, sign * row.test.value, row.number
        if row.tuning is not None and row.state == "complete":
            return 1, sign * row.tuning.value, row.number
        return {"running": 2, "pruned": 3, "failed": 4}.get(row.state, 5), 0.0, row.number

    rows.sort(key=order)
    is_complete = study.is_complete()
    tested = [row for row in rows if row.test is not None]
    candidates = tested if study.sweep.test_seeds else [r for r in rows if r.state == "complete"]
    winner = candidates[0] if candidates and is_complete else None
    baseline = next((row for row in rows if row.is_baseline), None)
    return Results(tuple(rows), winner, baseline, _gain(winner, baseline, sign), is_complete)


def command(study: Study, row: Row) -> str:
    """The line that makes a run of this trial, on its first test seed, without the sweep."""
    sweep, script = study.sweep, study.definition.script
    seed = (sweep.test_seeds or sweep.tuning_seeds)[0]
    words = study.definition.words(study.params(row.number), seed)
    return shlex.join(["python", f"experiments/{script.name}.py", "with", *words])


def _row(study: Study, trial: Any, units: Sequence[Unit]) -> Row:
    names = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    tuning = {u.seed: u.score for u in units if u.role == TUNING and u.score is not None}
    test = {u.seed: u.score for u in units if u.role == TEST and u.score is not None}
    test_scores = tuple(test[seed] for seed in study.sweep.test_seeds if seed in test)
    if len(test_scores) < len(study.sweep.test_seeds):
        test_scores = ()
    failed = [u for u in units if u.state == ledger.FAILED]
    errors = [f"{u.role} seed {u.seed}: {u.error}" for u in failed]
    return Row(
        number=trial.number,
        state=names.get(trial.state, "running"),
        settings=study.definition.space.settings(trial.params),
        is_baseline=bool(trial.user_attrs.get("baseline")),
        tuning=_estimate(study, list(tuning.values())) if tuning else None,
        test=_estimate(study, test_scores) if test_scores else None,
        test_scores=test_scores,
        units=tuple(units),
        error=errors[0] if errors else None,
    )


def _estimate(study: Study, scores: Sequence[float]) -> Estimate:
    """The aggregate and its 95 % interval: Student's t of a mean, the bootstrap of an IQM.

    The bootstrap of a mean of three to five values would be far too narrow.
    """
    value = study.aggregate(scores)
    array = np.array(scores, dtype=np.float64)
    if array.size < 2:
        return Estimate(value, None, None)
    if study.sweep.aggregate == "iqm":
        _, low, high = bootstrap(array[:, None], seed=SEED)
        assert low is not None
        assert high is not None
        return Estimate(value, float(low[0]), float(high[0]))
    return _mean(array)


def _mean(array: np.ndarray[Any, Any]) -> Estimate:
    from scipy.stats import t

    value = float(array.mean())
    if array.size < 2:
        return Estimate(value, None, None)
    half = float(t.ppf((1 + LEVEL) / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return Estimate(value, value - half, value + half)


def _gain(winner: Row | None, baseline: Row | None, sign: float) -> Estimate | None:
    if winner is None or baseline is None or winner.number == baseline.number:
        return None
    if winner.test is None or baseline.test is None:
        return None
    return _mean(-sign * (np.array(winner.test_scores) - np.array(baseline.test_scores)))
