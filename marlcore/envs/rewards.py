"""Rewards of the peg-in-hole task: pure functions of where the peg and the hole are.

Everything is in SI units and per env step. robosuite 1.5.2 defines geometry, success and the dense
reward (TwoArmPegInHole); `staged_reward` is this library's and is what leads to success.

    cos  of the angle between the peg's axis and the hole's, in [0, 1]: either end may go first
    t    position of the hole's centre along the peg's axis, from the peg's centre, in m
    d    distance of the hole's centre from the peg's axis, in m
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HOLE_OFFSET_M = 0.1
"""The hole's centre lies this far along the x axis of the plate's frame."""
STAND_OFF_M = 0.30
"""Where `staged_reward` wants the hole on the peg's axis before the peg goes in."""


class PegGeometry(NamedTuple):
    """Where the peg is, seen from the hole."""

    cos: float
    """Cosine of the angle between the two axes, in [0, 1]."""
    t: float
    """Position of the hole's centre along the peg's axis, in m."""
    d: float
    """Distance of the hole's centre from the peg's axis, in m."""
    reach: float
    """Distance between the origins of the peg's and the plate's frames, in m."""


def peg_geometry(
    *,
    peg_pos: NDArray[np.float64],
    peg_mat: NDArray[np.float64],
    hole_pos: NDArray[np.float64],
    hole_mat: NDArray[np.float64],
) -> PegGeometry:
    """Relative pose of peg and hole, bit for bit as robosuite computes it.

        v = peg's z axis    c = hole_pos + 0.1 * plate's x axis    n = plate's z axis
        t = (c - peg_pos) . v    d = |v x (peg_pos - c)|    cos = |n . v|

    Args:
        peg_pos: [3], origin of the peg's frame in the world, in m.
        peg_mat: [3, 3], its rotation.
        hole_pos: [3], origin of the plate's frame in the world, in m.
        hole_mat: [3, 3], its rotation.
    """
    # robosuite multiplies by unit vectors (exactly a column) and divides by lengths that are 1 but
    # for rounding, which is kept: it is part of the numbers.
    axis = peg_mat[:, 2]
    axis = axis / _length(axis)
    axis_length = _length(axis)
    centre = hole_pos + hole_mat[:, 0] * HOLE_OFFSET_M
    normal = hole_mat[:, 2]
    vx, vy, vz = axis.tolist()
    wx, wy, wz = (peg_pos - centre).tolist()
    cross = np.array([vy * wz - vz * wy, vz * wx - vx * wz, vx * wy - vy * wx])
    return PegGeometry(
        cos=abs(float(normal @ axis) / _length(normal) / axis_length),
        t=float((centre - peg_pos) @ axis) / axis_length**2,
        d=_length(cross) / axis_length,
        reach=_length(peg_pos - hole_pos),
    )


def _length(vector: NDArray[np.float64]) -> float:
    return math.sqrt(float(vector @ vector))


def is_success(*, cos: float, t: float, d: float) -> bool:
    """Whether the peg is in the hole: on the axis, deep enough, aligned."""
    return d < 0.06 and -0.12 <= t <= 0.14 and cos > 0.95


def dense_reward(
    *,
    success: bool,
    cos: float,
    t: float,
    d: float,
    reach: float,
    success_weight: float = 1.0,
    reaching_weight: float = 1.0,
    perpendicular_weight: float = 1.0,
    parallel_weight: float = 1.0,
    alignment_weight: float = 1.0,
) -> float:
    """The shaped reward of robosuite with a weight on each of its five terms.

        r = (w_s success + w_r (1 - tanh reach) + w_d (1 - tanh d)
             + w_t (1 - tanh |t|) + w_a cos) / 5

    The divisor is 5, the number of terms, whatever the weights: a weight means the same beside any
    others, and weights of 1 give robosuite's own value, at most 1. Earlier work used reaching 0.4,
    perpendicular 1.2, parallel 0.6, alignment 1.2: reaching alone drives the arms to collide.

    Args:
        success: whether `is_success` holds.
        cos: see PegGeometry, as t, d and reach.
        t: in m.
        d: in m.
        reach: in m.
        success_weight: w_s.
        reaching_weight: w_r.
        perpendicular_weight: w_d.
        parallel_weight: w_t.
        alignment_weight: w_a.
    """
    # np.tanh, not math.tanh: they differ in the last bit, and robosuite uses the first.
    reward = success_weight if success else 0.0
    reward += reaching_weight * (1 - float(np.tanh(reach)))
    reward += perpendicular_weight * (1 - float(np.tanh(d)))
    reward += parallel_weight * (1 - float(np.tanh(abs(t))))
    reward += alignment_weight * cos
    return reward * (1 / 5)


def staged_reward(*, success: bool, cos: float, t: float, d: float) -> float:
    """Reward in two stages: be aligned, on the axis and at a stand-off; then go in. In [0, 1.6].

        g = 1 if d < 0.06 and cos > 0.95 and t > -0.12 else 0    (the peg points into the hole)
        S = 1 if g else 1 - tanh(4 |t - 0.30|)                   (stand-off)
        r = 0.2 ((1 + cos) / 2 + (1 - tanh 5d) (1 + cos) / 2 + 0.5 S)
            + 0.4 g (0.5 + max(0, 1 - |t| / 0.30)) + 0.5 success

    The dense reward has a local optimum with the peg leaning on the outside of the plate; the
    stand-off keeps the peg away from the plate until it can enter. It is before the peg's free
    end, t > 0: the hand holds the other one, and an arm that brought that end to the hole would
    never get it in (docs/LOG.md, 2026-11-26). From the stand-off on every centimetre pays the same:
    where the slope is less there than in the hole, policies stay for long (2026-11-30). Success
    pays little beside the way to it: advantages are divided by their standard deviation, and
    what few episodes gain may drown what the others could learn (the same day).

    Args:
        success: whether `is_success` holds.
        cos: see PegGeometry, as t and d.
        t: in m.
        d: in m.
    """
    pointing_in = d < 0.06 and cos > 0.95 and t > -0.12
    aligned = (1 + cos) / 2
    on_axis = (1 - math.tanh(5 * d)) * aligned
    stand_off = 1.0 if pointing_in else 1 - math.tanh(4 * abs(t - STAND_OFF_M))
    depth = 0.5 + max(0.0, 1 - abs(t) / STAND_OFF_M) if pointing_in else 0.0
    return 0.2 * (aligned + on_axis + 0.5 * stand_off) + 0.4 * depth + 0.5 * float(success)
