"""Offscreen pictures of a MuJoCo simulation, and which agent sees which camera.

robosuite's render context frees its GL objects in whatever context is current, so that collecting
an old one turns the images of another to garbage without an error; mujoco.Renderer.close does so
too. Here a context is made current before each use and before it is freed. Pictures are upright.
"""

from __future__ import annotations

import atexit
import difflib
import importlib
import os
import re
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcore.envs.meshes import coarse_model

_GL_MODULES = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "cgl": "mujoco.cgl"}
_MAX_GEOMS = 10_000  # robosuite's
_COSTLY = ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX", "mjRND_HAZE")
"""What `fast` leaves out; the walls hide the sky."""


def nearest(name: str, allowed: Sequence[str]) -> str:
    """The allowed name that looks most like `name`."""
    return difflib.get_close_matches(name, allowed, n=1, cutoff=0.0)[0]


def cameras_of_agents(
    cameras: Sequence[str], *, available: Sequence[str], num_agents: int
) -> tuple[tuple[str, ...], ...]:
    """Which cameras each agent sees: [N][C] names, shared ones first, then its own `robot{i}_*`.

    Args:
        cameras: names, in the order wanted.
        available: names of the simulation's cameras.
        num_agents: N.
    """
    for name in cameras:
        if name not in available:
            raise ValueError(
                f"env.cameras: no camera {name!r}; did you mean {nearest(name, available)!r}? "
                f"Allowed are {', '.join(available)}"
            )
    if len(set(cameras)) != len(cameras):
        raise ValueError(f"env.cameras {tuple(cameras)} names a camera twice; name each once")
    owners = {name: re.match(r"robot(\d+)_", name) for name in cameras}
    shared = tuple(name for name, owner in owners.items() if owner is None)
    rows = tuple(
        shared + tuple(name for name, owner in owners.items() if owner and int(owner[1]) == agent)
        for agent in range(num_agents)
    )
    counts = [len(row) for row in rows]
    if len(set(counts)) > 1:
        raise ValueError(
            f"env.cameras {tuple(cameras)} gives the agents {counts} views, and all need the "
            "same number; name as many robot0_... cameras as robot1_... ones"
        )
    return rows


def num_shared(rows: Sequence[Sequence[str]]) -> int:
    """How many of the agents' cameras [N][C], the first ones, all of them see."""
    return sum(name in rows[-1] for name in rows[0])


class Views:
    """Pictures of one simulation. The GL context is made when the first picture is asked for.

    Args:
        model: of the simulation.
        data: of the simulation.
        max_height: of a picture, in pixels.
        max_width: of a picture.
        quality: full (robosuite's pictures, pixel for pixel), fast (without shadows, reflections
            and multisampling) or lite (besides, with coarse meshes).
    """

    def __init__(
        self, model: Any, data: Any, *, max_height: int, max_width: int, quality: str = "full"
    ) -> None:
        self._mujoco: Any = importlib.import_module("mujoco")
        self._quality = quality
        self._model = model
        self._data = data
        self._size = (max_height, max_width)
        self._gl: Any = None
        self._context: Any = None
        self._scene: Any = None
        self._options: Any = None
        self._free: weakref.finalize[Any, Views] | None = None

    def from_camera(self, name: str, *, height: int, width: int) -> NDArray[np.uint8]:
        """Picture [height, width, 3] of a camera of the model."""
        camera = self._mujoco.MjvCamera()
        camera.type = self._mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = self._model.camera(name).id
        return self._picture(camera, height, width)

    def from_point(
        self,
        *,
        lookat_m: Sequence[float],
        distance_m: float,
        azimuth_deg: float,
        elevation_deg: float,
        height: int,
        width: int,
    ) -> NDArray[np.uint8]:
        """Picture [height, width, 3] of a point [3] in the world, from a distance and direction."""
        camera = self._mujoco.MjvCamera()
        camera.type = self._mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = lookat_m
        camera.distance, camera.azimuth, camera.elevation = distance_m, azimuth_deg, elevation_deg
        return self._picture(camera, height, width)

    def renderer(self) -> str:
        """What draws: the way to OpenGL, and the device, for example `egl, NVIDIA H100`."""
        if self._free is None:
            self._open()
        self._gl.make_current()
        opengl: Any = importlib.import_module("OpenGL.GL")
        device = opengl.glGetString(opengl.GL_RENDERER).decode("ascii", "replace")
        return f"{type(self._gl).__module__.rpartition('.')[2]}, {device}"

    def close(self) -> None:
        """Free the GL objects; pictures can be asked for again."""
        if self._free is not None:
            self._free()
            atexit.unregister(self._free)
        self._gl = self._free = None

    def _open(self) -> None:
        mujoco = self._mujoco
        backend = os.environ.get("MUJOCO_GL", "").lower()
        gl_module = importlib.import_module(_GL_MODULES.get(backend, "mujoco.glfw"))
        height, width = self._size
        self._gl = gl_module.GLContext(width, height)
        self._gl.make_current()
        model = coarse_model(self._model) if self._quality == "lite" else self._model
        buffer, samples = model.vis.global_, model.vis.quality.offsamples
        size = buffer.offheight, buffer.offwidth
        buffer.offheight, buffer.offwidth = height, width
        model.vis.quality.offsamples = samples if self._quality == "full" else 0
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        buffer.offheight, buffer.offwidth = size  # other views are made of the same model
        model.vis.quality.offsamples = samples
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self._model, maxgeom=_MAX_GEOMS)
        if self._quality != "full":
            for name in _COSTLY:
                self._scene.flags[getattr(mujoco.mjtRndFlag, name)] = 0
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # robosuite's collision geoms
        self._free = weakref.finalize(self, _free_context, self._gl, self._context)
        # mujoco ends EGL at exit. Registered after that, this runs before it; finalize's may not.
        self._free.atexit = False
        atexit.register(self._free)

    def _picture(self, camera: Any, height: int, width: int) -> NDArray[np.uint8]:
        if self._free is None:
            self._open()
        self._gl.make_current()
        mujoco = self._mujoco
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, None, camera, everything, self._scene
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        picture = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, viewport, self._context)
        return picture[::-1]  # OpenGL's first row is the lowest


def _free_context(gl: Any, context: Any) -> None:
    gl.make_current()
    context.free()
    gl.free()
