import gc
from typing import Any

import numpy as np
import pytest

from marlcore.config import PegInHoleConfig
from marlcore.envs.peg_in_hole import PegInHoleEnv

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
