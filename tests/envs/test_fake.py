from __future__ import annotations

import numpy as np
import pytest

from marlcore.config import FakeConfig
from marlcore.envs.fake import RADIUS, SPEED, FakeEnv


def make(**settings: int) -> FakeEnv:
    return FakeEnv(FakeConfig(kind="fake", **settings), seed=0)


def test_the_optimal_actions_reach_every_target() -> None:
    env = make(num_agents=3)
    env.reset(1)
    results = [env.step(env.optimal_actions()) for _ in range(25)]
    rewards = [result.reward for result in results]
    assert rewards == sorted(rewards)
    assert rewards[-1] == pytest.approx(0, abs=1e-6)
    assert results[-1].success and not results[-1].terminated


def test_the_optimal_actions_beat_random_ones_from_every_start() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        totals = []
        for choose in (FakeEnv.optimal_actions, lambda _: rng.uniform(-1, 1, (2, 2))):
            env = make()
            env.reset(seed)
            totals.append(sum(env.step(choose(env)).reward for _ in range(20)))
        assert totals[0] > totals[1]


def test_the_reward_is_minus_the_mean_distance() -> None:
    env = make()
    env.reset(4)
    before = env.observe()["state"].reshape(2, 2, 2)
    reward = env.step(np.array([[1, 0], [0, -1]], np.float32)).reward
    points = before[0] + SPEED * np.array([[1, 0], [0, -1]])
    distances = np.linalg.norm(points - before[1], axis=1)
    assert reward == pytest.approx(-distances.mean(), abs=1e-6)


def test_an_agent_sees_all_targets_and_its_own_point_only() -> None:
    env = make(num_agents=3)
    env.reset(0)
    observation = env.observe()
    points, targets = observation["state"].reshape(2, 3, 2)
    np.testing.assert_array_equal(observation["proprio"], points)
    np.testing.assert_array_equal(
        observation["vector"][1], np.concatenate((points[1], targets[[1, 0, 2]]), axis=None)
    )
    visible = env.spec.visible
    assert visible is not None
    assert visible[0, 1].tolist() == [False, False] + [True] * 6
    assert visible[1, 1].all()


def test_success_means_that_all_are_near() -> None:
    env = make(num_agents=2)
    env.reset(3)
    for _ in range(30):
        actions = env.optimal_actions()
        actions[1] = 0
        result = env.step(actions)
    distance = np.linalg.norm(np.subtract(*env.observe()["state"].reshape(2, 2, 2)), axis=1)
    assert distance[0] < RADIUS < distance[1]
    assert not result.success


def test_images_show_the_point_red_and_its_target_green() -> None:
    env = make(image_size=16)
    env.reset(0)
    images = env.observe()["images"]
    assert images.shape == (2, 1, 16, 16, 3) and images.dtype == np.uint8
    assert (images[:, 0, :, :, 0] == 255).sum(axis=(1, 2)).tolist() == [1, 1]
    assert (images[:, 0, :, :, 1] == 255).sum(axis=(1, 2)).tolist() == [1, 1]
    env.step(np.ones((2, 2), np.float32))
    assert (env.observe()["images"] != images).any()
