"""What each arm's agent observes: pure functions from an arm's sensors to padded arrays and masks.

N agents, one arm each   O entries of the widest agent's `vector`   P proprio, 8 wide

    observations=state    vector_i = [proprio-state of arm i, object-state, zeros to O]
                          state    = [proprio-state of every arm, object-state]
    observations=proprio  vector_i = proprio_i    state = [proprio of every arm]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_GRIPPER_ENTRIES = 2
_NO_ROTATION = 1e-8
"""Sine of half an angle that counts as none, as in LIBERO."""
PROPRIO_SIZE = 3 + 3 + NUM_GRIPPER_ENTRIES
"""P: position, axis-angle and gripper, as in LIBERO."""


def axis_angle(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation vector [3] in rad of a unit quaternion [4] (x, y, z, w), as LIBERO has it.

    The angle is in [0, 2 pi], and q and -q give different vectors. That is wanted: a hand that
    points down has an angle of about pi, where choosing the smaller angle would jump.
    """
    w = min(1.0, max(-1.0, float(quaternion[3])))
    sine = float(np.sqrt(1.0 - w * w))
    if sine <= _NO_ROTATION:
        return np.zeros(3)
    return np.asarray(quaternion[:3] * (2.0 * np.arccos(w) / sine), dtype=np.float64)


def arm_proprio(
    *,
    eef_pos: NDArray[np.float64],
    eef_quat: NDArray[np.float64],
    gripper_qpos: NDArray[np.float64] | None,
) -> NDArray[np.float32]:
    """One arm's proprio [8]: position (m), axis-angle (rad), gripper joints (m) or zeros.

    Args:
        eef_pos: [3] in the world, in m.
        eef_quat: [4] of the hand in the world, (x, y, z, w).
        gripper_qpos: [2], the two fingers' joints; None without a gripper.
    """
    gripper = np.zeros(NUM_GRIPPER_ENTRIES) if gripper_qpos is None else gripper_qpos
    if gripper.shape != (NUM_GRIPPER_ENTRIES,):
        raise ValueError(
            f"a gripper with {gripper.size} joints does not fit the {NUM_GRIPPER_ENTRIES} entries "
            "of the proprio; use robots whose grippers have two finger joints, such as Panda"
        )
    return np.concatenate([eef_pos, axis_angle(eef_quat), gripper]).astype(np.float32)


def padded(rows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Stack vectors of different widths: [N, O] float32, O the widest, zeros behind the rest."""
    stacked = np.zeros((len(rows), max(row.size for row in rows)), dtype=np.float32)
    for index, row in enumerate(rows):
        stacked[index, : row.size] = row
    return stacked


def visible_entries(*, own_sizes: Sequence[int], shared_size: int) -> NDArray[np.bool_]:
    """Which entries of each other's vectors the agents see: [N, N, O] bool.

    Entry [i, j, o]: agent i sees entry o of agent j's vector. An agent sees all of its own vector;
    of another's it sees the shared entries (its own vector holds them too) and the padding (known
    to be zero), and nothing of what is the other's own.

    Args:
        own_sizes: [N], how many entries at the start of each vector are the agent's own.
        shared_size: how many entries, the same for all agents, follow them.
    """
    num_agents = len(own_sizes)
    width = max(own_sizes) + shared_size
    visible = np.ones((num_agents, num_agents, width), dtype=np.bool_)
    for seer in range(num_agents):
        for seen, own_size in enumerate(own_sizes):
            if seer != seen:
                visible[seer, seen, :own_size] = False
    return visible
