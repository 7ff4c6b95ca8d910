from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marlcore.losses import approximate_kl, clipped_policy_loss, explained_variance, value_loss

t = torch.tensor


def test_an_unchanged_policy_loses_minus_its_advantage() -> None:
    log_probs, advantages = t([-1.0, -2.0]), t([3.0, -4.0])
    loss = clipped_policy_loss(
        log_probs=log_probs, old_log_probs=log_probs, advantages=advantages, clip_epsilon=0.2
    )
    assert torch.equal(loss, t([-3.0, 4.0]))


def test_worked_ratios_are_clipped_on_the_optimistic_side_alone() -> None:
    # ratio 1.5 and 0.5, eps 0.2:  A=1: -min(1.5, 1.2) = -1.2 and -min(.5, .8) = -.5
    #                              A=-1: -min(-1.5, -1.2) = 1.5 and -min(-.5, -.8) = .8
    ratio = t([1.5, 0.5, 1.5, 0.5])
    loss = clipped_policy_loss(
        log_probs=ratio.log(),
        old_log_probs=torch.zeros(4),
        advantages=t([1.0, 1.0, -1.0, -1.0]),
        clip_epsilon=0.2,
    )
    torch.testing.assert_close(loss, t([-1.2, -0.5, 1.5, 0.8]))


def test_a_clipped_ratio_has_no_gradient() -> None:
    log_probs = t([0.5, 0.05]).requires_grad_()
    clipped_policy_loss(
        log_probs=log_probs,
        old_log_probs=torch.zeros(2),
        advantages=t([1.0, 1.0]),
        clip_epsilon=0.2,
    ).sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad[0] == 0
    assert log_probs.grad[1] < 0


def test_value_loss_is_half_the_square_or_hubers() -> None:
    arguments = {
        "values": t([3.0, 0.5]),
        "old_values": t([0.0, 0.0]),
        "value_targets": t([0.0, 0.0]),
    }
    plain = value_loss(**arguments, value_clip=None, huber_delta=None)
    huber = value_loss(**arguments, value_clip=None, huber_delta=1.0)
    assert torch.equal(plain, t([4.5, 0.125]))
    assert torch.equal(huber, t([2.5, 0.125]))  # 1 * (3 - 0.5), and quadratic inside delta


def test_value_clipping_takes_the_worse_of_both() -> None:
    # V_old 0, V 1, R 1: unclipped 0, clipped to 0.2: 0.5 * 0.64
    loss = value_loss(
        values=t([1.0]),
        old_values=t([0.0]),
        value_targets=t([1.0]),
        value_clip=0.2,
        huber_delta=None,
    )
    torch.testing.assert_close(loss, t([0.32]))


@settings(deadline=None)
@given(st.floats(-3, 3))
def test_the_kl_estimate_is_never_negative_and_zero_without_change(log_ratio: float) -> None:
    estimate = approximate_kl(t([log_ratio, 0.0], dtype=torch.float64))
    assert estimate[0] >= 0
    assert estimate[1] == 0


def test_the_kl_estimate_is_unbiased() -> None:
    # KL(N(0,1) || N(0.3,1)) = 0.045
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_ratio = -0.5 * (x - 0.3).square() + 0.5 * x.square()
    assert math.isclose(approximate_kl(log_ratio).mean().item(), 0.045, abs_tol=3e-4)


def test_explained_variance_is_one_zero_or_undefined() -> None:
    targets = t([1.0, 2.0, 3.0])
    assert explained_variance(values=targets, value_targets=targets) == 1
    assert explained_variance(values=torch.full((3,), 2.0), value_targets=targets) == 0
    constant = torch.ones(3)
    assert explained_variance(values=targets, value_targets=constant).isnan()
