from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from marlcore.config import FakeConfig, GameConfig, PegInHoleConfig, PettingZooConfig
from marlcore.envs.parallel import parallel_env
from marlcore.envs.pettingzoo import PettingZooEnv

with warnings.catch_warnings():
    # It imports an example in a way that it deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import parallel_api_test, parallel_seed_test


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def make(factory: str, *, team_reward: str = "mean", **kwargs: Any) -> PettingZooEnv:
    factory = factory if ":" in factory else f"tests.envs.zoo:{factory}"
    config = PettingZooConfig(
        kind="pettingzoo",
        factory=factory,
        factory_kwargs=kwargs,
        team_reward=team_reward,  # type: ignore[arg-type]
    )
    return PettingZooEnv(config, seed=0)


def received(env: PettingZooEnv) -> dict[str, Any]:
    inner: Any = env._env
    return inner.received[-1]


def test_observations_are_flattened_and_padded_with_zeros() -> None:
    env = make("leaving")
    assert env.spec.observation_shapes == {"vector": (3, 4), "state": (9,)}
    vector, state = env.observe()["vector"], env.observe()["state"]
    assert (vector[0, :2] >= 1).all() and (vector[0, 2:] == 0).all()
    assert (vector[1, :3] >= 1).all() and vector[1, 3] == 0
    assert sorted(vector[2]) == [0, 0, 0, 1]
    np.testing.assert_array_equal(state, np.r_[vector[0, :2], vector[1, :3], vector[2]])


def test_dicts_are_flattened_as_gymnasium_does() -> None:
    env = make("observing", kind="dict")
    inner: Any = env._env
    flat = spaces.flatten(inner.observed["second"], env._observations["second"])
    np.testing.assert_array_equal(env.observe()["vector"][1], flat)
    assert make("observing", kind="multi").spec.observation_shapes["vector"] == (2, 5)


def test_an_agent_that_leaves_observes_zeros_and_is_inactive() -> None:
    env = make("leaving")
    env.reset(0)
    actions = np.ones((3, 1), np.int64)
    assert env.step(actions).active is None
    # It was there in its last step, which counts; what it saw then is no one's successor.
    assert env.step(actions).active is None
    assert (env.observe()["vector"][1] == 0).all()
    last = env.step(actions)
    assert last.active is not None and last.active.tolist() == [True, False, True]
    assert last.terminated and not last.truncated
    assert (env.observe()["vector"][[0, 2]] != 0).any(axis=1).all()
    assert set(received(env)) == {"first", "third"}


@pytest.mark.parametrize("settings", [{"early": "truncated"}, {"late": "truncated"}])
def test_an_episode_in_which_an_agent_was_truncated_is_truncated(settings: dict[str, str]) -> None:
    env = make("leaving", **settings)
    env.reset(0)
    results = [env.step(np.ones((3, 1), np.int64)) for _ in range(3)]
    assert [r.terminated or r.truncated for r in results] == [False, False, True]
    assert results[-1].truncated


def test_the_teams_reward_is_the_mean_over_all_agents_or_the_sum() -> None:
    for team_reward, expected in (("mean", [2.0, 2.0, 4 / 3]), ("sum", [6.0, 6.0, 4.0])):
        env = make("leaving", team_reward=team_reward)
        env.reset(0)
        rewards = [env.step(np.ones((3, 1), np.int64)).reward for _ in range(3)]
        assert rewards == pytest.approx(expected)


def test_discrete_actions_start_where_their_space_does() -> None:
    env = make("leaving")
    env.reset(0)
    env.step(np.array([[0], [1], [0]]))
    assert received(env) == {"first": 5, "second": 6, "third": 5}


def test_bounded_actions_reach_their_bounds_at_minus_one_and_one() -> None:
    env = make("acting", kind="bounded")
    assert env.spec.actions.sizes == (2, 1) and env.spec.actions.clip
    for value, first, second in ((-1, [0, -4], -1), (0, [0.5, 1], 0), (1, [1, 6], 1)):
        env.reset(0)
        env.step(np.full((2, 2), value, np.float32))
        assert received(env)["first"].tolist() == first
        assert received(env)["second"].tolist() == [[second]]
        assert received(env)["second"].dtype == np.float64


def test_unbounded_actions_are_passed_on_as_they_are() -> None:
    env = make("acting", kind="unbounded")
    assert not env.spec.actions.clip
    env.reset(0)
    env.step(np.array([[3, -7], [9, 0]], np.float32))
    assert received(env)["first"].tolist() == [3, -7]
    assert received(env)["second"].tolist() == [9]


@pytest.mark.parametrize("kind", ["mixed bounds", "half bounded"])
def test_actions_bounded_here_and_there_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="bounds everywhere or nowhere"):
        make("acting", kind=kind)


@pytest.mark.parametrize("kind", ["mixed kinds", "integers", "multi"])
def test_other_action_spaces_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="all Discrete or all Box of floats"):
        make("acting", kind=kind)


def test_unsupported_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="second observes an action_mask"):
        make("observing", kind="mask")
    with pytest.raises(ValueError, match=r"second observes Text.*supported are Box"):
        make("observing", kind="text")


def test_an_environment_may_have_a_state_and_say_who_sees_what() -> None:
    env = make("seen")
    assert env.observe()["state"].tolist() == [0, 1, 2, 3]
    assert env.spec.visible is not None
    assert env.spec.visible[:, :, 0].tolist() == [[True, False], [False, True]]
    assert make("leaving").spec.visible is None
    with pytest.raises(
        ValueError, match=r"`visible` is bool\[2, 2, 3\]; it must be bool\[2, 2, 2\]"
    ):
        make("seen", width=3)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no.such.module:make", "cannot be imported"),
        ("no_such_function", "cannot be imported"),
        ("nothing", "made a object, not a pettingzoo.ParallelEnv"),
    ],
)
def test_a_factory_that_makes_no_parallel_env_is_refused(factory: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(factory)


def test_arguments_that_the_factory_does_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"does not take env.factory_kwargs .*colour"):
        make("seen", colour="red")


def test_without_a_render_mode_a_picture_is_refused() -> None:
    env = make("mpe2.simple_spread_v3:parallel_env")
    env.reset(0)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="render_mode"):
        warnings.simplefilter("ignore")
        env.render()


CONFIGS = {
    "fake": FakeConfig(kind="fake", max_episode_steps=9),
    "sum_coordination": GameConfig(kind="game", game="sum_coordination"),
    "climbing": GameConfig(kind="game", game="climbing"),
    "peg_in_hole": PegInHoleConfig(max_episode_steps=5),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_our_environments_pass_pettingzoos_own_tests(config: Any) -> None:
    env = parallel_env(config, render_mode="rgb_array")
    parallel_api_test(env, num_cycles=20)
    env.reset(seed=0)
    assert env.render().dtype == np.uint8
    env.close()
    parallel_seed_test(lambda: parallel_env(config), num_cycles=8)


def test_as_a_parallel_env_all_agents_are_truncated_at_the_limit() -> None:
    env = parallel_env(CONFIGS["fake"])
    env.reset(seed=1)
    for step in range(1, 10):
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        _, rewards, terminations, truncations, _ = env.step(actions)
        assert len(set(rewards.values())) == 1
        assert set(truncations.values()) == {step == 9}
        assert not any(terminations.values())
    assert env.agents == []
    assert env.state().shape == env.state_space.shape


def test_pictures_need_a_render_mode() -> None:
    with pytest.raises(ValueError, match="rgb_array"):
        parallel_env(CONFIGS["fake"]).render()
    with pytest.raises(ValueError, match="'human'"):
        parallel_env(CONFIGS["fake"], render_mode="human")
