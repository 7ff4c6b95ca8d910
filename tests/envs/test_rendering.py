import gc
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from marlcore.config import PegInHoleConfig
from marlcore.envs import meshes
from marlcore.envs.peg_in_hole import PegInHoleEnv
from tests.envs.test_peg_in_hole import random_actions

CAMERAS = ("robot1_eye_in_hand", "frontview", "robot0_eye_in_hand")


@pytest.fixture(scope="module")
def env() -> Any:
    """Pictures small enough to be quick."""
    made = PegInHoleEnv(PegInHoleConfig(cameras=CAMERAS, image_size=48), seed=3)
    yield made
    made.close()


def test_agents_see_the_shared_cameras_and_their_own(env: PegInHoleEnv) -> None:
    env.reset(0)
    images = env.observe()["images"]
    assert images.shape == (2, 2, 48, 48, 3)
    np.testing.assert_array_equal(images[0, 0], images[1, 0])
    assert (images[0, 1] != images[1, 1]).any()


def test_pictures_are_upright(env: PegInHoleEnv) -> None:
    env.reset(0)
    picture = env.observe()["images"][0, 0].astype(np.int64)
    red = picture[..., 0] - picture[..., 1:].max(axis=-1) > 60  # the plate
    assert red.any()
    # The wall behind the arms is grey; the floor below them is brown wood.
    colour = picture.max(axis=-1) - picture.min(axis=-1)
    assert colour[:8].mean() < colour[-8:].mean()
    assert np.nonzero(red)[0].mean() > 24  # the plate hangs below the middle, where frontview looks


def test_pictures_survive_resets_other_environments_and_garbage_collection(
    env: PegInHoleEnv,
) -> None:
    env.reset(4)
    before = env.observe()["images"]
    assert before.std() > 20
    for _ in range(2):
        other = PegInHoleEnv(PegInHoleConfig(cameras=("frontview",), image_size=48), seed=3)
        other.reset(4)
        np.testing.assert_array_equal(other.observe()["images"][0, 0], before[0, 0])
        del other  # without close: what it held is freed by the collector
        gc.collect()
        for seed in range(5):
            env.reset(seed)
        env.reset(4)
        np.testing.assert_array_equal(env.observe()["images"], before)


def test_render_needs_no_cameras_and_shows_the_scene() -> None:
    made = PegInHoleEnv(PegInHoleConfig(), seed=0)
    made.reset(0)
    picture = made.render()
    assert picture.shape == (480, 640, 3) and picture.dtype == np.uint8
    assert picture.std() > 20
    made.close()
    made.close()


@pytest.fixture(scope="module")
def qualities() -> Any:
    """The same scene in every quality."""
    made = {
        quality: PegInHoleEnv(
            PegInHoleConfig(cameras=CAMERAS, image_size=84, render_quality=quality), seed=3
        )
        for quality in ("full", "fast", "lite")
    }
    yield made
    for one in made.values():
        one.close()


def test_full_is_robosuites_picture_pixel_for_pixel() -> None:
    """In another process: robosuite's renderer, when freed, spoils the pictures of others."""
    program = "from tests.envs.test_rendering import compare_with_robosuite as f; f()"
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "4 pictures are equal", done.stderr


def compare_with_robosuite() -> None:
    import robosuite

    env = PegInHoleEnv(PegInHoleConfig(cameras=CAMERAS, image_size=84), seed=3)
    stock = robosuite.make(
        "TwoArmPegInHole",
        robots=["Panda", "Panda"],
        gripper_types=None,
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names=list(CAMERAS),
        camera_heights=84,
        camera_widths=84,
        seed=3,
    )
    env.reset(0)
    for actions in random_actions(0, 3):
        env.step(actions)
    stock.sim.model._model.geom_size[:] = env._model.geom_size  # the peg
    stock.visualize(dict.fromkeys(stock._visualizations, False))  # as its steps do
    stock.sim.data.qpos[:] = env._data.qpos
    stock.sim.forward()
    env._mujoco.mj_forward(env._model, env._data)
    images = env.observe()["images"]
    num_equal = 0
    for agent, row in enumerate(env._cameras):
        for slot, name in enumerate(row):
            expected = stock.sim.render(camera_name=name, height=84, width=84)[::-1]
            num_equal += np.array_equal(images[agent, slot], expected)
    print(f"{num_equal} pictures are equal", flush=True)
    os._exit(0)


@pytest.mark.parametrize(("quality", "most"), [("fast", 8.0), ("lite", 16.0)])
def test_cheaper_pictures_show_the_same_scene(
    qualities: dict[str, PegInHoleEnv], quality: str, most: float
) -> None:
    pictures: list[np.ndarray] = []
    for name in ("full", quality):
        env = qualities[name]
        env.reset(1)
        trajectory = [env.step(actions).reward for actions in random_actions(1, 3)]
        pictures += [env.observe()["images"].astype(int), np.array(trajectory)]
    full, expected, seen, rewards = pictures
    np.testing.assert_array_equal(rewards, expected)  # the physics knows nothing of it
    assert 0 < np.abs(seen - full).mean() < most
    for picture in (full, seen):
        front = picture[0, 0]
        red = front[..., 0] - front[..., 1:].max(axis=-1) > 60  # the plate
        assert red.sum() > 100
    assert qualities[quality].render().std() > 20  # people see it in full
    np.testing.assert_array_equal(qualities[quality].render(), qualities["full"].render())


def test_what_draws_is_told(env: PegInHoleEnv) -> None:
    assert re.match(r"(egl|osmesa|glfw|cgl), \S", env._agent_views.renderer())


def test_vertices_of_a_cell_become_one_and_faces_are_kept_once() -> None:
    vertices = np.array(
        [[0, 0, 0], [0.001, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32
    )
    faces = np.array([[0, 2, 3], [3, 1, 2], [0, 1, 4], [0, 3, 4], [4, 0, 3]])
    merged, kept = meshes.merge(vertices, faces, 0.1)
    np.testing.assert_allclose(merged.min(axis=0), [0, 0, 0])
    assert len(merged) == 4
    assert len(kept) == 2  # the third had no area, the second and the last are there twice
    normals, corners = meshes.shade(merged, kept)
    np.testing.assert_allclose(
        np.linalg.norm(normals[corners].reshape(-1, 3), axis=1), 1, rtol=1e-6
    )
    front = merged[kept]
    flat = np.cross(front[:, 1] - front[:, 0], front[:, 2] - front[:, 0])
    assert ((normals[corners] * flat[:, None]).sum(axis=-1) > 0).all()


def test_coarse_meshes_have_a_fraction_of_the_faces_and_stay_where_they_were(
    env: PegInHoleEnv,
) -> None:
    model = env._model
    coarse = meshes.coarse_model(model)
    assert coarse.mesh_facenum.sum() < 0.06 * model.mesh_facenum.sum()
    for name in ("geom_size", "body_mass", "geom_pos"):
        np.testing.assert_array_equal(getattr(coarse, name), getattr(model, name))
    for mesh in range(model.nmesh):
        before, after = (meshes._part(one, mesh, "vert") for one in (model, coarse))
        np.testing.assert_allclose(after.min(axis=0), before.min(axis=0), atol=meshes.CELL_M)
        np.testing.assert_allclose(after.max(axis=0), before.max(axis=0), atol=meshes.CELL_M)
        assert np.ptp(after, axis=0).max() > 0.6 * np.ptp(before, axis=0).max()
