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
from tests.envs.equivalence import KINDS, TOLERANCE, Copies
from tests.envs.test_peg_in_hole import random_actions, trajectory


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


def test_steps_are_robosuites() -> None:
    """To 1e-9 from the same full state, but where 1e-15 makes more of robosuite's own steps."""
    copies = Copies({})
    for seed in (0, 1):  # random; scripted, where arms stretch and touch
        copies.run(seed)
    regular, singular, touching = (np.array(copies.deviations[kind]) for kind in KINDS)
    assert len(regular) > 150
    assert regular.max() <= TOLERANCE
    assert copies.observations <= 1e-5
    assert copies.num_unlike == 0
    for ours, own in (singular.T, touching.T):
        assert len(ours) > 5
        assert (ours > TOLERANCE).mean() <= (own > TOLERANCE).mean() + 0.1
        assert np.median(ours) <= 10 * np.median(own) + TOLERANCE
    copies.close()


@pytest.mark.parametrize(
    "case",
    [
        {"robots": ("Sawyer", "UR5e"), "arrangement": "parallel"},  # seven joints and six
        {"robots": ("IIWA", "Kinova3")},  # the first one's base hangs on its first joint
        {"task": "TwoArmLift"},
        {"task": "TwoArmHandover"},
        {"task": "TwoArmTransport", "reward": "sparse"},
    ],
    ids=str,
)
def test_other_robots_and_tasks_are_robosuites(case: dict[str, Any]) -> None:
    """Something may touch from the start: then most steps, and the others as robosuite's own."""
    copies = Copies(case)
    copies.run(0, num_steps=30)
    ours, own = np.concatenate([np.array(found) for found in copies.deviations.values()]).T
    assert len(ours) == 30
    assert np.median(ours) <= TOLERANCE
    assert (ours > TOLERANCE).sum() <= (own > TOLERANCE).sum() + 3
    copies.close()


def test_an_episode_left_alone_stays_robosuites_until_something_touches(
    stock: PegInHoleEnv, compiled: PegInHoleEnv
) -> None:
    for env in (stock, compiled):
        env.reset(2)
    for actions in random_actions(2, 60):
        expected, seen = stock.step(actions), compiled.step(actions)
        if stock._data.ncon or compiled._data.ncon:
            break
        assert seen.reward == pytest.approx(expected.reward, abs=1e-9)
        for name in ("qpos", "qvel", "ctrl"):
            one, other = getattr(compiled._data, name), getattr(stock._data, name)
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    assert stock._data.time > 0.5  # s; ten env steps


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
    import robosuite.controllers.parts.arm.osc as stock_osc

    monkeypatch.setattr(stock_osc.OperationalSpaceController, "name", "OSC_POSITION")
    with pytest.raises(ValueError, match=r"Panda has OSC_POSITION; use env\.backend=robosuite"):
        make("compiled")


def arm(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A positive definite inertia [7, 7] and a Jacobian [6, 7]."""
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(7, 7))
    return root @ root.T + np.eye(7), generator.normal(size=(6, 7))


@pytest.mark.parametrize("seed", range(3))
def test_systems_are_solved_also_where_they_are_singular(seed: int) -> None:
    mass, jac = arm(seed)
    mobility = osc.mobility(mass, jac)
    np.testing.assert_allclose(mobility, jac @ np.linalg.inv(mass) @ jac.T, rtol=1e-9)
    right = np.random.default_rng(seed).normal(size=6)
    np.testing.assert_allclose(mobility @ osc.solve(mobility, 0, 6, right), right, atol=1e-9)
    part = osc.solve(mobility, 3, 6, right[3:])
    np.testing.assert_allclose(mobility[3:, 3:] @ part, right[3:], atol=1e-9)
    jac[5] = 2 * jac[4]  # two rotations that cannot be told apart
    mobility = osc.mobility(mass, jac)
    expected = np.linalg.pinv(mobility, rcond=1e-12) @ right
    np.testing.assert_allclose(osc.solve(mobility, 0, 6, right), expected, rtol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_hand_is_accelerated_as_wanted_and_the_pull_does_not_disturb_it(seed: int) -> None:
    mass, jac = arm(seed)
    generator = np.random.default_rng(seed)
    bias, rest = generator.normal(size=7), generator.normal(size=(2, 7))
    torques = osc.arm_torques(mass, jac, bias, np.zeros(6), np.zeros((2, 7)))
    np.testing.assert_array_equal(torques, bias)
    pulled = osc.arm_torques(mass, jac, bias, np.zeros(6), rest)
    np.testing.assert_allclose(jac @ np.linalg.solve(mass, pulled - bias), 0, atol=1e-8)
    assert np.abs(pulled - bias).max() > 0.1
    wanted = np.array([1.0, -2.0, 3.0, 0, 0, 0])
    jac[3:] = 0.0  # a hand that cannot turn: translation is all there is
    torques = osc.arm_torques(mass, jac, bias, wanted, np.zeros((2, 7)))
    np.testing.assert_allclose(jac @ np.linalg.solve(mass, torques - bias), wanted, atol=1e-9)


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
