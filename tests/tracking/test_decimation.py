"""A long metric in few points."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tracking.decimation import Decimator

VALUES = st.lists(st.floats(allow_infinity=False, width=32) | st.just(math.nan), max_size=300)


def fill(values: list[float], max_points: int = 20) -> Decimator:
    decimator = Decimator(max_points)
    for step, value in enumerate(values):
        decimator.add((step, float(step), value))
    return decimator


@given(values=VALUES)
def test_few_points_with_the_extremes_and_the_ends(values: list[float]) -> None:
    points = fill(values).points()
    assert len(points) <= 21
    steps = [step for step, _, _ in points]
    assert steps == sorted(set(steps))
    assert all(values[step] == v or math.isnan(v) for step, _, v in points)
    finite = [v for v in values if not math.isnan(v)]
    kept = [v for _, _, v in points if not math.isnan(v)]
    if finite:
        assert (min(kept), max(kept)) == (min(finite), max(finite))
    if values:
        assert steps[-1] == len(values) - 1


@given(values=st.lists(st.floats(0, 1), max_size=20))
def test_a_short_metric_is_kept_whole(values: list[float]) -> None:
    assert [v for _, _, v in fill(values).points()] == values


@given(values=VALUES)
def test_what_is_settled_only_grows_at_its_end(values: list[float]) -> None:
    decimator, before, stride = Decimator(20), [], 1
    for step, value in enumerate(values):
        decimator.add((step, float(step), value))
        now = decimator.settled()
        if decimator.stride == stride:
            assert repr(now[: len(before)]) == repr(before)
        before, stride = now, decimator.stride


def test_a_gap_stays_where_nothing_else_stands() -> None:
    points = fill([1.0, *[math.nan] * 60, 2.0], max_points=8).points()
    assert [math.isnan(v) for _, _, v in points][1:-1].count(True) >= 1
    assert points[-1][2] == 2.0


def test_a_million_points_take_constant_memory() -> None:
    decimator = Decimator()
    for step in range(1_000_000):
        decimator.add((step, 0.0, math.sin(step)))
    points = decimator.points()
    assert 5_000 <= len(points) <= 10_001
    assert max(v for _, _, v in points) == max(math.sin(s) for s in range(1_000_000))


@pytest.mark.parametrize("count", [10_000, 10_001, 20_003])
def test_the_limit_is_kept_at_its_edges(count: int) -> None:
    decimator = Decimator()
    for step in range(count):
        decimator.add((step, 0.0, float(step)))
    assert len(decimator.points()) <= 10_001
    assert decimator.points()[0][0] == 0
