"""Runs compared: groups over seeds, learning curves and final scores with bootstrap intervals.

A group is the runs whose configuration differs in the seed alone, or in what changes nothing that
is computed (experiments.tracking.groups).

Curves of all groups lie on one grid of env steps. A run's points are joined by straight lines
inside the range that every run of its group covers, and nothing is extrapolated: carrying the last
value forward instead would set back those runs that record less often. A group's curve stops where
its shortest run stops. What is not finite is left out, with a warning.

A run's final score is the mean of its points in the last 10 % of its env steps. A group is its
inter-quartile mean over runs (arXiv 2108.13264). Higher counts as better.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.tracking.groups import Part, group_configs, identity, labelled, plain, text_of
from experiments.tracking.scores import final_score
from experiments.tracking.view import RunView, Series, flat
from marlcore import config_keys, metrics
from marlcore.config_errors import ConfigError
from marlcore.statistics import probability_of_improvement

Run = tuple[RunView, Mapping[str, Series]]
Steps = NDArray[np.int64]
Values = NDArray[np.float64]

DEFAULT_METRICS = ("rollout/success_rate", "rollout/return_mean")
"""The first that every run has."""
NUM_RESAMPLES, LEVEL = 2000, 0.95
_EARLY = 0.95
"""Share of the env steps below which a run counts as ended early; rollouts end off the mark."""
_BATCH = 4_000_000
"""Numbers resampled at once."""


@dataclass(frozen=True)
class Estimate:
    """A value and its bootstrap interval; None where there is one run to draw from."""

    value: float
    low: float | None
    high: float | None

    def text(self) -> str:
        """For tables: `0.812 [0.75, 0.86]`."""
        if self.low is None or self.high is None:
            return f"{self.value:.4g} (one seed: no interval)"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Member:
    """A run of a group; its curve covers all of its own range, however short the others are."""

    run: str
    name: str
    seed: int | None
    status: str
    score: float
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds; its curve is empty where they share no range."""

    label: str
    settings: Mapping[str, Any]
    """The config keys behind the label."""
    members: tuple[Member, ...]
    num_seeds: int
    """Different ones; a run that repeats a seed counts in the statistics all the same."""
    score: Estimate
    steps: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] | None
    """Lower end of the interval, point by point; None with one run."""
    high: tuple[float, ...] | None

    @property
    def size(self) -> str:
        """`3 seeds`, and the runs as well where they are not as many."""
        seeds, runs = f"{self.num_seeds} seed" + "s" * (self.num_seeds > 1), len(self.members)
        return seeds if runs == self.num_seeds else f"{runs} runs, {seeds}"


@dataclass(frozen=True)
class Pair:
    """How likely a run of group `a` scores above one of group `b`; ties count half."""

    a: str
    b: str
    probability: Estimate


@dataclass(frozen=True)
class Comparison:
    """All that tables and plots show."""

    metric: str
    meaning: str
    """Empty for a metric that marlcore.metrics does not declare."""
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]
    seed: int
    """Of the bootstrap."""
    title: str = ""
    """Of the picture; empty: the metric and the number of runs."""
    axis: str = "environment steps"
    """What `steps` are."""
    level: float = LEVEL
    num_resamples: int = NUM_RESAMPLES

    def to_json(self) -> dict[str, Any]:
        """Plain data, strict JSON: nothing in it is NaN."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return data


def compare(
    runs: Sequence[Run],
    *,
    metric: str | None = None,
    by: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    seed: int = 0,
    num_points: int = 200,
) -> Comparison:
    """Compare runs; the same runs and seed give the same numbers.

    Args:
        runs: a run that is named twice counts once.
        metric: None takes the first of DEFAULT_METRICS that every run has.
        by: config keys, whole or their last parts, that alone make the groups.
        labels: of each run the group that it belongs to, in place of what its configuration says.
        seed: of the bootstrap.
        num_points: of the grid; the ends of every group's range are added to them.

    Raises:
        ConfigError: no run, no such key, or a run lacks the metric.
    """
    if labels is None:
        runs = list({view.id: (view, series) for view, series in runs}.values())
    if not runs:
        raise ConfigError("no run to compare; name at least one")
    metric = choose_metric(runs, metric)
    views = [view for view, _ in runs]
    points = [finite_points(series[metric]) for _, series in runs]
    if labels is None:
        parts = group_configs([view.config for view in views], by)
    else:
        parts = labelled(labels)
    ranges = [_shared_range([points[i] for i in part.places]) for part in parts]
    grid = _grid(points, ranges, num_points)
    members = [_member(view, *own, grid) for view, own in zip(views, points, strict=True)]
    groups: list[Group] = []
    for part, (first, last) in zip(parts, ranges, strict=True):
        inside = grid[(grid >= first) & (grid <= last)]
        curves = [np.interp(inside, *points[i]) for i in part.places]
        groups.append(_group(part, [members[i] for i in part.places], inside, curves, seed))
    return Comparison(
        metric=metric,
        meaning=metrics.MEANINGS.get(metric.partition("/agent_")[0], ""),
        groups=tuple(groups),
        pairs=tuple(_pairs(groups, seed)),
        warnings=tuple(_warnings(runs, metric, groups)),
        seed=seed,
    )


def choose_metric(runs: Sequence[Run], metric: str | None) -> str:
    """The metric, or the first default one, that has a finite value in every run."""
    has = [{k for k, s in series.items() if np.isfinite(s.values).any()} for _, series in runs]
    common = set.intersection(*has)
    if metric is None:
        metric = next((key for key in DEFAULT_METRICS if key in common), DEFAULT_METRICS[-1])
    lacking = [view.id for (view, _), keys in zip(runs, has, strict=True) if metric not in keys]
    if not lacking:
        return metric
    names, near = sorted((common or set.union(*has)) - {metric}), list[str]()
    while len(near) < 3 and (name := config_keys.nearest(metric, set(names) - set(near))):
        near.append(name)
    hint = f"did you mean {' or '.join(near)}?" if near else "give a metric that every run has"
    raise ConfigError(
        f"{metric}: {len(lacking)} of {len(runs)} runs have no value of it "
        f"({', '.join(lacking)}); {hint}"
    )


def finite_points(series: Series) -> tuple[Steps, Values]:
    """What is finite, by env steps; of two values at one step the later one."""
    latest = dict(zip(series.steps, series.values, strict=True))
    finite = sorted((step, value) for step, value in latest.items() if np.isfinite(value))
    steps, values = zip(*finite, strict=True)
    return np.array(steps, np.int64), np.array(values, np.float64)


def bootstrap(scores: Values, *, seed: int) -> tuple[Values, Values | None, Values | None]:
    """Inter-quartile mean of each column of [runs, columns], and its interval.

    As `statistics.bootstrap_interval` of every column with the same seed, hundreds at once.
    """
    num_runs, num_columns = scores.shape
    if num_runs == 1:
        return scores[0], None, None
    draws = np.random.default_rng(seed).integers(num_runs, size=(NUM_RESAMPLES, num_runs))
    width = max(1, _BATCH // draws.size)
    tails, ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2], [np.empty((2, 0))]
    for start in range(0, num_columns, width):
        resampled = scores.T[start : start + width][:, draws]
        ends.append(np.quantile(_interquartile_means(resampled), tails, axis=1))
    low, high = np.concatenate(ends, axis=1)
    return _interquartile_means(scores.T), low, high


def _interquartile_means(scores: Values) -> Values:
    """Over the last axis; `statistics.interquartile_mean` takes one list at a time."""
    edges = np.arange(scores.shape[-1] + 1) / scores.shape[-1]
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    means: Values = (np.sort(scores, axis=-1) * (weights / weights.sum())).sum(-1)
    return means


def _shared_range(points: Sequence[tuple[Steps, Values]]) -> tuple[int, int]:
    """First and last env step that all cover; the last is the smaller one if there are none."""
    return max(int(steps[0]) for steps, _ in points), min(int(steps[-1]) for steps, _ in points)


def _grid(
    points: Sequence[tuple[Steps, Values]], ranges: Sequence[tuple[int, int]], num_points: int
) -> Steps:
    first, last = min(steps[0] for steps, _ in points), max(steps[-1] for steps, _ in points)
    regular = np.linspace(first, last, num_points).round().astype(np.int64)
    return np.union1d(regular, np.array(ranges, np.int64))


def _member(view: RunView, steps: Steps, values: Values, grid: Steps) -> Member:
    own = np.union1d(grid[(grid >= steps[0]) & (grid <= steps[-1])], steps[[0, -1]])
    curve, score = np.interp(own, steps, values).tolist(), final_score(steps, values)
    seed = view.config.get("seed")
    seed = int(seed) if isinstance(seed, int | float) else None
    return Member(view.id, view.name, seed, view.status, score, tuple(own.tolist()), tuple(curve))


def _group(
    part: Part, members: Sequence[Member], steps: Steps, curves: Sequence[Values], seed: int
) -> Group:
    middle, low, high = bootstrap(np.array(curves), seed=seed)
    score, below, above = bootstrap(np.array([[member.score] for member in members]), seed=seed)
    lists = [None if x is None else tuple(x.tolist()) for x in (steps, middle, low, high)]
    estimate = Estimate(*(None if x is None else float(x[0]) for x in (score, below, above)))
    num_seeds = len({member.seed for member in members})
    return Group(part.label, part.settings, tuple(members), num_seeds, estimate, *lists)


def _pairs(groups: Sequence[Group], seed: int) -> Iterator[Pair]:
    generator = np.random.default_rng(seed)
    for a, b in combinations(groups, 2):
        above, below = (np.array([member.score for member in group.members]) for group in (a, b))
        value, low, high = probability_of_improvement(above, below), None, None
        if min(above.size, below.size) > 1:
            rows_a = generator.integers(above.size, size=(NUM_RESAMPLES, above.size))
            rows_b = generator.integers(below.size, size=(NUM_RESAMPLES, below.size))
            drawn = map(probability_of_improvement, above[rows_a], below[rows_b])
            low, high = map(float, np.quantile(list(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        yield Pair(a.label, b.label, Estimate(value, low, high))


def _warnings(runs: Sequence[Run], metric: str, groups: Sequence[Group]) -> Iterator[str]:
    ends = {member.run: member.steps[-1] for group in groups for member in group.members}
    twins: dict[str, list[str]] = {}
    for view, series in runs:
        config = flat(plain(view.config))
        twins.setdefault(text_of([identity(config), config.get("seed")]), []).append(view.id)
        values = np.array(series[metric].values)
        if not np.isfinite(values).all():
            count = np.count_nonzero(~np.isfinite(values))
            yield f"{view.id}: {count} of {values.size} values are not finite and are left out"
        total = max(*ends.values(), int(config.get("training.total_timesteps") or 0))
        if ends[view.id] < _EARLY * total:
            yield (
                f"{view.id} ({view.status}) ended early: {metric} reaches {ends[view.id]:,} of "
                f"{total:,} env steps; its curve stops there, its score is of the time before"
            )
    for ids in twins.values():
        if len(ids) > 1:
            yield f"{', '.join(ids)}: the same configuration and seed, so not independent"
    for group in groups:
        if not group.steps:
            yield f"{group.label}: no env step is covered by all of its runs, so it has no curve"
