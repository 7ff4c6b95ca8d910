"""The two estimators against the definition, an independent library and worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from marlcore.advantages import gae, gae_per_agent, microstep_gae
from tests.factories import make_credit

seeds = st.integers(0, 2**31 - 1)
COEFFICIENTS = {"gamma_prime": 0.99, "lambda_prime": 0.95}


def double_sum(credit: dict[str, Tensor], gamma_prime: float, lambda_prime: float) -> Tensor:
    """A^(i) = sum over later microsteps of (gamma' lambda')^l zeta, up to the episode's end."""
    values, rewards = credit["values"], credit["rewards"]
    T, E, N = values.shape
    result = torch.zeros_like(values)
    for e in range(E):
        zeta, ends = [], []
        for t in range(T):
            for i in range(N):
                if i < N - 1:
                    zeta.append(gamma_prime * values[t, e, i + 1] - values[t, e, i])
                    ends.append(False)
                else:
                    alive = 0.0 if credit["terminated"][t, e] else 1.0
                    successor = gamma_prime * alive * credit["next_values"][t, e]
                    zeta.append(rewards[t, e] + successor - values[t, e, i])
                    ends.append(bool(credit["episode_ended"][t, e]))
        for m in range(T * N):
            total, weight = 0.0, 1.0
            for later in range(m, T * N):
                total = total + weight * zeta[later]
                if ends[later]:
                    break
                weight *= gamma_prime * lambda_prime
            result[m // N, e, m % N] = total
    return result


@settings(max_examples=30, deadline=None)
@given(seed=seeds, T=st.integers(1, 9), E=st.integers(1, 3), N=st.integers(1, 4))
def test_microstep_gae_equals_the_double_sum_of_the_definition(
    seed: int, T: int, E: int, N: int
) -> None:
    credit = make_credit(seed, T=T, E=E, N=N)
    expected = double_sum(credit, 0.97, 0.9)
    actual = microstep_gae(**credit, gamma_prime=0.97, lambda_prime=0.9)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, T=st.integers(1, 200))
def test_one_agent_reduces_to_gae(seed: int, T: int) -> None:
    credit = make_credit(seed, T=T, N=1)
    chained = microstep_gae(**credit, **COEFFICIENTS)
    plain = gae(**{**credit, "values": credit["values"][..., 0]}, gamma=0.99, gae_lambda=0.95)
    assert torch.equal(chained[..., 0], plain)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, T=st.integers(1, 300))
def test_gae_equals_scipys_linear_filter_between_episode_ends(seed: int, T: int) -> None:
    """An episode's advantages are its deltas, reversed, through y[m] = x[m] + c y[m-1]."""
    credit = make_credit(seed, T=T, E=1, N=1, end_rate=0.05)
    values = credit["values"][..., 0]
    actual = gae(**{**credit, "values": values}, gamma=0.98, gae_lambda=0.9)[:, 0].numpy()
    alive = (~credit["terminated"]).double()
    delta = (credit["rewards"] + 0.98 * alive * credit["next_values"] - values)[:, 0].numpy()
    cuts = np.flatnonzero(credit["episode_ended"][:, 0].numpy()) + 1
    pieces = np.split(delta, cuts)
    filtered = [scipy.signal.lfilter([1], [1, -0.98 * 0.9], piece[::-1])[::-1] for piece in pieces]
    np.testing.assert_allclose(actual, np.concatenate(filtered), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 4096])
def test_blocks_of_any_number_solve_the_recursion(T: int) -> None:
    credit = make_credit(T, T=T, E=2, N=3, end_rate=0.01)
    actual = microstep_gae(**credit, **COEFFICIENTS)
    carry = torch.zeros(2, dtype=torch.float64)
    for t in reversed(range(T)):
        alive = (~credit["terminated"][t]).double()
        goes_on = (~credit["episode_ended"][t]).double()
        for i in reversed(range(3)):
            if i == 2:
                target = credit["rewards"][t] + 0.99 * alive * credit["next_values"][t]
                carry = target - credit["values"][t, :, i] + 0.99 * 0.95 * goes_on * carry
            else:
                zeta = 0.99 * credit["values"][t, :, i + 1] - credit["values"][t, :, i]
                carry = zeta + 0.99 * 0.95 * carry
            torch.testing.assert_close(actual[t, :, i], carry, rtol=1e-10, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, t=st.integers(0, 4))
def test_nothing_after_an_episode_end_changes_what_came_before(seed: int, t: int) -> None:
    credit = make_credit(seed)
    credit["episode_ended"][t] = True
    changed = {name: tensor.clone() for name, tensor in credit.items()}
    for name in ("rewards", "values", "next_values"):
        changed[name][t + 1 :] += 100.0
    before = microstep_gae(**credit, **COEFFICIENTS)
    after = microstep_gae(**changed, **COEFFICIENTS)
    assert torch.equal(before[: t + 1], after[: t + 1])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_the_value_of_a_terminal_state_is_never_read(seed: int) -> None:
    credit = make_credit(seed)
    changed = {**credit, "next_values": credit["next_values"] + 50.0 * credit["terminated"]}
    before = microstep_gae(**credit, **COEFFICIENTS)
    assert torch.equal(before, microstep_gae(**changed, **COEFFICIENTS))


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_lambda_zero_is_the_one_step_error(seed: int) -> None:
    credit = make_credit(seed, N=2)
    advantages = microstep_gae(**credit, gamma_prime=0.9, lambda_prime=0.0)
    first = 0.9 * credit["values"][..., 1] - credit["values"][..., 0]
    alive = (~credit["terminated"]).double()
    last = credit["rewards"] + 0.9 * alive * credit["next_values"] - credit["values"][..., 1]
    torch.testing.assert_close(advantages, torch.stack([first, last], -1))


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_lambda_one_is_the_discounted_return_minus_the_value(seed: int) -> None:
    """Without ends, intermediate values telescope away."""
    credit = make_credit(seed, T=5, E=1, N=2, end_rate=0.0)
    credit["next_values"][:-1] = credit["values"][1:, :, 0]
    advantages = microstep_gae(**credit, gamma_prime=0.9, lambda_prime=1.0)
    discounts = 0.9 ** (2 * torch.arange(5, dtype=torch.float64) + 1)
    # decision t's reward arrives after its last microstep: 2t + 1 discounts from the first
    total = (discounts * credit["rewards"][:, 0]).sum() + 0.9**10 * credit["next_values"][-1, 0]
    torch.testing.assert_close(advantages[0, 0, 0], total - credit["values"][0, 0, 0])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_permuting_environments_permutes_advantages(seed: int) -> None:
    credit = make_credit(seed, E=4)
    order = torch.tensor([2, 0, 3, 1])
    permuted = {name: tensor[:, order] for name, tensor in credit.items()}
    direct = microstep_gae(**credit, **COEFFICIENTS)
    assert torch.equal(direct[:, order], microstep_gae(**permuted, **COEFFICIENTS))


def test_critics_side_by_side_are_independent() -> None:
    credit = make_credit(3, N=2)
    next_values = torch.stack([credit["next_values"], 2 * credit["next_values"]], -1)
    both = gae_per_agent(**{**credit, "next_values": next_values}, gamma=0.9, gae_lambda=0.8)
    for i in range(2):
        alone = gae(
            **{**credit, "values": credit["values"][..., i], "next_values": next_values[..., i]},
            gamma=0.9,
            gae_lambda=0.8,
        )
        torch.testing.assert_close(both[..., i], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_kept(dtype: torch.dtype) -> None:
    credit = make_credit(0, dtype=dtype)
    assert microstep_gae(**credit, **COEFFICIENTS).dtype == dtype


GOLDEN = {
    "no end": [
        [1.0710967, 0.62317565],
        [0.66791669, 1.50496193],
        [-0.77090704, 0.25421899],
        [2.1336725, 1.745],
    ],
    "terminated at 1": [
        [0.02708119, -0.48688869],
        [-0.512375, 0.25],
        [-0.77090704, 0.25421899],
        [2.1336725, 1.745],
    ],
    "truncated at 1": [
        [0.68595399, 0.21366719],
        [0.232501, 1.042],
        [-0.77090704, 0.25421899],
        [2.1336725, 1.745],
    ],
}
"""Computed once by hand from the recursion; e.g. the last row: 2 + .99 * .5 - .75 = 1.745 and
.99 * .75 - .25 + .99 * .95 * 1.745 = 2.1336725."""


@pytest.mark.parametrize("case", GOLDEN)
def test_worked_numbers(case: str) -> None:
    values = torch.tensor([[1, 1.5], [0.5, -0.25], [2, 1], [0.25, 0.75]], dtype=torch.float64)
    next_values = torch.cat([values[1:, 0], torch.tensor([0.5], dtype=torch.float64)])
    terminated, ended = torch.zeros(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    if case != "no end":
        ended[1] = True
        terminated[1] = case == "terminated at 1"
        next_values[1] = 0.8
    advantages = microstep_gae(
        rewards=torch.tensor([[1], [0], [-1], [2]], dtype=torch.float64),
        values=values.unsqueeze(1),
        next_values=next_values.unsqueeze(1),
        terminated=terminated.unsqueeze(1),
        episode_ended=ended.unsqueeze(1),
        **COEFFICIENTS,
    )
    expected = torch.tensor(GOLDEN[case], dtype=torch.float64)
    torch.testing.assert_close(advantages[:, 0], expected, rtol=0, atol=5e-9)
