"""The control steps of robosuite's arms and grippers, compiled: env.backend=compiled.

envs/osc.py has the mathematics, envs/physics.py the loop over the substeps; this module reads
robosuite's controllers. What robosuite does besides, records of recent joint positions and hand
poses that no sensor reads, is left out.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from marlcore.envs.osc import Arms, Array, State, quaternion_of
from marlcore.envs.physics import control_step
from marlcore.envs.simulator import base_of, controller_of

_NUM_ARM_ACTIONS = 6
_NO_MASS = np.zeros((0, 0, 0))
_GRIPPER_CONTROLLER = "SimpleGripController"


class ArmControl:
    """The control steps of a robosuite environment. Final.

    It works on the simulation's own memory, which soft resets keep.
    """

    def __init__(self, simulator: Any, *, num_substeps: int) -> None:
        """Read the arms; compile, which takes long the first time.

        Args:
            simulator: robosuite's environment.
            num_substeps: steps of the physics in a control step.
        """
        self._robots: Any = simulator.robots
        self._num_substeps = num_substeps
        model, data = simulator.sim.model._model, simulator.sim.data._data
        self._addresses = (int(model._address), int(data._address))
        self._arms = _read_arms(self._robots, model)
        self._scaling = _read_scaling(self._robots)
        self._actuators = [_gripper_actuators(robot) for robot in self._robots]
        shape = (len(self._robots), 3, int(model.nv))
        self._state = State(
            qpos=data.qpos,
            qvel=data.qvel,
            bias=data.qfrc_bias,
            site_pos=data.site_xpos,
            site_mat=data.site_xmat,
            sparse_inertia=data.qM,
            inertia=np.zeros((shape[-1], shape[-1])),
            jac_pos=np.zeros(shape),
            jac_rot=np.zeros(shape),
            base_jac_pos=np.zeros(shape),
            base_jac_rot=np.zeros(shape),
            ctrl=data.ctrl,
        )
        self._first_mass = _NO_MASS
        with _one_process_at_a_time():
            self._run(np.zeros((len(self._robots), _NUM_ARM_ACTIONS)), 0)

    def start_episode(self) -> None:
        """Take what the controllers remember of the start; every reset makes new ones.

        Their first inertia is older than the positions of the grippers' fingers.
        """
        width = self._arms.initial.shape[1]
        self._first_mass = np.zeros((len(self._robots), width, width))
        for arm, controller in enumerate(map(controller_of, self._robots)):
            n = controller.joint_dim
            self._arms.initial[arm, :n] = controller.initial_joint
            self._first_mass[arm, :n, :n] = controller.mass_matrix

    def step(self, actions: Sequence[Array]) -> None:
        """Run one control step, physics included. actions: of each arm [6 or more] in [-1, 1]."""
        for robot, actuators, action in zip(self._robots, self._actuators, actions, strict=True):
            if actuators is not None:
                self._move_gripper(robot, actuators, action[_NUM_ARM_ACTIONS:])
        self._run(np.stack([action[:_NUM_ARM_ACTIONS] for action in actions]), self._num_substeps)
        self._first_mass = _NO_MASS

    def _run(self, actions: Array, num_substeps: int) -> None:
        low, high, centre, scale, offset = self._scaling
        motions = (np.minimum(np.maximum(actions, low), high) - centre) * scale + offset
        quaternions = np.stack([quaternion_of(motion[3:]) for motion in motions])
        control_step(
            *self._addresses,
            num_substeps,
            motions,
            quaternions,
            self._first_mass,
            self._state,
            self._arms,
        )

    def _move_gripper(self, robot: Any, actuators: list[int], action: Array) -> None:
        """Set what a gripper's actuators are told in the whole control step."""
        name = robot.get_gripper_name(robot.arms[0])
        controller = robot.part_controllers[name]
        goal = controller.scale_action(robot.gripper[robot.arms[0]].format_action(action))
        low, high = self._arms.limits[actuators].T
        told = 0.5 * (high + low) + 0.5 * (high - low) * goal
        self._state.ctrl[actuators] = np.clip(told, low, high)


def _read_arms(robots: Sequence[Any], model: Any) -> Arms:
    controllers = [controller_of(robot) for robot in robots]
    for robot, controller in zip(robots, controllers, strict=True):
        _check(robot, controller)
    joints = [
        np.array([arm.qpos_index, arm.qvel_index, robot._ref_actuators_indexes_dict[arm.part_name]])
        for robot, arm in zip(robots, controllers, strict=True)
    ]
    num_joints = np.array([addresses.shape[1] for addresses in joints])
    width = int(num_joints.max())
    bases = np.array([model.site(base_of(arm)).id for arm in controllers])
    return Arms(
        joints=np.stack([np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in joints]),
        num_joints=num_joints,
        hands=np.array([model.site(arm.ref_name).id for arm in controllers]),
        bases=bases,
        bases_move=np.array([model.body_weldid[model.site_bodyid[site]] != 0 for site in bases]),
        gains=np.array([(arm.kp, arm.kd) for arm in controllers]),
        limits=model.actuator_ctrlrange,
        initial=np.zeros((len(joints), width)),
        goal_pos=np.zeros((len(joints), 3)),
        goal_mat=np.zeros((len(joints), 3, 3)),
    )


def _read_scaling(robots: Sequence[Any]) -> Array:
    """Lowest, highest and central action, motion per action and central motion: [5, A, 6]."""
    rows: list[tuple[Array, ...]] = []
    for arm in map(controller_of, robots):
        low, high, least, most = arm.input_min, arm.input_max, arm.output_min, arm.output_max
        scale = abs(most - least) / abs(high - low)
        rows.append((low, high, (high + low) / 2.0, scale, (most + least) / 2.0))
    return np.stack(rows, axis=1)


def _gripper_actuators(robot: Any) -> list[int] | None:
    """Addresses of a gripper in ctrl; None without one."""
    name = robot.get_gripper_name(robot.arms[0])
    if name not in robot.part_controllers:
        return None
    return list(robot._ref_actuators_indexes_dict[name])


def _check(robot: Any, controller: Any) -> None:
    """Refuse an arm that osc.py does not describe."""
    parts = robot.part_controllers
    gripper = robot.get_gripper_name(robot.arms[0])
    names = [part.name for name, part in parts.items() if name != gripper]
    grip = parts.get(gripper)
    wanted = {
        "impedance_mode": "fixed",
        "input_type": "delta",
        "input_ref_frame": "base",
        "uncoupling": True,
        "interpolator_pos": None,
        "interpolator_ori": None,
    }
    is_known = names == ["OSC_POSE"] and (
        grip is None or (type(grip).__name__, grip.interpolator) == (_GRIPPER_CONTROLLER, None)
    )
    if not is_known or any(getattr(controller, key) != wanted[key] for key in wanted):
        names += [] if grip is None else [type(grip).__name__]
        raise ValueError(
            "env.backend=compiled knows one OSC_POSE arm with robosuite's default settings, and "
            f"its gripper; {robot.name} has {', '.join(names)}; use env.backend=robosuite"
        )


@contextmanager
def _one_process_at_a_time() -> Generator[None]:
    """The first of several workers compiles; the others wait and load what it kept."""
    path = Path(tempfile.gettempdir()) / f"marlcore-{os.getuid()}-compiling.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed with the file, also when the process dies
        yield
