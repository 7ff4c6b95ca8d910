"""Compiled control against robosuite's, and the laws of its mathematics."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from marlcore.config import PegInHoleConfig
from marlcore.envs import osc
from marlcore.envs.peg_in_hole import PegInHoleEnv
from tests.envs.test_peg_in_hole import random_actions, trajectory

NUM_STEPS = 200


def make(backend: Any, **config: Any) -> PegInHoleEnv:
    return PegInHoleEnv(PegInHoleConfig(backend=backend, reward="dense", **config), seed=3)


@pytest.fixture(scope="module")
def stock() -> Any:
    made = make("robosuite")
    yield made
    made.close()


@pytest.fixture(scope="module")
def compiled() -> Any:
    made = make("compiled")
    yield made
    made.close()


def colliding_actions(seed: int) -> np.ndarray:
    """Both hands forward, in the frames of bases that face each other, with a little noise."""
    actions = 0.2 * random_actions(seed, NUM_STEPS)
    actions[:, :, 0] += 0.8
    return actions


def episode(env: PegInHoleEnv, *, seed: int, actions: np.ndarray, shift: float = 0.0) -> Any:
    """State, observation and reward of every step [T, .], and whether there was contact [T]."""
    env.reset(seed)
    env._data.qpos[0] += shift
    rows, contacts = [], []
    for action in actions:
        reward = env.step(action).reward
        vectors = env._vectors()
        rows.append(
            np.concatenate(
                [
                    env._data.qpos,
                    env._data.qvel,
                    env._data.ctrl,
                    vectors["state"],
                    vectors["vector"].ravel(),
                    [reward],
                ]
            )
        )
        contacts.append(env._data.ncon > 0)
    return np.array(rows), np.array(contacts)


@pytest.mark.parametrize("kind", ["random", "colliding"])
def test_episodes_are_robosuites(stock: PegInHoleEnv, compiled: PegInHoleEnv, kind: str) -> None:
    """To 1e-9; after a contact, to what a change of one joint by 1e-15 makes of stock itself.

    Where numpy and scipy bring the same BLAS kernels there is no difference at all. Contacts
    amplify rounding, by up to 1e15 in 200 steps of these episodes.
    """
    seed = 4
    actions = random_actions(seed, NUM_STEPS) if kind == "random" else colliding_actions(seed)
    expected, contacts = episode(stock, seed=seed, actions=actions)
    seen, _ = episode(compiled, seed=seed, actions=actions)
    assert contacts.any() or kind == "random"
    deviation = np.abs(seen - expected).max(axis=1)
    first = int(contacts.argmax()) if contacts.any() else NUM_STEPS
    assert deviation[:first].max(initial=0) <= 1e-9
    shifted, _ = episode(stock, seed=seed, actions=actions, shift=1e-15)
    own = np.maximum.accumulate(np.abs(shifted - expected).max(axis=1))
    assert own[-1] > 0
    assert (deviation <= np.maximum(1e-9, 1e4 * own)).all()


def test_robots_may_differ_and_stand_side_by_side() -> None:
    """Panda has seven joints, UR5e six."""
    config: Any = {"robots": ("Panda", "UR5e"), "arrangement": "parallel"}
    envs = [make(backend, **config) for backend in ("robosuite", "compiled")]
    actions = random_actions(0, 10)
    expected, seen = (episode(env, seed=1, actions=actions)[0] for env in envs)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-9)
    for env in envs:
        env.close()


def test_observations_and_pictures_are_robosuites(
    stock: PegInHoleEnv, compiled: PegInHoleEnv
) -> None:
    for env in (stock, compiled):
        env.reset(2)
        env.step(random_actions(2, 1)[0])
    expected, seen = stock.observe(), compiled.observe()
    assert seen.keys() == expected.keys()
    for name in seen:
        np.testing.assert_allclose(seen[name], expected[name], rtol=0, atol=1e-9)
    difference = compiled.render().astype(int) - stock.render()
    assert np.abs(difference).mean() < 0.01
    assert compiled.spec == stock.spec


def test_an_episode_depends_on_its_seed_alone(compiled: PegInHoleEnv) -> None:
    first = trajectory(compiled, seed=7)
    assert trajectory(compiled, seed=8) != first
    assert trajectory(compiled, seed=7) == first


def test_another_process_runs_the_same_episode(compiled: PegInHoleEnv) -> None:
    program = (
        "from tests.envs.test_control import make, trajectory;"
        "print(trajectory(make('compiled'), seed=7))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == trajectory(compiled, seed=7)
    assert done.stderr == ""


def test_a_simulation_that_diverges_is_an_error(
    compiled: PegInHoleEnv, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT here
    compiled.reset(0)
    compiled._data.qvel[0] = 1e12
    with pytest.raises(RuntimeError, match="diverged"):
        compiled.step(np.zeros((2, 6), dtype=np.float32))
    compiled.reset(0)
    compiled.step(np.zeros((2, 6), dtype=np.float32))


def test_what_is_not_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"TwoArmLift use env\.backend=robosuite"):
        PegInHoleConfig(task="TwoArmLift", reward="dense", backend="compiled")
    import robosuite.controllers.parts.arm.osc as stock_osc

    monkeypatch.setattr(stock_osc.OperationalSpaceController, "name", "OSC_POSITION")
    with pytest.raises(ValueError, match=r"Panda has OSC_POSITION; use env\.backend=robosuite"):
        make("compiled")


def arm(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A positive definite inertia [7, 7] and two Jacobians [3, 7]."""
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(7, 7))
    jac_pos, jac_rot = generator.normal(size=(2, 3, 7))
    return np.asfortranarray(root @ root.T + np.eye(7)), jac_pos, jac_rot


@pytest.mark.parametrize("seed", range(5))
def test_inertias_turn_accelerations_into_forces(seed: int) -> None:
    mass, jac_pos, jac_rot = arm(seed)
    linear, angular, nullspace, jac = osc.operational_inertias(mass, jac_pos, jac_rot)
    for inertia, part in ((linear, jac_pos), (angular, jac_rot)):
        mobility = part @ np.linalg.inv(mass) @ part.T
        np.testing.assert_allclose(inertia @ mobility, np.eye(3), atol=1e-9)
    # Torques from the null space do not accelerate the hand, and N is a projection.
    np.testing.assert_allclose(jac @ np.linalg.inv(mass) @ nullspace.T, 0, atol=1e-9)
    np.testing.assert_allclose(nullspace @ nullspace, nullspace, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_hand_is_accelerated_as_wanted_and_the_pull_does_not_disturb_it(seed: int) -> None:
    mass, jac_pos, jac_rot = arm(seed)
    generator = np.random.default_rng(seed)
    bias, rest = generator.normal(size=7), generator.normal(size=(2, 7))
    zero = np.zeros((2, 3))
    torques = osc.arm_torques(mass, jac_pos, jac_rot, bias, zero, np.zeros((2, 7)))
    np.testing.assert_array_equal(torques, bias)
    jac = np.concatenate([jac_pos, jac_rot])
    pulled = osc.arm_torques(mass, jac_pos, jac_rot, bias, zero, rest)
    np.testing.assert_allclose(jac @ np.linalg.solve(mass, pulled - bias), 0, atol=1e-8)
    wanted = np.array([[1.0, -2.0, 3.0], [0, 0, 0]])
    alone = np.zeros((3, 7))  # a hand that cannot turn: translation is all there is
    torques = osc.arm_torques(mass, jac_pos, alone, bias, wanted, np.zeros((2, 7)))
    np.testing.assert_allclose(jac_pos @ np.linalg.solve(mass, torques - bias), wanted[0])


def test_the_orientation_error_is_the_axis_times_the_sine_of_the_angle() -> None:
    start = Rotation.random(random_state=0)
    for vector in ([0.3, 0, 0], [0.1, -0.2, 0.3], [0, 0, 2.0], [0, 0, 0]):
        turned = Rotation.from_rotvec(vector) * start
        error = osc.orientation_error(turned.as_matrix(), start.as_matrix())
        angle = np.linalg.norm(vector)
        np.testing.assert_allclose(error, np.sinc(angle / np.pi) * np.array(vector), atol=1e-12)


def test_rotations_are_robosuites_to_the_last_bit() -> None:
    import robosuite.utils.transform_utils as robosuite_transforms

    vectors = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 3))
    for vector in [np.zeros(3), np.array([1e-9, 0, 0]), *vectors]:
        quaternion = osc.quaternion_of(vector)
        stock_quaternion = robosuite_transforms.axisangle2quat(vector)
        np.testing.assert_allclose(quaternion, stock_quaternion, rtol=0, atol=1e-15)
        matrix = osc.rotation_matrix(quaternion)
        np.testing.assert_array_equal(matrix, robosuite_transforms.quat2mat(stock_quaternion))
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-6)
