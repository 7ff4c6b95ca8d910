"""Operational space control of arms as robosuite's OSC_POSE has it: compiled, pure but for outputs.

Operational space control (Khatib 1987): the hand is drawn to a goal pose like a free mass on a
damped spring; joints that are redundant are drawn back to where the episode began.

n joints of an arm   A arms   V degrees of freedom, U actuators, S sites of the model.   SI units,
world frame; Jacobians map joint velocities to those of a hand, which is a site.

Where numpy and scipy bring the same BLAS kernels the numbers are robosuite 1.5.2's to the last bit.
That takes its order of operations, its pseudo-inverses (LAPACK's: most of the time spent here) and
its goal's rotation in float32, whose rounding makes 6e-8 of a difference of 1e-16. numba compiles
at the first use, keeps the result on disk, and takes positional arguments alone.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

JOINT_STIFFNESS = 10.0
"""Stiffness of the pull to the initial joint positions, per unit of inertia, in 1/s^2."""

_numba: Any = importlib.import_module("numba")
_pseudo_inverse: Any = np.linalg.pinv


def _compiled(function: Function) -> Function:
    """Compile at the first call; keep it on disk beside this file or in the user's cache."""
    try:
        return _numba.njit(cache=True)(function)
    except RuntimeError:  # neither can be written to
        return _numba.njit(function)


class Arms(NamedTuple):
    """What is known of A arms."""

    joints: Indices
    """[A, 3, n], addresses in qpos, in qvel and in ctrl; padded where an arm has fewer."""
    num_joints: Indices
    """[A], n of each."""
    hands: Indices
    """[A], sites."""
    bases: Indices
    """[A], sites that never move."""
    gains: Array
    """[A, 2, 6], stiffness in 1/s^2 and damping in 1/s."""
    limits: Array
    """[U, 2], lowest and highest torque in N m."""
    initial: Array
    """[A, n], joint positions at the start of the episode."""
    goal_pos: Array
    """[A, 3], where the hands shall be."""
    goal_mat: Array
    """[A, 3, 3], how they shall be turned."""


class State(NamedTuple):
    """Views of the simulation and what is derived from it."""

    qpos: Array
    qvel: Array
    bias: Array
    """[V], torques of gravity, centrifugal and Coriolis forces."""
    site_pos: Array
    """[S, 3]."""
    site_mat: Array
    """[S, 9]."""
    inertia: Array
    """[V, V]."""
    jac_pos: Array
    """[A, 3, V], of each hand, translation."""
    jac_rot: Array
    """[A, 3, V], rotation."""


@_compiled
def orientation_error(goal_mat: Array, hand_mat: Array) -> Array:
    """Rotation [3] from the hand to its goal: axis times the sine of the angle.

    e = 1/2 sum_i hand_i x goal_i over the columns of both matrices [3, 3]. As in robosuite it
    shrinks beyond a quarter turn and vanishes at a half.
    """
    error = np.zeros(3)
    for row in range(3):
        i, j = (row + 1) % 3, (row + 2) % 3
        for column in range(3):
            error[row] += (
                hand_mat[i, column] * goal_mat[j, column]
                - hand_mat[j, column] * goal_mat[i, column]
            )
    return 0.5 * error


@_compiled
def operational_inertias(
    mass: Array, jac_pos: Array, jac_rot: Array
) -> tuple[Array, Array, Array, Array]:
    """Inertia that the hand shows, and the motions of the joints that do not move it.

        Lambda = (J M^-1 J^T)^+    N = 1 - M^-1 J^T Lambda J    J = (jac_pos, jac_rot)

    Args:
        mass: M [n, n], in Fortran order, which decides between BLAS kernels.
        jac_pos: [3, n].
        jac_rot: [3, n].

    Returns:
        Lambda of jac_pos alone in kg, of jac_rot alone in kg m^2 (both [3, 3]), N [n, n], J [6, n].
    """
    jac = np.concatenate((jac_pos, jac_rot))
    inverse = np.linalg.inv(mass)
    whole = _pseudo_inverse(np.dot(np.dot(jac, inverse), jac.T))
    linear = _pseudo_inverse(np.dot(np.dot(jac_pos, inverse), jac_pos.T))
    angular = _pseudo_inverse(np.dot(np.dot(jac_rot, inverse), jac_rot.T))
    generalised_inverse = np.dot(np.dot(inverse, jac.T), whole)
    return linear, angular, np.eye(mass.shape[0]) - np.dot(generalised_inverse, jac), jac


@_compiled
def arm_torques(
    mass: Array, jac_pos: Array, jac_rot: Array, bias: Array, wanted: Array, rest: Array
) -> Array:
    """Torques [n] in N m of one arm, translation and rotation decoupled (Khatib 1987, section V).

        tau = J^T (Lambda_pos a, Lambda_rot b) + bias + N^T M (k offset - 2 sqrt(k) velocity)

    Args:
        mass: M [n, n], in Fortran order.
        jac_pos: [3, n].
        jac_rot: [3, n].
        bias: [n], torques that balance gravity and the like.
        wanted: (a, b) [2, 3], accelerations of the hand in m/s^2 and rad/s^2.
        rest: [2, n], the joints' offset from here to where they rest, and their velocity.
    """
    linear, angular, nullspace, jac = operational_inertias(mass, jac_pos, jac_rot)
    wrench = np.concatenate((np.dot(linear, wanted[0]), np.dot(angular, wanted[1])))
    pull = JOINT_STIFFNESS * rest[0] - 2.0 * math.sqrt(JOINT_STIFFNESS) * rest[1]
    return np.dot(jac.T, wrench) + bias + np.dot(nullspace.T, np.dot(mass, pull))


@_compiled
def write_torques(ctrl: Array, state: State, arms: Arms) -> None:
    """Write the torques of all arms, clipped to the actuators' limits, into ctrl [U]."""
    hand_mat = np.empty((3, 3))
    for arm in range(arms.hands.size):  # loops, because slices take seconds to compile
        n, hand = arms.num_joints[arm], arms.hands[arm]
        mass, rest, bias = np.empty((n, n)), np.empty((2, n)), np.empty(n)
        jac_pos, jac_rot = np.empty((3, n)), np.empty((3, n))
        for a in range(n):
            dof = arms.joints[arm, 1, a]
            for b in range(n):
                mass[b, a] = state.inertia[dof, arms.joints[arm, 1, b]]
            for i in range(3):
                jac_pos[i, a] = state.jac_pos[arm, i, dof]
                jac_rot[i, a] = state.jac_rot[arm, i, dof]
            bias[a] = state.bias[dof]
            rest[0, a] = arms.initial[arm, a] - state.qpos[arms.joints[arm, 0, a]]
            rest[1, a] = state.qvel[dof]
        for i in range(3):
            for j in range(3):
                hand_mat[i, j] = state.site_mat[hand, 3 * i + j]
        turn = orientation_error(arms.goal_mat[arm], hand_mat)
        velocity = np.dot(state.jac_pos[arm], state.qvel)
        spin = np.dot(state.jac_rot[arm], state.qvel)
        wanted, gains = np.empty((2, 3)), arms.gains
        for i in range(3):
            offset = arms.goal_pos[arm, i] - state.site_pos[hand, i]
            wanted[0, i] = offset * gains[arm, 0, i] - velocity[i] * gains[arm, 1, i]
            wanted[1, i] = turn[i] * gains[arm, 0, i + 3] - spin[i] * gains[arm, 1, i + 3]
        torques = arm_torques(mass.T, jac_pos, jac_rot, bias, wanted, rest)
        for a in range(n):
            actuator = arms.joints[arm, 2, a]
            low, high = arms.limits[actuator, 0], arms.limits[actuator, 1]
            ctrl[actuator] = min(max(torques[a], low), high)


@_compiled
def rotation_matrix(quaternion: Array) -> Array:
    """Rotation [3, 3] of a unit quaternion [4] (x, y, z, w), rounded to float32 as in robosuite."""
    q = np.empty(4, dtype=np.float32)
    for i in range(4):
        q[i] = quaternion[i - 1]
    scale = math.sqrt(2.0 / np.dot(q, q))
    for i in range(4):
        q[i] = q[i] * scale  # in float64, then rounded
    matrix = np.empty((3, 3))
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        first, second = min(j, k) + 1, max(j, k) + 1
        matrix[i, i] = 1.0 - q[first] * q[first] - q[second] * q[second]
        matrix[i, j] = q[i + 1] * q[j + 1] - q[k + 1] * q[0]
        matrix[j, i] = q[i + 1] * q[j + 1] + q[k + 1] * q[0]
    return matrix


@_compiled
def write_goals(motions: Array, quaternions: Array, state: State, arms: Arms) -> None:
    """Set the goals of all arms, from where the hands are now and not from the last goals.

    Args:
        motions: [A, 3], displacements in the frame of each arm's base.
        quaternions: [A, 4], rotations in that frame, (x, y, z, w).
        state: its sites are read.
        arms: goal_pos and goal_mat are written.
    """
    base_pos, base_mat, inverse = np.empty(3), np.empty((3, 3)), np.empty((3, 3))
    to_base, pose, turned = np.eye(4), np.eye(4), np.empty((3, 3))
    for arm in range(arms.hands.size):  # loops, because slices take seconds to compile
        hand, base = arms.hands[arm], arms.bases[arm]
        for i in range(3):
            base_pos[i] = state.site_pos[base, i]
            pose[i, 3] = state.site_pos[hand, i]
            for j in range(3):
                base_mat[i, j] = inverse[j, i] = to_base[j, i] = state.site_mat[base, 3 * i + j]
                pose[i, j] = state.site_mat[hand, 3 * i + j]
        shift = np.dot(inverse, base_pos)
        for i in range(3):
            to_base[i, 3] = -shift[i]
        start = np.dot(to_base, pose)  # of the hand, in the frame of the base
        for i in range(3):
            shift[i] = start[i, 3] + motions[arm, i]
            for j in range(3):
                turned[i, j] = start[i, j]
        goal_pos = np.dot(base_mat, shift)
        goal_mat = np.dot(base_mat, np.dot(rotation_matrix(quaternions[arm]), turned))
        for i in range(3):
            arms.goal_pos[arm, i] = base_pos[i] + goal_pos[i]
            for j in range(3):
                arms.goal_mat[arm, i, j] = goal_mat[i, j]


def quaternion_of(rotation: Array) -> Array:
    """Unit quaternion [4] (x, y, z, w) of a rotation about the vector [3] by its length in rad."""
    angle = np.sqrt(rotation.dot(rotation))
    if angle == 0.0:
        return np.array([0.0, 0.0, 0.0, 1.0])
    return np.append(rotation / angle * np.sin(angle / 2.0), np.cos(angle / 2.0))
