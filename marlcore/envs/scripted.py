"""A script that puts the peg into the hole, for demonstrations: feedback on where peg and hole are.

Both hands share the work, so that neither arm is stretched: the hole is turned towards the peg, and
the peg is moved to the hole. Directions are of the world, lengths in m, angles in rad.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marlcore.envs.peg_in_hole import PegInHoleEnv
from marlcore.envs.rewards import HOLE_OFFSET_M, STAND_OFF_M

Floats = NDArray[np.float64]

_MOTION_M, _MOTION_RAD = 0.05, 0.5
"""Of an action of 1."""
_GAIN = 0.7
"""Share of what is missing that one env step makes up for."""
_TURN_SHARE, _MOVE_SHARE = 0.25, 0.8
"""Of the peg's hand; the hole's does the rest. With halves, a third of the Pandas get stuck."""
_ALIGNED_COS, _ON_AXIS_M = 0.995, 0.015
"""Better than this the peg goes in; it stays on the way once it has begun."""
_SPEED_M = 0.02
"""What the peg goes in by in an env step."""
_DEPTH_M = 0.02
"""Where it ends: the peg's centre so far before the hole's."""


class ScriptedInsertion:
    """Actions for one episode of TwoArmPegInHole.

    Args:
        env: whose simulation is read.
    """

    def __init__(self, env: PegInHoleEnv) -> None:
        self._env = env
        self._distance_m = STAND_OFF_M

    def actions(self) -> NDArray[np.float32]:
        """What both hands do next: [2, 6] in [-1, 1]."""
        (peg_pos, peg_mat), (hole_pos, hole_mat) = self._env.bodies()
        axis, normal = peg_mat[:, 2], hole_mat[:, 2]
        centre = hole_pos + HOLE_OFFSET_M * hole_mat[:, 0]
        # The plate has two sides; the peg enters from the one that it is on.
        way = normal if (centre - peg_pos) @ normal > 0 else -normal
        offset = (peg_pos - centre) - ((peg_pos - centre) @ way) * way
        if axis @ way > _ALIGNED_COS and np.linalg.norm(offset) < _ON_AXIS_M:
            self._distance_m = max(_DEPTH_M, self._distance_m - _SPEED_M)
        turn = _GAIN * _rotation_between(axis, way)
        move = _GAIN * (centre - self._distance_m * way - peg_pos)
        rows = [
            self._action(0, peg_pos, _MOVE_SHARE * move, _TURN_SHARE * turn),
            self._action(1, centre, (_MOVE_SHARE - 1) * move, (_TURN_SHARE - 1) * turn),
        ]
        return np.stack(rows).astype(np.float32)

    def _action(self, agent: int, about: Floats, move: Floats, turn: Floats) -> Floats:
        """Turn what a hand holds about a point, and move that point."""
        hand_pos, base_mat = self._env.hand(agent)
        hand_move = move - np.cross(turn, about - hand_pos)
        parts = (base_mat.T @ hand_move / _MOTION_M, base_mat.T @ turn / _MOTION_RAD)
        return np.concatenate([part / max(1.0, np.abs(part).max()) for part in parts])


def _rotation_between(start: Floats, end: Floats) -> Floats:
    """Rotation vector [3] of the shortest turn from one unit vector to another."""
    cross = np.cross(start, end)
    sine = float(np.linalg.norm(cross))
    return cross * (np.arctan2(sine, start @ end) / sine if sine > 1e-9 else 0.0)
