"""gymnasium environments with tuples of spaces as a ParallelEnv; public environments of configs."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from experiments._named_public import PUBLIC
from marlcore.config import PettingZooConfig
from marlcore.envs.gymnasium_tuples import TupleEnv, parallel_env
from marlcore.envs.make import make_decision_env

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports games by their old names
    from pettingzoo.test import parallel_api_test


class Counters(gymnasium.Env[Any, Any]):
    """Two agents count to their own number; flags are single or one each."""

    def __init__(self, *, one_flag_each: bool = False) -> None:
        box = spaces.Box(0, 9, (1,), np.float32)
        self.observation_space = spaces.Tuple([box, spaces.Box(0, 9, (2,), np.float32)])
        self.action_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])
        self._each, self.counts = one_flag_each, [0, 0]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.counts = [0, 0]
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.counts = [min(9, count + int(a)) for count, a in zip(self.counts, action, strict=True)]
        over = sum(self.counts) >= 9
        flags = ([over] * 2, [False] * 2) if self._each else (over, False)
        return self._seen(), [float(action[0]), 2.0 * float(action[1])], *flags, {}

    def _seen(self) -> Any:
        first, second = self.counts
        return (np.array([first], np.float32), np.array([second, first], np.float32))


@pytest.mark.parametrize("one_flag_each", [False, True])
def test_the_adapter_is_a_parallel_env(one_flag_each: bool) -> None:
    parallel_api_test(TupleEnv(Counters(one_flag_each=one_flag_each)), num_cycles=50)


def test_rewards_and_ends_are_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    env = TupleEnv(Counters())
    seen, _ = env.reset(seed=0)
    assert [array.tolist() for array in seen.values()] == [[0.0], [0.0, 0.0]]
    seen, rewards, terminated, truncated, _ = env.step({"agent_0": 1, "agent_1": 2})
    assert rewards == {"agent_0": 1.0, "agent_1": 4.0}
    assert not any(terminated.values()) and not any(truncated.values())
    env.step({"agent_0": 1, "agent_1": 2})
    _, _, terminated, _, _ = env.step({"agent_0": 1, "agent_1": 2})
    assert all(terminated.values()) and env.agents == []


def test_what_is_no_tuple_or_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="takes Tuples"):
        parallel_env("CartPole-v1")
    with pytest.raises(ValueError, match="gymnasium makes no"):
        parallel_env("rware:rware-tini-4ag-v2")


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_environments_of_the_named_configs_run(name: str) -> None:
    config = PettingZooConfig.model_validate(PUBLIC[name]["env"], strict=False)
    env = make_decision_env(config, seed=0, index=0)
    try:
        first = {key: array.copy() for key, array in env.reset(0).items()}
        spec, generator = env.spec, np.random.default_rng(0)
        for _ in range(30):
            if spec.actions.kind == "discrete":
                actions = np.array([[[generator.integers(size)]] for size in spec.actions.sizes])
            else:
                shape = (spec.num_agents, 1, spec.actions.num_dims)
                actions = generator.uniform(-1, 1, shape).astype(np.float32)
            transition = env.step(actions)
            assert np.isfinite(transition.reward)
            if transition.episode is not None:
                env.reset(1)
        again = env.reset(0)
        for key, array in first.items():  # an episode follows from its number
            np.testing.assert_array_equal(again[key], array)
    finally:
        env.close()
