"""The boundary to robosuite 1.5.2: import it quietly, build one of its tasks, take its sensors.

robosuite is untyped; what comes from it is Any. It is imported when a simulator is first built.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from marlcore.config import PegInHoleConfig
from marlcore.envs.rendering import Views, nearest

Sensor = Any
"""Reads one observable: sensor(values read before it) -> value; `__modality__` is its group."""

_PEG_DENSITY = 1000.0
"""In kg/m^3: MuJoCo's default."""

_LIBRARIES = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0"}
_LIBRARIES_OF = {"egl": {"libEGL.so.1": "libegl1"}, "osmesa": {"libOSMesa.so.8": "libosmesa6"}}
"""By MUJOCO_GL: libraries and Debian's packages of them."""
_APT_GET = "apt-get install -y --no-install-recommends"
_CHATTER = (
    "No private macro file",
    "It is recommended to use a private macro file",
    "To setup, run: python",
    "Could not import robosuite_models",
    "Could not load the mink-based whole-body IK",
    "The config has defined for the controller",
)


def import_robosuite() -> Any:
    """Import robosuite without its start-up chatter; on Linux with EGL unless MUJOCO_GL is set."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # mujoco reads it once, when first imported
    logging.getLogger("robosuite_logs").addFilter(_is_worth_reading)
    try:
        return importlib.import_module("robosuite")
    except (
        ImportError,
        AttributeError,
        OSError,
    ) as error:  # PyOpenGL: AttributeError without libEGL
        backend = os.environ.get("MUJOCO_GL", "").lower()
        missing = [
            library
            for library in (*_LIBRARIES, *_LIBRARIES_OF.get(backend, {}))
            if not _loads(library)
        ]
        if sys.platform != "linux" or not missing:
            raise
        packages = {**_LIBRARIES, **_LIBRARIES_OF.get(backend, {})}
        raise ImportError(
            f"robosuite cannot be imported ({error}): this machine has no {', '.join(missing)}. "
            f"Install with: {_APT_GET} {' '.join(packages.values())}"
        ) from error


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING and not record.getMessage().startswith(_CHATTER)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def what_draws() -> str:
    """Draw something with robosuite's way to OpenGL and return by what; see Views.renderer.

    Raises:
        ImportError: libraries are missing.
    """
    import_robosuite()
    mujoco: Any = importlib.import_module("mujoco")
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    views = Views(model, mujoco.MjData(model), max_height=16, max_width=16)
    try:
        return views.renderer()
    finally:
        views.close()


def controller_of(robot: Any) -> Any:
    """The controller of a robot's arm, made anew by every reset."""
    return robot.part_controllers[robot.arms[0]]


def base_of(controller: Any) -> str:
    """The site whose frame robosuite calls the base of an arm."""
    return f"{controller.naming_prefix}{controller.part_name}_center"


def make_simulator(config: PegInHoleConfig, *, seed: int) -> Any:
    """Build the robosuite environment of a config, with soft resets, no renderer and no horizon.

    Args:
        config: task, robots, arrangement and control_hz.
        seed: of what is drawn when the model is built, such as the peg's radius.
    """
    robosuite = import_robosuite()
    _check_robots(config.robots)
    grippers = {"gripper_types": None} if config.task == "TwoArmPegInHole" else {}
    return robosuite.make(
        config.task,
        robots=list(config.robots),
        env_configuration=config.arrangement,
        control_freq=config.control_hz,
        reward_shaping=config.reward == "dense",
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        renderer="mujoco",
        hard_reset=False,
        ignore_done=True,
        lite_physics=True,
        seed=seed,
        **grippers,
    )


def _check_robots(names: tuple[str, str]) -> None:
    models: Any = importlib.import_module("robosuite.models.robots.robot_model")
    robots: Any = importlib.import_module("robosuite.robots")
    classes: Mapping[str, Any] = models.REGISTERED_ROBOTS
    makers: Mapping[str, Any] = robots.ROBOT_CLASS_MAPPING
    allowed = sorted(name for name in makers if name in classes and len(classes[name].arms) == 1)
    for name in names:
        if name not in allowed:
            raise ValueError(
                f"env.robots: {name!r} is no one-armed robot of robosuite; "
                f"did you mean {nearest(name, allowed)!r}? Allowed are {', '.join(allowed)}"
            )


def redraw_peg(simulator: Any) -> None:
    """Draw the peg of TwoArmPegInHole anew in the model that is there, as a hard reset would.

    robosuite draws the peg's radius when it builds the model, from the environment's generator
    before anything else of the episode; building takes a hundred times as long as this. The same
    numbers follow but for rounding: cylinder of length 2h: m = rho pi r^2 2h,
    I_x = I_y = m (3 r^2 + 4 h^2) / 12, I_z = m r^2 / 2.
    """
    mujoco: Any = importlib.import_module("mujoco")
    model: Any = simulator.sim.model._model
    lowest, highest = simulator.peg_radius
    radius, half_length = (
        float(simulator.rng.uniform(low, high))
        for low, high in ((lowest, highest), (simulator.peg_length, simulator.peg_length))
    )
    body = int(simulator.peg_body_id)
    geoms = range(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body])
    for geom in geoms:
        model.geom_size[geom, :2] = radius, half_length
        model.geom_rbound[geom] = math.hypot(radius, half_length)
        model.geom_aabb[geom, 3:] = radius, radius, half_length
    tree = model.body_bvhadr[body]
    model.bvh_aabb[tree : tree + model.body_bvhnum[body], 3:] = radius, radius, half_length
    mass = _PEG_DENSITY * math.pi * radius**2 * 2 * half_length
    across = mass * (3 * radius**2 + 4 * half_length**2) / 12
    model.body_mass[body] = mass
    model.body_inertia[body] = across, across, mass * radius**2 / 2
    mujoco.mj_setConst(model, simulator.sim.data._data)


def take_sensors(simulator: Any) -> dict[str, Sensor]:
    """Take the observables out of a robosuite environment: its steps no longer update them.

    robosuite samples them once a control step, after looking 25 times whether it is time. A sensor
    is a function of the simulation's state alone: read when needed it gives the same numbers.
    """
    sensors = {name: observable._sensor for name, observable in simulator._observables.items()}
    simulator._observables.clear()
    return sensors


def names_of(sensors: Mapping[str, Sensor], modality: str) -> list[str]:
    """Names of the sensors whose values robosuite joins to `{modality}-state`, in its order."""
    return [name for name, sensor in sensors.items() if sensor.__modality__ == modality]
