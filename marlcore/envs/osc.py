"""Operational space control of arms as robosuite's OSC_POSE has it: compiled, pure but for outputs.

Operational space control (Khatib 1987): the hand is drawn to a goal pose like a free mass on a
damped spring; joints that are redundant are drawn back to where the episode began.

n joints of an arm   A arms   V degrees of freedom, U actuators, S sites of the model.   SI units,
world frame; Jacobians map joint velocities to those of a hand, which is a site.

The numbers are robosuite 1.5.2's but for rounding: where it multiplies by pseudo-inverses (LAPACK,
half of its time), this solves by Cholesky factors, and falls back to the pseudo-inverse where the
arm is singular. Its goal's rotation is in float32, as there: a difference of 1e-16 that passes
there may come out as 6e-8. No fast-math: every machine gives the same bits. numba compiles at the
first use, keeps the result on disk, and takes positional arguments alone.
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
_SMALLEST_PIVOT = 1e-14
"""Of a Cholesky factor, beside the largest diagonal entry; below it the pseudo-inverse is asked."""

_numba: Any = importlib.import_module("numba")
_pseudo_inverse: Any = np.linalg.pinv


def compiled(function: Function) -> Function:
    """Compile at the first call; keep it on disk beside this file or in the user's cache."""
    try:
        return _numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither can be written to
        return _numba.njit(nogil=True)(function)


class Arms(NamedTuple):
    """What is known of A arms."""

    joints: Indices
    """[A, 3, n], addresses in qpos, in qvel and in ctrl; padded where an arm has fewer."""
    num_joints: Indices
    """[A], n of each."""
    hands: Indices
    """[A], sites."""
    bases: Indices
    """[A], sites in whose frames actions are."""
    bases_move: NDArray[np.bool_]
    """[A], whether they do: some hang on the first joint."""
    gains: Array
    """[A, 2, 6], stiffness in 1/s^2 and damping in 1/s."""
    limits: Array
    """[U, 2], lowest and highest torque in N m."""
    initial: Array
    """[A, n], joint positions at the start of the episode."""
    goal_pos: Array
    """[A, 3], where the hands shall be, in the frames of the bases."""
    goal_mat: Array
    """[A, 3, 3], how they shall be turned there."""


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
    sparse_inertia: Array
    """As MuJoCo keeps it."""
    inertia: Array
    """[V, V]."""
    jac_pos: Array
    """[A, 3, V], of each hand, translation."""
    jac_rot: Array
    """[A, 3, V], rotation."""
    base_jac_pos: Array
    """[A, 3, V], of each base; zero where it does not move."""
    base_jac_rot: Array
    """[A, 3, V]."""
    ctrl: Array
    """[U]."""


@compiled
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


@compiled
def factor(matrix: Array, begin: int, end: int) -> tuple[bool, Array]:
    """Cholesky factor L of a symmetric block matrix[begin:end, begin:end] = L L^T.

    Returns whether it is positive definite beyond rounding, and L, of which the lower half counts.
    """
    n = end - begin
    lower = np.empty((n, n))
    largest = 0.0
    for i in range(n):
        largest = max(largest, matrix[begin + i, begin + i])
    for j in range(n):
        for i in range(j, n):
            rest = matrix[begin + i, begin + j]
            for k in range(j):
                rest -= lower[i, k] * lower[j, k]
            if i > j:
                lower[i, j] = rest / lower[j, j]
            elif rest > _SMALLEST_PIVOT * largest:
                lower[j, j] = math.sqrt(rest)
            else:
                return False, lower
    return True, lower


@compiled
def solve(matrix: Array, begin: int, end: int, right: Array) -> Array:
    """(matrix[begin:end, begin:end])^+ right of a symmetric positive block; right [end - begin]."""
    n = end - begin
    is_regular, lower = factor(matrix, begin, end)
    if not is_regular:
        return np.dot(_pseudo_inverse(matrix[begin:end, begin:end].copy()), right)
    x = np.empty(n)
    for i in range(n):
        rest = right[i]
        for k in range(i):
            rest -= lower[i, k] * x[k]
        x[i] = rest / lower[i, i]
    for i in range(n - 1, -1, -1):
        rest = x[i]
        for k in range(i + 1, n):
            rest -= lower[k, i] * x[k]
        x[i] = rest / lower[i, i]
    return x


@compiled
def mobility(mass: Array, jac: Array) -> Array:
    """How the hand accelerates under a force on it: J M^-1 J^T [6, 6].

    Args:
        mass: M [n, n].
        jac: J [6, n], translation, then rotation.
    """
    n = mass.shape[0]
    half, found = np.empty((6, n)), np.empty((6, 6))
    _, lower = factor(mass, 0, n)  # an arm's inertia is positive definite
    for row in range(6):
        for i in range(n):
            rest = jac[row, i]
            for k in range(i):
                rest -= lower[i, k] * half[row, k]
            half[row, i] = rest / lower[i, i]
        for other in range(row + 1):
            total = 0.0
            for i in range(n):
                total += half[row, i] * half[other, i]
            found[row, other] = found[other, row] = total
    return found


@compiled
def arm_torques(mass: Array, jac: Array, bias: Array, wanted: Array, rest: Array) -> Array:
    """Torques [n] in N m of one arm, translation and rotation decoupled (Khatib 1987, section V).

        tau = J^T (Lambda_pos a, Lambda_rot b) + bias + N^T M p
        p = k offset - 2 sqrt(k) velocity    N^T M p = M p - J^T Lambda J p

    where Lambda = (J M^-1 J^T)^+ is the inertia that the hand shows, Lambda_pos and Lambda_rot are
    those of the rows of J alone, and N = 1 - M^-1 J^T Lambda J are the motions of the joints that
    do not move the hand.

    Args:
        mass: M [n, n].
        jac: J [6, n], translation, then rotation.
        bias: [n], torques that balance gravity and the like.
        wanted: (a, b) [6], accelerations of the hand in m/s^2 and rad/s^2.
        rest: [2, n], the joints' offset from here to where they rest, and their velocity.
    """
    n = mass.shape[0]
    hand = mobility(mass, jac)
    pull, moved = np.empty(n), np.zeros(6)
    for i in range(n):
        pull[i] = JOINT_STIFFNESS * rest[0, i] - 2.0 * math.sqrt(JOINT_STIFFNESS) * rest[1, i]
        for row in range(6):
            moved[row] += jac[row, i] * pull[i]
    wrench = solve(hand, 0, 6, moved)
    linear, angular = solve(hand, 0, 3, wanted[:3]), solve(hand, 3, 6, wanted[3:])
    for i in range(3):
        wrench[i] = linear[i] - wrench[i]
        wrench[i + 3] = angular[i] - wrench[i + 3]
    torques = np.empty(n)
    for i in range(n):
        total = bias[i]
        for row in range(6):
            total += jac[row, i] * wrench[row]
        for k in range(n):
            total += mass[i, k] * pull[k]
        torques[i] = total
    return torques


@compiled
def wanted_motion(arm: int, velocity: Array, state: State, arms: Arms) -> Array:
    """Accelerations [6] of a hand towards its goal, in m/s^2 and rad/s^2: a damped spring.

    Args:
        arm: its index.
        velocity: [6], of the hand beside its base, in m/s and rad/s.
        state: sites are read.
        arms: goals and gains are read.
    """
    hand, base, gains = arms.hands[arm], arms.bases[arm], arms.gains
    goal_pos, goal_mat, hand_mat = np.empty(3), np.empty((3, 3)), np.empty((3, 3))
    for i in range(3):
        goal_pos[i] = state.site_pos[base, i]
        for j in range(3):
            hand_mat[i, j] = state.site_mat[hand, 3 * i + j]
            goal_pos[i] += state.site_mat[base, 3 * i + j] * arms.goal_pos[arm, j]
            goal_mat[i, j] = 0.0
            for k in range(3):
                goal_mat[i, j] += state.site_mat[base, 3 * i + k] * arms.goal_mat[arm, k, j]
    turn, wanted = orientation_error(goal_mat, hand_mat), np.empty(6)
    for i in range(3):
        offset = goal_pos[i] - state.site_pos[hand, i]
        wanted[i] = offset * gains[arm, 0, i] - velocity[i] * gains[arm, 1, i]
        wanted[i + 3] = turn[i] * gains[arm, 0, i + 3] - velocity[i + 3] * gains[arm, 1, i + 3]
    return wanted


@compiled
def write_torques(state: State, arms: Arms) -> None:
    """Write the torques of all arms, clipped to the actuators' limits, into ctrl."""
    for arm in range(arms.hands.size):  # loops, because slices take seconds to compile
        n = arms.num_joints[arm]
        mass, rest, bias, jac = np.empty((n, n)), np.empty((2, n)), np.empty(n), np.empty((6, n))
        velocity = np.zeros(6)
        for a in range(n):
            dof = arms.joints[arm, 1, a]
            for b in range(n):
                mass[a, b] = state.inertia[dof, arms.joints[arm, 1, b]]
            for i in range(3):
                jac[i, a] = state.jac_pos[arm, i, dof]
                jac[i + 3, a] = state.jac_rot[arm, i, dof]
                base_pos, base_rot = (
                    state.base_jac_pos[arm, i, dof],
                    state.base_jac_rot[arm, i, dof],
                )
                velocity[i] += (jac[i, a] - base_pos) * state.qvel[dof]
                velocity[i + 3] += (jac[i + 3, a] - base_rot) * state.qvel[dof]
            bias[a] = state.bias[dof]
            rest[0, a] = arms.initial[arm, a] - state.qpos[arms.joints[arm, 0, a]]
            rest[1, a] = state.qvel[dof]
        wanted = wanted_motion(arm, velocity, state, arms)
        torques = arm_torques(mass, jac, bias, wanted, rest)
        for a in range(n):
            actuator = arms.joints[arm, 2, a]
            low, high = arms.limits[actuator, 0], arms.limits[actuator, 1]
            state.ctrl[actuator] = min(max(torques[a], low), high)


@compiled
def write_mass(mass: Array, state: State, arms: Arms) -> None:
    """Put mass [A, n, n] in the place of the arms' inertia."""
    for arm in range(arms.hands.size):
        for a in range(arms.num_joints[arm]):
            for b in range(arms.num_joints[arm]):
                row, column = arms.joints[arm, 1, a], arms.joints[arm, 1, b]
                state.inertia[row, column] = mass[arm, a, b]


@compiled
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


@compiled
def write_goals(motions: Array, quaternions: Array, state: State, arms: Arms) -> None:
    """Set the goals of all arms, from where the hands are now and not from the last goals.

    Args:
        motions: [A, 3], displacements in the frame of each arm's base.
        quaternions: [A, 4], rotations in that frame, (x, y, z, w).
        state: its sites are read.
        arms: goal_pos and goal_mat are written.
    """
    base_pos, inverse = np.empty(3), np.empty((3, 3))
    to_base, pose, turned = np.eye(4), np.eye(4), np.empty((3, 3))
    for arm in range(arms.hands.size):  # loops, because slices take seconds to compile
        hand, base = arms.hands[arm], arms.bases[arm]
        for i in range(3):
            base_pos[i] = state.site_pos[base, i]
            pose[i, 3] = state.site_pos[hand, i]
            for j in range(3):
                inverse[j, i] = to_base[j, i] = state.site_mat[base, 3 * i + j]
                pose[i, j] = state.site_mat[hand, 3 * i + j]
        shift = np.dot(inverse, base_pos)
        for i in range(3):
            to_base[i, 3] = -shift[i]
        start = np.dot(to_base, pose)  # of the hand, in the frame of the base
        for i in range(3):
            shift[i] = start[i, 3] + motions[arm, i]
            for j in range(3):
                turned[i, j] = start[i, j]
        goal_mat = np.dot(rotation_matrix(quaternions[arm]), turned)
        for i in range(3):
            arms.goal_pos[arm, i] = shift[i]
            for j in range(3):
                arms.goal_mat[arm, i, j] = goal_mat[i, j]


def quaternion_of(rotation: Array) -> Array:
    """Unit quaternion [4] (x, y, z, w) of a rotation about the vector [3] by its length in rad."""
    angle = np.sqrt(rotation.dot(rotation))
    if angle == 0.0:
        return np.array([0.0, 0.0, 0.0, 1.0])
    return np.append(rotation / angle * np.sin(angle / 2.0), np.cos(angle / 2.0))
