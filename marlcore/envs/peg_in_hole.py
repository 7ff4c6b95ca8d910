"""robosuite's two-arm tasks as a StepEnv: two agents, one arm each.

Physics and sensors are robosuite's; envs/control.py computes the torques with the same numbers but
for rounding (with env.backend=robosuite its controllers do). What is done otherwise: resets depend
on their seed alone and do not build the model anew, but draw the peg as if they did; sensors are
read when an observation is asked for and not at every substep, pictures come from
envs/rendering.py; robosuite's horizon and cameras are unused.

robosuite and mujoco are imported by the constructor: importing this module costs nothing.
As in robosuite, poses and images after a step are those at the start of its last substep, 2 ms ago.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from marlcore.config import PegInHoleConfig
from marlcore.envs import observations, rewards
from marlcore.envs.protocol import ActionSpec, EnvSpec, Observation, StepResult
from marlcore.envs.quantiles import proprio_quantiles
from marlcore.envs.rendering import Views, cameras_of_agents, num_shared
from marlcore.envs.simulator import (
    Sensor,
    base_of,
    controller_of,
    make_simulator,
    names_of,
    redraw_peg,
    take_sensors,
)

if TYPE_CHECKING:
    from marlcore.envs.control import ArmControl

Pose = tuple[NDArray[np.float64], NDArray[np.float64]]

NUM_AGENTS = 2
RENDER_HEIGHT, RENDER_WIDTH = 480, 640

INSTRUCTIONS = {
    "TwoArmPegInHole": ("insert the peg into the hole", "bring the hole onto the peg"),
    "TwoArmLift": ("lift the pot by its left handle", "lift the pot by its right handle"),
    "TwoArmHandover": ("pick up the hammer and hand it over", "take the hammer from the other arm"),
    "TwoArmTransport": (
        "take the hammer out of the covered bin and hand it over",
        "empty the target bin and put the hammer into it",
    ),
}


class PegInHoleEnv:
    """Two robot arms, one agent each. Final."""

    def __init__(self, config: PegInHoleConfig, *, seed: int) -> None:
        """Build the simulation.

        Args:
            config: task, robots, reward, observations and cameras.
            seed: of what a reset never changes: the hammer of TwoArmHandover and the like.
        """
        self._config = config
        self._env: Any = make_simulator(config, seed=seed)
        self._mujoco: Any = importlib.import_module("mujoco")
        self._model: Any = self._env.sim.model._model
        self._data: Any = self._env.sim.data._data
        divergence = self._mujoco.mjtWarning
        self._divergence = [
            int(divergence.mjWARN_BADQPOS),
            int(divergence.mjWARN_BADQVEL),
            int(divergence.mjWARN_BADQACC),
        ]
        self._num_substeps = round(self._env.control_timestep / self._env.model_timestep)
        self._control = _compiled_control(self._env, self._num_substeps, config)
        self._sensors: dict[str, Sensor] = take_sensors(self._env)
        self._object_names = names_of(self._sensors, "object")
        self._own_names = [
            names_of(self._sensors, f"robot{agent}_proprio") for agent in range(NUM_AGENTS)
        ]
        self._proprio_names = {
            f"robot{agent}_{part}"
            for agent in range(NUM_AGENTS)
            for part in ("eef_pos", "eef_quat", "gripper_qpos")
        }
        self._reward = _reward_function(config)
        self._peg_in_hole = config.task == "TwoArmPegInHole"
        if self._peg_in_hole:
            self._bodies = (self._env.peg_body_id, self._env.hole_body_id)
            self._sensors["angle"] = self._sense_geometry  # robosuite's takes three times as long
        self._cameras = cameras_of_agents(
            config.cameras, available=self._env.sim.model.camera_names, num_agents=NUM_AGENTS
        )
        self._views = Views(
            self._model, self._data, max_height=RENDER_HEIGHT, max_width=RENDER_WIDTH
        )
        size = config.image_size
        self._agent_views = Views(
            self._model,
            self._data,
            max_height=size,
            max_width=size,
            quality=config.render_quality,
        )
        self._action_sizes = tuple(int(robot.action_dim) for robot in self._env.robots)
        self._spec = self._make_spec()
        self._ready = False

    @property
    def spec(self) -> EnvSpec:
        """Shapes of everything; chunk_length 1."""
        return self._spec

    def reset(self, seed: int) -> None:
        """Start an episode that depends on the constructor's seed and this one alone."""
        # In place, because robosuite's placement samplers hold the generator too.
        self._env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        if self._peg_in_hole:
            redraw_peg(self._env)
        self._env.reset()
        if self._control is not None:
            self._control.start_episode()
        self._ready = True

    def step(self, actions: NDArray[np.generic]) -> StepResult:
        """Run one env step.

        Args:
            actions: [2, D] in [-1, 1]: per arm the hand's displacement (1 is 0.05 m) and rotation
                (1 is 0.5 rad) in the frame of the arm's base, then the gripper (-1 opens) if any.
        """
        self._simulate(self._parts(actions))
        if self._data.warning.number[self._divergence].any():
            self._ready = False
            raise RuntimeError(
                "the simulation diverged and MuJoCo restarted it: the episode is void"
            )
        reward, success = self._outcome()
        return StepResult(
            reward=reward,
            terminated=success and self._config.terminate_on_success,
            success=success,
        )

    def observe(self) -> Observation:
        """Return `vector` [2, O], `proprio` [2, 8], `state` [S] and, with cameras, `images`."""
        self._assert_ready()
        observation: Observation = dict(self._vectors())
        if self._config.cameras:
            observation["images"] = self._pictures()
        return observation

    def _pictures(self) -> NDArray[np.uint8]:
        """What the agents' cameras show: [2, C, height, width, 3]."""
        size = self._config.image_size
        images = np.empty(self._spec.observation_shapes["images"], np.uint8)
        for name in self._config.cameras:
            picture = self._agent_views.from_camera(name, height=size, width=size)
            for agent, row in enumerate(self._cameras):
                if name in row:
                    images[agent, row.index(name)] = picture
        return images

    def render(self) -> NDArray[np.uint8]:
        """Return a picture [480, 640, 3] of both arms, obliquely from the front."""
        self._assert_ready()
        return np.ascontiguousarray(
            self._views.from_point(
                lookat_m=(0.0, 0.0, 1.0),
                distance_m=1.8,
                azimuth_deg=150.0,
                elevation_deg=-20.0,
                height=RENDER_HEIGHT,
                width=RENDER_WIDTH,
            )
        )

    def close(self) -> None:
        """Free the GL context and the simulation; a second call does nothing."""
        self._views.close()
        self._agent_views.close()
        self._ready = False
        if self._env is not None:
            self._env.close()
        self._env = self._model = self._data = self._control = None
        self._sensors = {}

    def _simulate(self, parts: list[NDArray[np.float64]]) -> None:
        """Run the substeps of one control step."""
        if self._control is not None:
            self._control.step(parts)
            return
        mujoco, robots = self._mujoco, self._env.robots
        for substep in range(self._num_substeps):
            mujoco.mj_step1(self._model, self._data)
            for robot, part in zip(robots, parts, strict=True):
                robot.control(part, policy_step=substep == 0)
            mujoco.mj_step2(self._model, self._data)

    def _assert_ready(self) -> None:
        if not self._ready:
            raise ValueError("no episode is running; call reset(seed) first")

    def _parts(self, actions: NDArray[np.generic]) -> list[NDArray[np.float64]]:
        """Check actions [2, D]; each arm's part, in float64, as the controllers take its dtype."""
        self._assert_ready()
        rows = np.asarray(actions, dtype=np.float64)
        shape = (NUM_AGENTS, max(self._action_sizes))
        if rows.shape != shape:
            raise ValueError(f"actions have shape {rows.shape}; {self._config.task} takes {shape}")
        if not np.isfinite(rows).all():
            raise ValueError(
                f"actions {rows.tolist()} are not all finite; check the policy's output"
            )
        return [row[:size] for row, size in zip(rows, self._action_sizes, strict=True)]

    def _outcome(self) -> tuple[float, bool]:
        """Reward and success of the state now."""
        if not self._peg_in_hole:
            success = bool(self._env._check_success())
            dense = self._config.reward == "dense"
            return float(self._env.reward()) if dense else float(success), success
        geometry = self._geometry()
        success = rewards.is_success(cos=geometry.cos, t=geometry.t, d=geometry.d)
        return self._reward(geometry, success), success

    def bodies(self) -> tuple[Pose, Pose]:
        """Position [3] in m and rotation [3, 3] of the peg and of the plate, in the world."""
        peg, hole = (
            (self._data.xpos[body], self._data.xmat[body].reshape(3, 3)) for body in self._bodies
        )
        return peg, hole

    def hand(self, agent: int) -> Pose:
        """Position [3] of an agent's hand in m, and rotation [3, 3] of the frame of its actions."""
        controller = controller_of(self._env.robots[agent])
        base = self._data.site(base_of(controller))
        return self._data.site(controller.ref_name).xpos, base.xmat.reshape(3, 3)

    def _geometry(self) -> rewards.PegGeometry:
        (peg_pos, peg_mat), (hole_pos, hole_mat) = self.bodies()
        return rewards.peg_geometry(
            peg_pos=peg_pos, peg_mat=peg_mat, hole_pos=hole_pos, hole_mat=hole_mat
        )

    def _sense_geometry(self, values: dict[str, Any]) -> float:
        """The sensor `angle`, which leaves t and d to the sensors that come after it."""
        geometry = self._geometry()
        values["t"], values["d"] = geometry.t, geometry.d
        return geometry.cos

    def _vectors(self) -> dict[str, NDArray[np.float32]]:
        own, shared, proprio = self._read()
        return {
            "vector": observations.padded([np.concatenate([row, shared]) for row in own]),
            "proprio": proprio,
            "state": np.concatenate([*own, shared]).astype(np.float32),
        }

    def _read(self) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float32]]:
        """Read the sensors: what is each agent's own, what all share, and proprio [2, 8]."""
        whole_state = self._config.observations == "state"
        values: dict[str, Any] = {}  # some sensors read what came before them
        for name, sensor in self._sensors.items():
            if whole_state or name in self._proprio_names:
                values[name] = np.array(sensor(values))
        proprio = np.stack(
            [
                observations.arm_proprio(
                    eef_pos=values[f"robot{agent}_eef_pos"],
                    eef_quat=values[f"robot{agent}_eef_quat"],
                    gripper_qpos=values.get(f"robot{agent}_gripper_qpos"),
                )
                for agent in range(NUM_AGENTS)
            ]
        )
        if not whole_state:
            return list(proprio), np.zeros(0), proprio
        return (
            [_joined(values, names) for names in self._own_names],
            _joined(values, self._object_names),
            proprio,
        )

    def _make_spec(self) -> EnvSpec:
        own, shared, _ = self._read()
        arrays = self._vectors()
        shapes = {name: array.shape for name, array in arrays.items()}
        dtypes = {name: array.dtype.name for name, array in arrays.items()}
        if self._config.cameras:
            size = self._config.image_size
            shapes["images"] = (NUM_AGENTS, len(self._cameras[0]), size, size, 3)
            dtypes["images"] = "uint8"
        return EnvSpec(
            num_agents=NUM_AGENTS,
            actions=ActionSpec("continuous", self._action_sizes, clip=True),
            observation_shapes=shapes,
            observation_dtypes=dtypes,
            instructions=INSTRUCTIONS[self._config.task],
            num_shared_views=num_shared(self._cameras) if self._config.cameras else 0,
            proprio_quantiles=proprio_quantiles(self._config.task, self._config.arrangement),
            visible=observations.visible_entries(
                own_sizes=[row.size for row in own], shared_size=shared.size
            ),
            has_success=True,
        )


def _compiled_control(env: Any, num_substeps: int, config: PegInHoleConfig) -> ArmControl | None:
    if config.backend == "robosuite":
        return None
    from marlcore.envs.control import ArmControl  # imports numba

    return ArmControl(env, num_substeps=num_substeps)


def _joined(values: dict[str, Any], names: list[str]) -> NDArray[np.float64]:
    return np.concatenate([np.ravel(values[name]) for name in names]).astype(np.float64)


def _reward_function(config: PegInHoleConfig) -> Callable[[rewards.PegGeometry, bool], float]:
    """The peg-in-hole reward of a geometry and its success."""
    if config.reward == "sparse":
        return lambda _, success: float(success)
    if config.reward == "staged":
        return lambda g, success: rewards.staged_reward(success=success, cos=g.cos, t=g.t, d=g.d)
    weights = config.reward_weights
    dense = partial(
        rewards.dense_reward,
        success_weight=weights.success,
        reaching_weight=weights.reaching,
        perpendicular_weight=weights.perpendicular,
        parallel_weight=weights.parallel,
        alignment_weight=weights.alignment,
    )
    return lambda g, success: dense(success=success, cos=g.cos, t=g.t, d=g.d, reach=g.reach)
