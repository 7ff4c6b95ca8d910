"""What holds for every StepEnv: the same suite for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from marlcore.config import EnvConfig
from marlcore.envs import Observation, StepEnv, StepResult, make_decision_env, make_step_env

RENDERED = {"render_mode": "rgb_array"}
KINDS: dict[str, dict[str, Any]] = {
    "fake": {"kind": "fake"},
    "fake with images": {"kind": "fake", "num_agents": 3, "image_size": 8},
    "partition": {"kind": "game", "game": "partition"},
    "sum_coordination": {"kind": "game", "game": "sum_coordination"},
    "climbing": {"kind": "game", "game": "climbing"},
    "penalty": {"kind": "game", "game": "penalty"},
    "simple_spread": {
        "kind": "pettingzoo",
        "factory": "mpe2.simple_spread_v3:parallel_env",
        "factory_kwargs": {"continuous_actions": True, **RENDERED},
    },
    "simple_speaker_listener, discrete": {
        "kind": "pettingzoo",
        "factory": "mpe2.simple_speaker_listener_v4:parallel_env",
        "factory_kwargs": RENDERED,
    },
    "peg_in_hole": {"kind": "peg_in_hole"},
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def config(request: pytest.FixtureRequest) -> EnvConfig:
    return TypeAdapter[EnvConfig](EnvConfig).validate_python(request.param)


@pytest.fixture(scope="module")
def env(config: EnvConfig) -> Iterator[StepEnv]:
    env = make_step_env(config, seed=2, index=0)
    yield env
    env.close()


def random_actions(env: StepEnv, rng: np.random.Generator) -> np.ndarray:
    spec = env.spec.actions
    shape = (env.spec.num_agents, spec.num_dims)
    if spec.kind == "discrete":
        return rng.integers(0, np.array(spec.sizes)[:, None], shape)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def play(env: StepEnv, seed: int, steps: int = 6) -> list[tuple[StepResult, Observation]]:
    rng = np.random.default_rng(seed)
    env.reset(seed)
    played: list[tuple[StepResult, Observation]] = []
    for _ in range(steps):
        result = env.step(random_actions(env, rng))
        played.append((result, env.observe()))
        if result.terminated or result.truncated:
            break
    return played


def assert_same(ours: Observation, theirs: Observation) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_observations_are_as_the_spec_says(env: StepEnv) -> None:
    spec = env.spec
    env.reset(0)
    for observation in (env.observe(), *(o for _, o in play(env, 1))):
        assert {"vector", "state"} <= observation.keys()
        assert {k: a.shape for k, a in observation.items()} == spec.observation_shapes
        assert {k: a.dtype.name for k, a in observation.items()} == spec.observation_dtypes
        assert all(np.isfinite(array).all() for array in observation.values())


def test_the_spec_is_consistent(env: StepEnv) -> None:
    spec = env.spec
    agents, width = spec.observation_shapes["vector"]
    assert agents == spec.num_agents == len(spec.actions.sizes)
    assert spec.chunk_length == 1
    assert len(spec.instructions) in (0, agents)
    if spec.visible is not None:
        assert spec.visible.shape == (agents, agents, width)
        assert spec.visible.dtype == np.bool_
        assert spec.visible[np.arange(agents), np.arange(agents)].all()


def test_results_are_plain_numbers_and_flags(env: StepEnv) -> None:
    for result, _ in play(env, 2):
        assert isinstance(result.reward, float) and np.isfinite(result.reward)
        for flag in (result.terminated, result.truncated, result.success):
            assert isinstance(flag, bool)
        assert env.spec.has_success or not result.success
        if result.active is not None:
            assert result.active.shape == (env.spec.num_agents,)


def test_an_episode_depends_on_its_seed_and_not_on_earlier_episodes(env: StepEnv) -> None:
    first = play(env, 3)
    play(env, 4)
    for (result, observation), (again, same) in zip(first, play(env, 3), strict=True):
        assert (result.reward, result.terminated) == (again.reward, again.terminated)
        assert_same(observation, same)


def test_another_copy_plays_the_same(env: StepEnv, config: EnvConfig) -> None:
    copy = make_step_env(config, seed=2, index=0)
    for (_, observation), (_, same) in zip(play(env, 5), play(copy, 5), strict=True):
        assert_same(observation, same)
    assert copy.spec == env.spec
    copy.close()


def test_observe_returns_fresh_arrays_and_changes_nothing(env: StepEnv) -> None:
    env.reset(6)
    first = env.observe()
    kept = {name: array.copy() for name, array in first.items()}
    second = env.observe()
    assert_same(first, second)
    env.step(random_actions(env, np.random.default_rng(0)))
    assert_same(first, kept)
    for name, array in second.items():
        assert not np.shares_memory(array, first[name])


def test_actions_are_left_as_they_were(env: StepEnv) -> None:
    env.reset(7)
    actions = random_actions(env, np.random.default_rng(1))
    kept = actions.copy()
    env.step(actions)
    np.testing.assert_array_equal(actions, kept)


def test_a_picture_is_an_rgb_array(config: EnvConfig) -> None:
    # Its own copy: in mpe2, closing one environment takes the fonts from the others.
    env = make_step_env(config, seed=2, index=0)
    env.reset(8)
    picture = env.render()
    env.close()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3


def test_a_decision_can_be_replayed(config: EnvConfig) -> None:
    config = config.model_copy(update={"num_actions_chunk": 2, "history_length": 2})
    ours, theirs = (make_decision_env(config, seed=0, index=1) for _ in range(2))
    last = ours.reset(0)
    spec = ours.spec
    zeros = np.zeros((spec.num_agents, 2, spec.actions.num_dims))
    if spec.actions.kind == "discrete":
        zeros = zeros.astype(np.int64)
    transition = ours.step(zeros)
    last = transition.observation if transition.episode is None else ours.reset(1)
    restored = theirs.load_state_dict(ours.state_dict())
    assert_same(last, restored)
    assert {k: a.shape for k, a in restored.items()} == spec.observation_shapes
    ours.close()
    theirs.close()
