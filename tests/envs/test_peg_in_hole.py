import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from marlcore.config import PegInHoleConfig, RewardWeights
from marlcore.envs import rewards
from marlcore.envs.observations import axis_angle
from marlcore.envs.peg_in_hole import PegInHoleEnv
from marlcore.envs.simulator import make_simulator

WITH_GRIPPERS = ("TwoArmLift", "TwoArmHandover", "TwoArmTransport")


@pytest.fixture(scope="module")
def env() -> Any:
    """State observations, robosuite's dense reward."""
    made = PegInHoleEnv(PegInHoleConfig(reward="dense"), seed=3)
    yield made
    made.close()


def random_actions(seed: int, num_steps: int, num_dims: int = 6) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (num_steps, 2, num_dims)).astype(np.float32)


def trajectory(env: PegInHoleEnv, *, seed: int, num_steps: int = 8) -> str:
    """Digest of every bit of an episode with random actions."""
    digest = hashlib.sha256()
    env.reset(seed)
    num_dims = env.spec.actions.num_dims
    for action in random_actions(seed, num_steps, num_dims):
        result = env.step(action)
        digest.update(np.float64(result.reward).tobytes())
        digest.update(env._data.qpos.tobytes() + env._data.qvel.tobytes())
        for name in ("vector", "proprio", "state"):
            digest.update(env._vectors()[name].tobytes())
    return digest.hexdigest()


def put_peg_into_hole(env: PegInHoleEnv) -> None:
    """Move the plate in its arm's hand so that the hole is around the peg."""
    mujoco, model, data = env._mujoco, env._model, env._data
    peg, hole = env._bodies
    peg_mat = data.xmat[peg].reshape(3, 3)
    parent = int(model.body_parentid[hole])
    parent_mat = data.xmat[parent].reshape(3, 3)
    position = data.xpos[peg] - peg_mat[:, 0] * rewards.HOLE_OFFSET_M
    model.body_pos[hole] = parent_mat.T @ (position - data.xpos[parent])
    mujoco.mju_mat2Quat(model.body_quat[hole], (parent_mat.T @ peg_mat).ravel())
    mujoco.mj_forward(model, data)


@pytest.fixture(scope="module")
def stock() -> Any:
    """robosuite's own environment, which builds the model anew for every episode."""
    made = make_simulator(PegInHoleConfig(reward="dense"), seed=3)
    made.hard_reset = True
    yield made
    made.close()


@pytest.mark.parametrize("seed", [9, 11])
def test_episodes_equal_robosuites_own_after_a_hard_reset(
    env: PegInHoleEnv, stock: Any, seed: int
) -> None:
    stock.rng = np.random.default_rng(seed)
    stock.reset()
    env.reset(seed)
    one, other = env._model, stock.sim.model._model
    for name in ("geom_size", "geom_rbound", "geom_aabb", "body_mass", "body_inertia", "bvh_aabb"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-14)
    for name in ("body_invweight0", "dof_invweight0", "dof_M0", "body_subtreemass"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)
    for action in random_actions(seed, 10):
        seen, reward, _, _ = stock.step(action.ravel().astype(np.float64))
        result = env.step(action)
        assert result.reward == pytest.approx(reward, abs=1e-9)
        assert result.success == stock._check_success()
        vectors = env._vectors()
        own = [seen["robot0_proprio-state"], seen["robot1_proprio-state"]]
        assert own[0].shape == (46,)
        for agent in range(2):
            expected = np.concatenate([own[agent], seen["object-state"]])
            np.testing.assert_allclose(vectors["vector"][agent], expected, rtol=1e-6, atol=1e-6)
        expected = np.concatenate([*own, seen["object-state"]])
        np.testing.assert_allclose(vectors["state"], expected, rtol=1e-6, atol=1e-6)
    assert stock.sim.data._data.ncon == 0  # a contact would make any difference larger


def test_geometry_equals_robosuites_own(env: PegInHoleEnv) -> None:
    env.reset(5)
    for action in random_actions(5, 5):
        env.step(action)
        peg, hole = env._bodies
        data = env._data
        geometry = rewards.peg_geometry(
            peg_pos=data.xpos[peg],
            peg_mat=data.xmat[peg].reshape(3, 3),
            hole_pos=data.xpos[hole],
            hole_mat=data.xmat[hole].reshape(3, 3),
        )
        assert (geometry.t, geometry.d, geometry.cos) == env._env._compute_orientation()


def test_a_reset_depends_on_its_seed_alone(env: PegInHoleEnv) -> None:
    first = trajectory(env, seed=7)
    assert trajectory(env, seed=8) != first
    env.reset(9)
    for _ in range(20):
        env.step(np.ones((2, 6), dtype=np.float32))
    env.observe()
    assert trajectory(env, seed=7) == first


def test_another_process_runs_the_same_episode(env: PegInHoleEnv) -> None:
    program = (
        "from tests.envs.test_peg_in_hole import trajectory, PegInHoleConfig, PegInHoleEnv;"
        "env = PegInHoleEnv(PegInHoleConfig(reward='dense'), seed=3);"
        "print(trajectory(env, seed=7))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == trajectory(env, seed=7)
    assert done.stderr == ""


def test_every_reset_draws_the_pegs_radius_as_its_seed_says(env: PegInHoleEnv) -> None:
    radii: list[float] = []
    for seed in (1, 2, 1):
        env.reset(seed)
        radii.append(float(env._model.geom("peg_g0").size[0]))
    assert radii[0] == radii[2] != radii[1]
    assert all(0.015 <= radius <= 0.03 for radius in radii)


def test_the_specification_is_what_is_observed(env: PegInHoleEnv) -> None:
    env.reset(0)
    observation = env.observe()
    assert {name: array.shape for name, array in observation.items()} == (
        env.spec.observation_shapes
    )
    assert {name: array.dtype.name for name, array in observation.items()} == (
        env.spec.observation_dtypes
    )
    assert observation["vector"].shape == (2, 46 + 17)
    assert observation["state"].shape == (2 * 46 + 17,)
    assert env.spec.actions.sizes == (6, 6)
    assert len(env.spec.instructions) == 2


def test_proprio_is_position_axis_angle_and_two_zeros(env: PegInHoleEnv) -> None:
    made = PegInHoleEnv(PegInHoleConfig(observations="proprio"), seed=3)
    made.reset(1)
    env.reset(1)
    observation = made.observe()
    for agent, proprio in enumerate(observation["proprio"]):
        site = made._env.robots[agent].eef_site_id["right"]
        np.testing.assert_allclose(proprio[:3], made._data.site_xpos[site], rtol=1e-6)
        np.testing.assert_array_equal(proprio[6:], 0.0)
    np.testing.assert_array_equal(observation["vector"], observation["proprio"])
    np.testing.assert_array_equal(observation["state"], observation["proprio"].ravel())
    np.testing.assert_array_equal(observation["proprio"], env.observe()["proprio"])
    np.testing.assert_array_equal(made.spec.visible, np.eye(2, dtype=bool)[:, :, None].repeat(8, 2))
    made.close()


def test_axis_angle_of_a_hand_that_points_down_is_pi_about_x() -> None:
    np.testing.assert_allclose(axis_angle(np.array([1.0, 0, 0, 0])), [np.pi, 0, 0])
    np.testing.assert_allclose(axis_angle(np.array([0, 0, 0, 1.0])), 0)
    # A quarter turn about z: (0, 0, sin 45, cos 45).
    quarter = np.array([0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    np.testing.assert_allclose(axis_angle(quarter), [0, 0, np.pi / 2])


def test_agents_see_the_object_in_each_others_vector_and_no_more(env: PegInHoleEnv) -> None:
    visible = env.spec.visible
    assert visible is not None
    env.reset(2)
    before = env.observe()["vector"]
    # Arm 1's velocities and accelerations are its own: agent 0 must not see them change.
    env._data.qvel[7:14] += 0.5
    env._mujoco.mj_forward(env._model, env._data)
    changed = env.observe()["vector"][1] != before[1]
    assert changed.any()
    assert not (changed & visible[0, 1]).any()
    # Moving arm 1 moves the plate: agent 0 sees that, in the object's entries of either vector.
    env._data.qpos[7:14] += 0.2
    env._mujoco.mj_forward(env._model, env._data)
    moved = env.observe()["vector"]
    assert ((moved[1] != before[1]) & visible[0, 1]).any()
    np.testing.assert_array_equal(moved[0][visible[0, 1]], moved[1][visible[0, 1]])
    assert visible[0, 0].all() and visible[1, 1].all()


def test_the_peg_in_the_hole_is_a_success_that_ends_an_episode_only_if_told() -> None:
    for terminate in (False, True):
        made = PegInHoleEnv(PegInHoleConfig(terminate_on_success=terminate), seed=0)
        made.reset(0)
        assert not made.step(np.zeros((2, 6), dtype=np.float32)).success
        put_peg_into_hole(made)
        reward, success = made._outcome()
        assert success and made._env._check_success()
        assert reward == pytest.approx(1.6)
        result = made.step(np.zeros((2, 6), dtype=np.float32))
        assert result.success
        assert result.terminated is terminate
        made.close()


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_rewards_are_those_of_the_configuration(kind: Any) -> None:
    weights = {"reward_weights": RewardWeights(reaching=0.4)} if kind == "dense" else {}
    made = PegInHoleEnv(PegInHoleConfig(reward=kind, **weights), seed=0)
    made.reset(0)
    reward = made.step(np.zeros((2, 6), dtype=np.float32)).reward
    if kind == "sparse":
        assert reward == 0.0
        put_peg_into_hole(made)
        assert made._outcome() == (1.0, True)
    else:
        reach = np.linalg.norm(np.subtract(*(made._data.xpos[body] for body in made._bodies)))
        made._env.reward_shaping = True
        stock = made._env.reward()
        assert reward == pytest.approx(stock - 0.6 * (1 - np.tanh(reach)) / 5)
    made.close()


@pytest.mark.parametrize("task", WITH_GRIPPERS)
def test_tasks_with_grippers_make_step_and_repeat(task: Any) -> None:
    kind = "sparse" if task == "TwoArmTransport" else "dense"
    made = PegInHoleEnv(PegInHoleConfig(task=task, reward=kind), seed=0)
    assert made.spec.actions.sizes == (7, 7)
    first = trajectory(made, seed=1, num_steps=3)
    assert trajectory(made, seed=2, num_steps=3) != first
    assert trajectory(made, seed=1, num_steps=3) == first
    gripper = made.observe()["proprio"][:, 6:]
    assert gripper.shape == (2, 2) and (gripper != 0).all()
    made.close()


def test_bad_actions_are_refused(env: PegInHoleEnv) -> None:
    env.reset(0)
    with pytest.raises(ValueError, match=r"shape \(12,\); TwoArmPegInHole takes \(2, 6\)"):
        env.step(np.zeros(12, dtype=np.float32))
    with pytest.raises(ValueError, match="not all finite"):
        env.step(np.full((2, 6), np.nan, dtype=np.float32))


def test_an_episode_must_be_started(env: PegInHoleEnv) -> None:
    made = PegInHoleEnv(PegInHoleConfig(), seed=0)
    with pytest.raises(ValueError, match="call reset"):
        made.step(np.zeros((2, 6), dtype=np.float32))
    with pytest.raises(ValueError, match="call reset"):
        made.observe()
    made.close()


def test_a_simulation_that_diverges_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT here
    made = PegInHoleEnv(PegInHoleConfig(), seed=0)
    made.reset(0)
    made._data.qvel[0] = 1e12
    with pytest.raises(RuntimeError, match="diverged"):
        made.step(np.zeros((2, 6), dtype=np.float32))
    made.reset(0)
    made.step(np.zeros((2, 6), dtype=np.float32))
    made.close()
