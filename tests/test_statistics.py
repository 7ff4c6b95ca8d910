from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marlcore.statistics import (
    RunningMoments,
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
    wilson_interval,
)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_moments_in_pieces_equal_moments_at_once(pieces: list[int], seed: int) -> None:
    rows = torch.randn(sum(pieces), 3, generator=torch.Generator().manual_seed(seed)) * 5 + 100
    moments = RunningMoments((3,))
    for piece in rows.split(pieces):
        moments.update(piece)
    assert moments.count == len(rows)
    torch.testing.assert_close(moments.mean, rows.double().mean(0))
    if len(rows) > 1:
        expected = rows.double().std(0, correction=0).clamp(min=1e-4)
        torch.testing.assert_close(moments.std, expected)


def test_moments_are_the_identity_until_they_know_something() -> None:
    moments = RunningMoments((2,))
    x = torch.tensor([[3.0, -7.0]])
    assert torch.equal(moments.normalise(x), x)
    assert torch.equal(moments.denormalise(x), x)


def test_normalise_and_denormalise_are_inverse_and_clipping_bounds() -> None:
    moments = RunningMoments((2,))
    moments.update(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
    x = torch.tensor([[1.0, 100.0]])
    torch.testing.assert_close(moments.denormalise(moments.normalise(x)), x)
    assert torch.equal(moments.normalise(x, clip=5.0), torch.tensor([[0.0, 5.0]]))


def test_wilson_interval_has_its_published_values() -> None:
    # 0 of 10: [0, 0.2775]; 9 of 10: [0.5958, 0.9821] (Wilson score, 95 %)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)
    assert wilson_interval(9, 10) == pytest.approx((0.59585, 0.98213), abs=1e-5)
    assert wilson_interval(20, 20)[1] == 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_interval_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="trials"):
        wilson_interval(successes, trials)


def test_interquartile_mean_leaves_the_outer_quarters_out() -> None:
    assert interquartile_mean(np.array([-1000.0, 1.0, 2.0, 1000.0])) == 1.5
    # five scores: half of the second and fourth count less: (0.75*2 + 1*3 + 0.75*4) / 2.5
    assert interquartile_mean(np.array([0.0, 2.0, 3.0, 4.0, 100.0])) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="at least one"):
        interquartile_mean(np.array([]))


def test_bootstrap_interval_holds_the_mean_and_is_repeatable() -> None:
    scores = np.random.default_rng(0).normal(5.0, 1.0, size=(20, 3))
    low, high = bootstrap_interval(scores, seed=1)
    assert low < interquartile_mean(scores) < high
    assert (low, high) == bootstrap_interval(scores, seed=1)
    assert high - low < 1.0


def test_probability_of_improvement_counts_ties_half() -> None:
    assert probability_of_improvement(np.array([2.0, 3.0]), np.array([1.0])) == 1.0
    assert probability_of_improvement(np.array([1.0]), np.array([1.0])) == 0.5
