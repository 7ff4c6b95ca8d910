"""Learning curves of runs: points for pruners, and the score at their end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.tracking import spool
from experiments.tracking.read import read_series
from experiments.tracking.scores import final_score
from experiments.tracking.view import Series
from sweeps.ledger import Unit
from sweeps.patience import DATABASE_ERRORS
from sweeps.storage import said
from sweeps.study import TUNING, Shared

_LOOK_EVERY_S = 1.0


class Curve:
    """The learning curve of a run that trains, in points, for pruners that compare those.

    Of a trial's first seed: Optuna's pruners take the values of a trial for one curve.
    """

    def __init__(self, study: Shared, unit: Unit, run_dir: Path) -> None:
        self._study, self._unit, self._run_dir = study, unit, run_dir
        pruner = study.sweep.pruner
        is_first = (unit.role, unit.seed) == (TUNING, study.sweep.tuning_seeds[0])
        self._is_wanted = pruner.kind != "none" and pruner.by == "curve" and is_first
        config = spool.read_json(run_dir / spool.CONFIG, {})  # the sweep may search its length
        total = int(config["training"]["total_timesteps"])
        self._ends = [total * (k + 1) / pruner.num_points for k in range(pruner.num_points)]
        self._told = 0
        self._look_at = 0.0

    def is_bad(self) -> bool:
        """Report new points; whether the trial is to be pruned."""
        if not self._is_wanted or time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        series = read_series(self._run_dir).get(self._study.sweep.metric)
        if series is None:
            return False
        for point, value in points(series, self._ends)[self._told :]:
            self._told += 1
            try:
                if self._study.report(self._unit, point, value):
                    return True
            except DATABASE_ERRORS as error:
                print(f"a point of the curve is not reported: {said(error)}", flush=True)
        return False


def points(series: Series, ends: Sequence[float]) -> list[tuple[int, float]]:
    """(Number, mean of the values) of every part of a curve that is complete and not empty."""
    found: list[tuple[int, float]] = []
    last, start = series.steps[-1], 0.0
    for number, end in enumerate(ends):
        inside = [v for s, v in zip(series.steps, series.values, strict=True) if start < s <= end]
        if last >= end and inside:
            found.append((number, float(np.mean(inside))))
        start = end
    return found


def score(series: Series) -> float:
    """Mean of the values in the last 10 % of the env steps; not finite if one of them is not."""
    if not series.steps:
        return math.nan
    return final_score(np.array(series.steps), np.array(series.values, dtype=np.float64))
