from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from marlcore.config import GameConfig
from marlcore.envs.games import GameEnv


def make(game: str, num_agents: int | None = None) -> GameEnv:
    config = GameConfig(kind="game", game=game, num_agents=num_agents)  # type: ignore[arg-type]
    return GameEnv(config, seed=0)


def play(env: GameEnv, *actions: float) -> float:
    dtype = np.int64 if env.spec.actions.kind == "discrete" else np.float32
    result = env.step(np.array(actions, dtype)[:, None])
    assert result.terminated
    return result.reward


def test_partition_pays_those_who_differ() -> None:
    env = make("partition")
    env.reset(0)
    assert [play(env, *joint) for joint in product((0, 1), repeat=2)] == [0, 1, 1, 0]
    assert env.step(np.array([[0], [1]])).success
    assert not env.step(np.array([[1], [1]])).success


@pytest.mark.parametrize(("game", "best", "optima"), [("climbing", 11, 1), ("penalty", 10, 2)])
def test_success_in_a_matrix_game_is_its_optimum(game: str, best: float, optima: int) -> None:
    env = make(game)
    env.reset(0)
    results = [env.step(np.array([[i], [j]])) for i, j in product(range(3), repeat=2)]
    assert max(result.reward for result in results) == best
    assert [result.reward == best for result in results] == [r.success for r in results]
    assert sum(result.success for result in results) == optima


def test_climbing_and_penalty_pay_as_published() -> None:
    climbing, penalty = make("climbing"), make("penalty")
    assert [play(climbing, *j) for j in ((0, 0), (0, 1), (1, 1), (2, 1), (2, 2))] == [
        11,
        -30,
        7,
        6,
        5,
    ]
    assert [play(penalty, *j) for j in ((0, 0), (0, 2), (1, 1), (2, 2))] == [-25, 10, 2, -25]


def test_sum_coordination_is_solved_by_adding_up_to_n_times_s() -> None:
    env = make("sum_coordination")
    env.reset(5)
    s = float(env.observe()["state"][0])
    assert -1 < s < 1
    assert play(env, s, s, s, s) == pytest.approx(0, abs=1e-12)
    # (4 s + 2 - 4 s)^2 / 4 = 1
    assert play(env, s + 2, s, s, s) == pytest.approx(-1, abs=1e-6)


def test_sum_coordination_draws_a_new_s_for_every_seed() -> None:
    env = make("sum_coordination", num_agents=7)
    drawn = []
    for seed in range(50):
        env.reset(seed)
        observation = env.observe()
        assert (observation["vector"] == observation["state"]).all()
        drawn.append(float(observation["state"][0]))
    assert len(set(drawn)) == 50
    assert env.spec.num_agents == 7 and not env.spec.actions.clip and not env.spec.has_success


@pytest.mark.parametrize("game", ["partition", "sum_coordination", "climbing", "penalty"])
def test_everything_is_visible(game: str) -> None:
    visible = make(game).spec.visible
    assert visible is not None and visible.all()
