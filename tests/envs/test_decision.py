from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marlcore.envs import DecisionEnv
from marlcore.envs.decision import derive_seeds
from marlcore.envs.protocol import ActionSpec, EnvSpec, Observation, StepResult


class Counter:
    """Two agents, rewards 1, 2, 3, ...; agent 1 leaves after `leaves_at` steps."""

    def __init__(
        self,
        ends_at: int = 99,
        *,
        leaves_at: int = 99,
        truncates: bool = False,
        clip: bool = True,
        noise: bool = False,
    ) -> None:
        self.ends_at, self.leaves_at, self.truncates = ends_at, leaves_at, truncates
        self.noise = noise
        self.received: list[NDArray[np.generic]] = []
        self.spec = EnvSpec(
            num_agents=2,
            actions=ActionSpec(kind="continuous", sizes=(1, 1), clip=clip),
            observation_shapes={"vector": (2, 2), "state": (1,)},
            observation_dtypes={"vector": "float32", "state": "float32"},
            has_success=True,
        )

    def reset(self, seed: int) -> None:
        self.seed, self.steps, self.total = seed, 0, np.float32(0)

    def step(self, actions: NDArray[np.generic]) -> StepResult:
        self.received.append(actions.copy())
        active = None if self.steps < self.leaves_at else np.array([True, False])
        self.steps += 1
        self.total += actions.sum()
        return StepResult(
            reward=float(self.steps),
            terminated=self.steps == self.ends_at and not self.truncates,
            truncated=self.steps == self.ends_at and self.truncates,
            success=self.steps == 2,
            active=active,
        )

    def observe(self) -> Observation:
        noise = np.random.default_rng().uniform() if self.noise else 0
        vector = np.full((2, 2), self.steps, np.float32)
        vector[:, 1] = self.total + noise
        return {"vector": vector, "state": np.full(1, self.seed % 1000, np.float32)}

    def render(self) -> NDArray[np.uint8]:
        return np.zeros((4, 4, 3), np.uint8)

    def close(self) -> None:
        pass


def decisions(env: Counter, *, k: int = 1, x: int | None = None, **more: object) -> DecisionEnv:
    arguments = {
        "chunk_length": k,
        "executed_length": x or k,
        "history_length": 1,
        "max_episode_steps": 50,
        "chunk_gamma": 1.0,
        "seed": 7,
        "index": 0,
        **more,
    }
    return DecisionEnv(env, **arguments)  # type: ignore[arg-type]


def actions(k: int = 1, value: float = 0.5) -> NDArray[np.float32]:
    return np.full((2, k, 1), value, np.float32)


def test_the_reward_is_the_weighted_sum_of_the_executed_steps() -> None:
    env = decisions(Counter(), k=4, x=3, chunk_gamma=0.5)
    env.reset(0)
    transition = env.step(actions(4))
    assert transition.reward == 1 + 0.5 * 2 + 0.25 * 3
    assert transition.num_env_steps == 3
    assert transition.executed_length.tolist() == [3, 3]
    # The weights start again with each decision: 4 + 0.5 * 5 + 0.25 * 6.
    assert env.step(actions(4)).reward == 8.0


def test_an_episode_that_ends_inside_a_chunk_runs_no_further() -> None:
    simulator = Counter(ends_at=2)
    env = decisions(simulator, k=4)
    env.reset(0)
    transition = env.step(actions(4))
    assert len(simulator.received) == 2
    assert transition.terminated and not transition.truncated
    assert transition.executed_length.tolist() == [2, 2]
    assert transition.episode is not None
    assert (transition.episode.length, transition.episode.episode_return) == (2, 3.0)
    assert transition.observation["vector"][0, 0, 0] == 2


def test_the_time_limit_truncates_inside_a_chunk() -> None:
    env = decisions(Counter(), k=4, max_episode_steps=6)
    env.reset(0)
    assert env.step(actions(4)).episode is None
    transition = env.step(actions(4))
    assert transition.truncated and not transition.terminated
    assert transition.executed_length.tolist() == [2, 2]


def test_termination_wins_over_the_time_limit() -> None:
    env = decisions(Counter(ends_at=3), k=4, max_episode_steps=3)
    env.reset(0)
    transition = env.step(actions(4))
    assert transition.terminated and not transition.truncated


def test_the_simulators_own_limit_truncates() -> None:
    env = decisions(Counter(ends_at=3, truncates=True), k=4)
    env.reset(0)
    transition = env.step(actions(4))
    assert transition.truncated and not transition.terminated


def test_an_agent_that_has_left_executes_nothing() -> None:
    env = decisions(Counter(leaves_at=2), k=3)
    env.reset(0)
    assert env.step(actions(3)).executed_length.tolist() == [3, 2]
    assert env.step(actions(3)).executed_length.tolist() == [3, 0]


@pytest.mark.parametrize("clip", [True, False])
def test_actions_are_clipped_exactly_where_the_spec_says_so(clip: bool) -> None:
    simulator = Counter(clip=clip)
    env = decisions(simulator)
    env.reset(0)
    given_actions = np.array([[[-3.0]], [[0.25]]], np.float32)
    env.step(given_actions)
    assert simulator.received[0].tolist() == [[-1.0 if clip else -3.0], [0.25]]
    assert given_actions[0, 0, 0] == -3.0
    assert simulator.received[0].dtype == np.float32


def test_history_holds_one_observation_a_decision_newest_first() -> None:
    env = decisions(Counter(), k=2, history_length=3)
    seen = [env.reset(0)] + [env.step(actions(2)).observation for _ in range(3)]
    assert [o["vector"][0, :, 0].tolist() for o in seen] == [
        [0, 0, 0],
        [2, 0, 0],
        [4, 2, 0],
        [6, 4, 2],
    ]
    assert seen[0]["state"].shape == (3, 1)
    assert env.reset(1)["vector"][0, :, 0].tolist() == [0, 0, 0]


def test_success_is_reported_at_some_step_and_at_the_last() -> None:
    for ends_at, held in ((2, True), (4, False)):
        env = decisions(Counter(ends_at=ends_at), k=4)
        env.reset(0)
        episode = env.step(actions(4)).episode
        assert episode is not None and episode.success and episode.success_held is held


def test_episodes_are_seeded_by_seed_index_and_number_alone() -> None:
    def seeds(seed: int, index: int, numbers: list[int]) -> list[int]:
        simulator = Counter()
        env = decisions(simulator, seed=seed, index=index)
        found: list[int] = []
        for number in numbers:
            env.reset(number)
            found.append(simulator.seed)
        return found

    straight = seeds(7, 0, list(range(200)))
    assert len(set(straight)) == 200
    assert seeds(7, 0, [150, 3, 64, 63]) == [straight[i] for i in (150, 3, 64, 63)]
    assert not set(straight) & set(seeds(7, 1, list(range(200))))
    assert not set(straight) & set(seeds(8, 0, list(range(200))))
    assert not set(straight) & set(derive_seeds(7, 0, 0))


@settings(deadline=None, max_examples=30)
@given(
    values=st.lists(st.floats(-2, 2, width=32), max_size=6),
    k=st.integers(1, 3),
    history_length=st.integers(1, 3),
)
def test_a_restored_environment_is_where_it_was(
    values: list[float], k: int, history_length: int
) -> None:
    def make() -> DecisionEnv:
        return decisions(Counter(), k=k, history_length=history_length)

    first = make()
    last = first.reset(5)
    for value in values:
        last = first.step(actions(k, value)).observation
    second = make()
    restored = second.load_state_dict(first.state_dict())
    for name, array in restored.items():
        np.testing.assert_array_equal(array, last[name])
    ours, theirs = (env.step(actions(k)) for env in (first, second))
    assert ours.reward == theirs.reward
    np.testing.assert_array_equal(ours.observation["vector"], theirs.observation["vector"])
    assert second.episode_number == 5


def test_a_simulator_that_repeats_itself_differently_is_refused() -> None:
    env = decisions(Counter(noise=True), index=4)
    env.reset(0)
    env.step(actions())
    with pytest.raises(RuntimeError, match=r"environment 4 is not deterministic.*vector differs"):
        decisions(Counter(noise=True), index=4).load_state_dict(env.state_dict())


def test_a_state_of_another_chunk_length_is_refused() -> None:
    env = decisions(Counter(), k=2)
    env.reset(0)
    env.step(actions(2))
    with pytest.raises(ValueError, match=r"\(2, 2, 1\), not \(2, 3, 1\)"):
        decisions(Counter(), k=3).load_state_dict(env.state_dict())


def test_declared_sharing_makes_everything_visible() -> None:
    assert decisions(Counter()).spec.visible is None
    visible = decisions(Counter(), observations_shared=True).spec.visible
    assert visible is not None and visible.shape == (2, 2, 2) and visible.all()
