import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlcore.envs.rewards import dense_reward, is_success, peg_geometry, staged_reward

unit = st.floats(0, 1)
metres = st.floats(-2, 2)
distances = st.floats(0, 2)


def place(peg_pos: list[float], hole_pos: list[float]):
    """Peg and plate with parallel frames, the hole's centre 0.1 m along x from the plate's."""
    return peg_geometry(
        peg_pos=np.array(peg_pos),
        peg_mat=np.eye(3),
        hole_pos=np.array(hole_pos),
        hole_mat=np.eye(3),
    )


def test_geometry_of_parallel_frames_is_read_off_the_coordinates() -> None:
    # The hole's centre is (0.1, 0, 0.5): 0.5 along the peg's z axis, sqrt(0.3^2 + 0.4^2) beside it.
    geometry = place([0.4, 0.4, 0.0], [0.0, 0.0, 0.5])
    assert geometry.t == pytest.approx(0.5)
    assert geometry.d == pytest.approx(0.5)
    assert geometry.cos == pytest.approx(1.0)
    assert geometry.reach == pytest.approx(math.sqrt(0.16 + 0.16 + 0.25))


def test_a_peg_in_the_centre_of_the_hole_succeeds_from_either_side() -> None:
    for direction in (1.0, -1.0):
        geometry = peg_geometry(
            peg_pos=np.array([0.1, 0.0, 0.0]),
            peg_mat=np.diag([1.0, direction, direction]),
            hole_pos=np.zeros(3),
            hole_mat=np.eye(3),
        )
        assert is_success(cos=geometry.cos, t=geometry.t, d=geometry.d)


@pytest.mark.parametrize(
    ("cos", "t", "d", "success"),
    [
        (0.951, 0.0, 0.0, True),
        (0.95, 0.0, 0.0, False),
        (1.0, -0.12, 0.0, True),
        (1.0, -0.121, 0.0, False),
        (1.0, 0.14, 0.0, True),
        (1.0, 0.141, 0.0, False),
        (1.0, 0.0, 0.059, True),
        (1.0, 0.0, 0.06, False),
    ],
)
def test_success_holds_within_its_bounds(cos: float, t: float, d: float, success: bool) -> None:
    assert is_success(cos=cos, t=t, d=d) is success


def test_dense_reward_is_one_at_its_best() -> None:
    # success, 1 - tanh 0 three times, cos: 5 / 5.
    assert dense_reward(success=True, cos=1.0, t=0.0, d=0.0, reach=0.0) == pytest.approx(1.0)


def test_each_weight_of_the_dense_reward_multiplies_a_fifth_of_its_term() -> None:
    # tanh(ln 2) = (2 - 1/2) / (2 + 1/2) = 0.6, so each term of a distance of ln 2 is 0.4.
    far = math.log(2)
    weights = {
        "success_weight": 1.0,
        "reaching_weight": 0.4,
        "perpendicular_weight": 1.2,
        "parallel_weight": 0.6,
        "alignment_weight": 1.2,
    }
    reward = dense_reward(success=True, cos=0.5, t=-far, d=far, reach=far, **weights)
    # (1 + 0.4 * 0.4 + 1.2 * 0.4 + 0.6 * 0.4 + 1.2 * 0.5) / 5 = 2.48 / 5
    assert reward == pytest.approx(0.496)


def test_staged_reward_of_a_peg_at_rest_in_the_hole_is_1_6() -> None:
    # 0.2 (1 + 1 + 0.5) + 0.4 (0.5 + 1) + 0.5
    assert staged_reward(success=True, cos=1.0, t=0.0, d=0.0) == pytest.approx(1.6)


def test_staged_reward_at_the_stand_off_beside_the_axis_is_worked_by_hand() -> None:
    # 5d = ln 2, so 1 - tanh 5d = 0.4; cos = 0, so (1 + cos) / 2 = 0.5; t = 0.30, so S = 1:
    # 0.2 (0.5 + 0.4 * 0.5 + 0.5) = 0.24
    reward = staged_reward(success=False, cos=0.0, t=0.30, d=math.log(2) / 5)
    assert reward == pytest.approx(0.24)


@given(t=st.floats(0.13, 0.6), d=distances)
def test_staged_reward_wants_the_hole_before_the_free_end_of_the_peg(t: float, d: float) -> None:
    """Behind the other end is the hand: standing there pays less, at any distance."""
    before = staged_reward(success=False, cos=1.0, t=t, d=d)
    behind = staged_reward(success=False, cos=1.0, t=-t, d=d)
    assert behind < before


def test_staged_reward_of_a_peg_that_points_in_grows_as_much_with_every_centimetre() -> None:
    # On the axis and aligned g = 1, S = 1: 0.2 (1 + 1 + 0.5) + 0.4 (0.5 + 1 - |t| / 0.30).
    found = [staged_reward(success=False, cos=1.0, t=t, d=0.0) for t in (0.4, 0.3, 0.225, 0.15, 0)]
    assert found == pytest.approx([0.7, 0.7, 0.8, 0.9, 1.1])


@given(cos=unit, t=metres, d=distances)
def test_staged_reward_stays_within_its_bounds(cos: float, t: float, d: float) -> None:
    success = is_success(cos=cos, t=t, d=d)
    assert 0.0 <= staged_reward(success=success, cos=cos, t=t, d=d) <= 1.6


@given(cos=unit, t=metres, d=distances, closer=unit)
def test_staged_reward_never_falls_when_the_peg_comes_closer_to_the_axis(
    cos: float, t: float, d: float, closer: float
) -> None:
    far = staged_reward(success=is_success(cos=cos, t=t, d=d), cos=cos, t=t, d=d)
    near_d = closer * d
    near = staged_reward(success=is_success(cos=cos, t=t, d=near_d), cos=cos, t=t, d=near_d)
    assert near >= far - 1e-12


@given(cos=unit, t=metres, d=distances, reach=distances)
def test_dense_reward_is_linear_in_its_weights(
    cos: float, t: float, d: float, reach: float
) -> None:
    where = {"success": False, "cos": cos, "t": t, "d": d, "reach": reach}
    names = ["reaching_weight", "perpendicular_weight", "parallel_weight", "alignment_weight"]
    none = dict.fromkeys([*names, "success_weight"], 0.0)
    parts = [dense_reward(**where, **{**none, name: 1.0}) for name in names]
    assert sum(parts) == pytest.approx(dense_reward(**where))
