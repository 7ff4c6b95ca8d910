"""The control steps of robosuite's two arms without grippers, compiled: env.backend=compiled.

envs/osc.py has the mathematics; this module reads robosuite's controllers and runs the substeps in
robosuite's order: mj_step1, goals (first substep), torques, mj_step2. What robosuite does besides,
records of recent joint positions and hand poses that no sensor reads, is left out.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from marlcore.envs.osc import Arms, Array, State, quaternion_of, write_goals, write_torques


class ArmControl:
    """The control steps of a robosuite environment whose arms have no grippers. Final.

    It works on the simulation's own memory, which soft resets keep.
    """

    def __init__(self, simulator: Any, *, num_substeps: int) -> None:
        """Read the arms; compile, which takes long the first time.

        Args:
            simulator: robosuite's environment.
            num_substeps: steps of the physics in a control step.
        """
        self._mujoco: Any = importlib.import_module("mujoco")
        self._model: Any = simulator.sim.model._model
        self._data: Any = simulator.sim.data._data
        self._robots: Any = simulator.robots
        self._num_substeps = num_substeps
        self._arms = _read_arms(self._robots, self._model)
        self._scaling = _read_scaling(self._robots)
        data, shape = self._data, (len(self._robots), 3, int(self._model.nv))
        self._state = State(
            qpos=data.qpos,
            qvel=data.qvel,
            bias=data.qfrc_bias,
            site_pos=data.site_xpos,
            site_mat=data.site_xmat,
            inertia=np.zeros((shape[-1], shape[-1])),
            jac_pos=np.zeros(shape),
            jac_rot=np.zeros(shape),
        )
        self._sites = list(
            zip(self._state.jac_pos, self._state.jac_rot, self._arms.hands, strict=True)
        )
        with _one_process_at_a_time():
            self._set_goals([np.zeros(6)] * len(self._robots))
            self._write_torques(np.zeros(int(self._model.nu)))

    def start_episode(self) -> None:
        """Take the initial joint positions from the controllers; every reset makes new ones."""
        for row, robot in zip(self._arms.initial, self._robots, strict=True):
            controller = _controller_of(robot)
            row[: controller.joint_dim] = controller.initial_joint

    def step(self, actions: Sequence[Array]) -> None:
        """Run one control step, physics included. actions: of each arm [6] in [-1, 1]."""
        ctrl: Array = self._data.ctrl
        for substep in range(self._num_substeps):
            self._mujoco.mj_step1(self._model, self._data)
            if substep == 0:
                self._set_goals(actions)
            self._write_torques(ctrl)
            self._mujoco.mj_step2(self._model, self._data)

    def _set_goals(self, actions: Sequence[Array]) -> None:
        low, high, centre, scale, offset = self._scaling
        motions = (np.minimum(np.maximum(actions, low), high) - centre) * scale + offset
        quaternions = np.stack([quaternion_of(motion[3:]) for motion in motions])
        write_goals(motions[:, :3].copy(), quaternions, self._state, self._arms)

    def _write_torques(self, ctrl: Array) -> None:
        self._mujoco.mj_fullM(self._model, self._state.inertia, self._data.qM)
        for jac_pos, jac_rot, hand in self._sites:
            self._mujoco.mj_jacSite(self._model, self._data, jac_pos, jac_rot, hand)
        write_torques(ctrl, self._state, self._arms)


def _read_arms(robots: Sequence[Any], model: Any) -> Arms:
    controllers = [_controller_of(robot) for robot in robots]
    for robot, controller in zip(robots, controllers, strict=True):
        _check(robot, controller, model)
    joints = [
        np.array([arm.qpos_index, arm.qvel_index, robot._ref_actuators_indexes_dict[arm.part_name]])
        for robot, arm in zip(robots, controllers, strict=True)
    ]
    num_joints = np.array([addresses.shape[1] for addresses in joints])
    width = int(num_joints.max())
    return Arms(
        joints=np.stack([np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in joints]),
        num_joints=num_joints,
        hands=np.array([model.site(arm.ref_name).id for arm in controllers]),
        bases=np.array([model.site(_base_of(arm)).id for arm in controllers]),
        gains=np.array([(arm.kp, arm.kd) for arm in controllers]),
        limits=model.actuator_ctrlrange,
        initial=np.zeros((len(joints), width)),
        goal_pos=np.zeros((len(joints), 3)),
        goal_mat=np.zeros((len(joints), 3, 3)),
    )


def _read_scaling(robots: Sequence[Any]) -> Array:
    """Lowest, highest and central action, motion per action and central motion: [5, A, 6]."""
    rows: list[tuple[Array, ...]] = []
    for arm in map(_controller_of, robots):
        low, high, least, most = arm.input_min, arm.input_max, arm.output_min, arm.output_max
        scale = abs(most - least) / abs(high - low)
        rows.append((low, high, (high + low) / 2.0, scale, (most + least) / 2.0))
    return np.stack(rows, axis=1)


def _controller_of(robot: Any) -> Any:
    """The controller of a robot's arm, made anew by every reset."""
    return robot.part_controllers[robot.arms[0]]


def _base_of(controller: Any) -> str:
    """The site whose frame robosuite calls the base of an arm."""
    return f"{controller.naming_prefix}{controller.part_name}_center"


def _check(robot: Any, controller: Any, model: Any) -> None:
    """Refuse an arm that osc.py does not describe."""
    names = [part.name for part in robot.part_controllers.values()]
    wanted = {
        "impedance_mode": "fixed",
        "input_type": "delta",
        "input_ref_frame": "base",
        "uncoupling": True,
        "interpolator_pos": None,
        "interpolator_ori": None,
    }
    if names != ["OSC_POSE"] or any(getattr(controller, key) != wanted[key] for key in wanted):
        raise ValueError(
            "env.backend=compiled knows one OSC_POSE arm with robosuite's default settings and no "
            f"gripper; {robot.name} has {', '.join(names)}; use env.backend=robosuite"
        )
    if model.body_weldid[model.site(_base_of(controller)).bodyid[0]] != 0:
        raise ValueError(
            f"env.backend=compiled needs arms on a base that stands still; {robot.name} moves: "
            "use env.backend=robosuite"
        )


@contextmanager
def _one_process_at_a_time() -> Generator[None]:
    """The first of several workers compiles; the others wait and load what it kept."""
    path = Path(tempfile.gettempdir()) / f"marlcore-{os.getuid()}-compiling.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed with the file, also when the process dies
        yield
