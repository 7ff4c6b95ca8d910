from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from marlcore.config import EnvConfig
from marlcore.envs import VectorEnv, VectorStep, make_vector_env
from marlcore.envs.make import first_episode_steps
from marlcore.envs.vector import WorkerVectorEnv

ROOT = Path(__file__).parents[2]
GAME = {"kind": "game", "game": "sum_coordination"}
FAKE = {
    "kind": "fake",
    "max_episode_steps": 7,
    "num_actions_chunk": 3,
    "executed_length": 2,
    "history_length": 2,
    "image_size": 8,
}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def config_of(values: dict[str, Any]) -> EnvConfig:
    return TypeAdapter[EnvConfig](EnvConfig).validate_python(values)


def faulty(folder: Path, factory: str = "make", **kwargs: Any) -> dict[str, Any]:
    return {
        "kind": "pettingzoo",
        "factory": f"tests.faulty_env:{factory}",
        "factory_kwargs": {"folder": str(folder), **kwargs},
    }


def make(
    values: dict[str, Any], *, num_envs: int = 4, num_workers: int = 0, **more: Any
) -> VectorEnv:
    settings = {"seed": 3, "worker_timeout_s": 30.0, **more}
    return make_vector_env(
        config_of(values), num_envs=num_envs, num_workers=num_workers, **settings
    )


def random_actions(env: VectorEnv, seed: int) -> np.ndarray:
    spec = env.spec
    shape = (env.num_envs, spec.num_agents, spec.chunk_length, spec.actions.num_dims)
    rng = np.random.default_rng(seed)
    if spec.actions.kind == "discrete":
        return rng.integers(0, min(spec.actions.sizes), shape)
    return rng.uniform(-1.5, 1.5, shape).astype(np.float32)


def arrays_of(step: VectorStep) -> dict[str, np.ndarray]:
    arrays = {f"observations/{k}": v for k, v in step.observations.items()}
    arrays |= {f"final/{k}": v for k, v in step.final_observations.items()}
    for name in ("rewards", "terminated", "truncated", "discarded", "executed_length"):
        arrays[name] = getattr(step, name)
    return arrays


def assert_same_steps(one: VectorStep, other: VectorStep) -> None:
    ours, theirs = arrays_of(one), arrays_of(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
        assert array.dtype == theirs[name].dtype
    assert one.episodes == other.episodes
    assert one.num_env_steps == other.num_env_steps


def mark(env: VectorEnv, *rows: int) -> np.ndarray:
    """Actions that let the faulty environments of `rows` obey their orders."""
    actions = np.zeros((env.num_envs, 2, 1, 1), np.float32)
    actions[list(rows), 0] = 1.0
    return actions


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("values", [FAKE, GAME], ids=["fake", "game"])
def test_results_do_not_depend_on_the_number_of_workers(values: dict[str, Any]) -> None:
    envs = [make(values, num_workers=n) for n in (0, 3)]
    firsts = [env.reset() for env in envs]
    for name, array in firsts[0].items():
        np.testing.assert_array_equal(array, firsts[1][name])
    for t in range(12):
        steps = [env.step(random_actions(env, t)) for env in envs]
        assert_same_steps(*steps)
    assert envs[0].spec == envs[1].spec
    np.testing.assert_array_equal(envs[0].spec.visible, envs[1].spec.visible)
    np.testing.assert_array_equal(envs[0].render(3), envs[1].render(3))
    for env in envs:
        env.close()


@pytest.mark.parametrize("num_workers", [0, 3])
def test_staggered_first_episodes_end_apart_and_the_next_ones_are_whole(num_workers: int) -> None:
    values = {"kind": "fake", "max_episode_steps": 20, "image_size": 8}
    whole = make(values, num_envs=2, num_workers=num_workers, first_index=3)
    env = make(values, num_envs=2, num_workers=num_workers, first_index=3, stagger_episodes=True)
    lengths: dict[int, list[int]] = {3: [], 4: []}
    for vector_env in (env, whole):
        vector_env.reset()
    for t in range(52):
        step, plain = (e.step(random_actions(env, t)) for e in (env, whole))
        for episode in step.episodes:
            assert np.any(step.truncated) and not np.any(step.terminated)
            lengths[episode.env_index].append(episode.length)
        if t == 1:  # the first one ends next
            env.load_state_dict(env.state_dict())
            assert_same_steps(step, plain)
    assert lengths == {3: [3, 20, 20], 4: [11, 20, 20]}
    for vector_env in (env, whole):
        vector_env.close()


@given(most=st.integers(1, 500), num_envs=st.integers(1, 64))
def test_first_episodes_are_spread_evenly(most: int, num_envs: int) -> None:
    lengths = sorted(first_episode_steps(most, index) for index in range(num_envs))
    assert lengths[0] >= 1 and lengths[-1] == most
    gaps = np.diff([0, *lengths]) / most
    assert gaps.max() <= 2 / num_envs + 1 / most  # the golden ratio's: at most twice the mean


def test_results_do_not_depend_on_how_environments_are_split_over_processes() -> None:
    whole, part = make(FAKE), make(FAKE, num_envs=2, first_index=2)
    np.testing.assert_array_equal(whole.reset()["vector"][2:], part.reset()["vector"])
    for t in range(6):
        actions = random_actions(whole, t)
        ours, theirs = whole.step(actions), part.step(actions[2:])
        np.testing.assert_array_equal(
            ours.observations["vector"][2:], theirs.observations["vector"]
        )
        assert [e for e in ours.episodes if e.env_index >= 2] == list(theirs.episodes)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 4)])
def test_a_restored_state_goes_on_as_if_nothing_had_happened(before: int, after: int) -> None:
    first = make(FAKE, num_workers=before)
    first.reset()
    for t in range(6):
        last = first.step(random_actions(first, t))
    state = first.state_dict()
    second = make(FAKE, num_workers=after)
    for name, array in second.load_state_dict(state).items():
        np.testing.assert_array_equal(array, last.observations[name])
    for t in range(6, 14):
        actions = random_actions(first, t)
        assert_same_steps(first.step(actions), second.step(actions))
    assert all(isinstance(array, np.ndarray) for array in state.values())
    first.close()
    second.close()


def test_returned_arrays_are_the_callers_to_keep() -> None:
    for num_workers in (0, 2):
        env = make(FAKE, num_workers=num_workers)
        first = env.reset()
        kept = {name: array.copy() for name, array in first.items()}
        step = env.step(random_actions(env, 0))
        copies = {name: array.copy() for name, array in arrays_of(step).items()}
        for t in range(5):
            env.step(random_actions(env, t))
        for name, array in first.items():
            np.testing.assert_array_equal(array, kept[name])
        for name, array in arrays_of(step).items():
            np.testing.assert_array_equal(array, copies[name])
        env.close()


def test_a_state_of_another_number_of_environments_is_refused() -> None:
    env = make(FAKE)
    env.reset()
    with pytest.raises(ValueError, match="of 4 environments, there are 2"):
        make(FAKE, num_envs=2).load_state_dict(env.state_dict())


def test_actions_that_are_not_finite_are_refused() -> None:
    env = make(FAKE)
    env.reset()
    actions = random_actions(env, 0)
    actions[2, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"environments \[2\] are not finite"):
        env.step(actions)


def test_discrete_actions_out_of_range_are_refused() -> None:
    env = make({"kind": "game", "game": "partition"})
    env.reset()
    with pytest.raises(ValueError, match=r"lie in \[0, 2\].*below \[2, 2\]"):
        env.step(random_actions(env, 0) * 0 + np.array([[[[0]], [[2]]]]))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "RuntimeError: the gripper fell off"),
        ("exit", "exited with code 3"),
        ("kill", "killed by SIGKILL"),
        ("hang", "silent for 1.5 s"),
    ],
)
def test_a_failed_worker_is_replaced_and_the_others_keep_their_results(
    fault: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "marlcore.envs")
    env = make(faulty(tmp_path), num_workers=2, worker_timeout_s=1.5)
    twin = make(faulty(tmp_path))
    lost = env.reset()["vector"].copy()
    twin.reset()
    (tmp_path / "step").write_text(fault)
    step = env.step(mark(env, 0))
    expected = twin.step(mark(env, 0))
    assert step.discarded.tolist() == [True, True, False, False]
    assert step.num_worker_failures == 1
    assert step.num_env_steps == 2
    assert step.executed_length.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert step.rewards[:2].tolist() == [0, 0]
    for name in ("vector", "state"):
        np.testing.assert_array_equal(step.observations[name][2:], expected.observations[name][2:])
    # New episodes: they have taken no step, and do not repeat the lost ones.
    assert (step.observations["vector"][:2, ..., 1] == 0).all()
    assert (step.observations["vector"][:2, ..., 0] != lost[:2, ..., 0]).all()
    assert len(caplog.records) == 1
    assert reason in caplog.text and "environments 0 to 1" in caplog.text
    after = env.step(mark(env))
    assert not after.discarded.any() and after.num_worker_failures == 0
    assert after.executed_length.all()
    env.close()


def test_a_failure_in_a_reset_is_answered_alike(tmp_path: Path) -> None:
    env = make(faulty(tmp_path, episode_length=2), num_envs=2, num_workers=2)
    env.reset()
    env.step(mark(env))
    (tmp_path / "reset").write_text("raise")
    step = env.step(mark(env))
    assert step.discarded.sum() == 1 and step.num_worker_failures == 1
    assert [episode.env_index for episode in step.episodes] == np.flatnonzero(~step.discarded)
    assert not env.step(mark(env)).discarded.any()
    env.close()


def test_a_worker_killed_between_decisions_is_noticed_at_the_next(tmp_path: Path) -> None:
    env = make(faulty(tmp_path), num_workers=2)
    assert isinstance(env, WorkerVectorEnv)
    env.reset()
    os.kill(env.worker_ids[1], signal.SIGKILL)
    # A checkpoint at this point is possible: it holds the new episodes.
    state = env.state_dict()
    assert len(state["env_3/actions"]) == 0
    step = env.step(mark(env))
    assert step.discarded.tolist() == [False, False, True, True]
    assert step.num_worker_failures == 1
    env.close()


def test_groups_step_at_the_same_time_and_by_themselves() -> None:
    together, apart = make(FAKE, num_workers=3), make(FAKE, num_workers=3, num_groups=2)
    assert together.groups == (slice(0, 4),)
    assert apart.groups == (slice(0, 1), slice(1, 4))
    together.reset(), apart.reset()
    for t in range(9):
        actions = random_actions(together, t)
        whole = together.step(actions)
        for group, rows in enumerate(apart.groups):
            apart.begin(group, actions[rows])
        parts = [apart.finish(group) for group in (1, 0)][::-1]
        for name, array in arrays_of(whole).items():
            joined = np.concatenate([arrays_of(part)[name] for part in parts])
            np.testing.assert_array_equal(joined, array, err_msg=name)
        assert sorted((e for p in parts for e in p.episodes), key=lambda e: e.env_index) == list(
            whole.episodes
        )
    assert_same_steps(apart.step(actions), together.step(actions))
    together.close(), apart.close()


def test_a_worker_killed_in_one_group_leaves_the_other_alone(tmp_path: Path) -> None:
    env = make(faulty(tmp_path), num_workers=2, num_groups=2)
    assert isinstance(env, WorkerVectorEnv)
    env.reset()
    for group, rows in enumerate(env.groups):
        env.begin(group, mark(env)[rows])
    os.kill(env.worker_ids[0], signal.SIGSTOP)
    env.finish(1)
    env.begin(1, mark(env)[2:])
    os.kill(env.worker_ids[0], signal.SIGKILL)
    first, second = env.finish(0), env.finish(1)
    assert second.discarded.tolist() == [False, False]
    assert (second.num_worker_failures, second.num_env_steps) == (0, 2)
    if first.discarded.any():  # it may have answered before it was stopped
        assert first.discarded.tolist() == [True, True]
        assert first.num_worker_failures == 1
    step = env.step(mark(env))
    assert step.discarded.sum() + first.discarded.sum() == 2
    env.close()


def test_a_worker_that_keeps_failing_ends_the_run_with_its_traceback(tmp_path: Path) -> None:
    env = make(faulty(tmp_path), num_envs=1, num_workers=1)
    env.reset()
    (tmp_path / "step").write_text("raise always")
    for _ in range(2):
        assert env.step(mark(env, 0)).discarded.all()
    with pytest.raises(RuntimeError, match="3 times in a row") as caught:
        env.step(mark(env, 0))
    assert "_maybe_fail" in str(caught.value) and "the gripper fell off" in str(caught.value)
    env.close()


def test_failures_with_decisions_between_them_do_not_add_up(tmp_path: Path) -> None:
    env = make(faulty(tmp_path), num_envs=1, num_workers=1)
    env.reset()
    for _ in range(4):
        (tmp_path / "step").write_text("exit")
        assert env.step(mark(env, 0)).discarded.all()
        assert not env.step(mark(env, 0)).discarded.any()
    env.close()


def test_a_refused_configuration_is_a_value_error_with_or_without_workers(tmp_path: Path) -> None:
    for num_workers in (0, 2):
        with pytest.raises(ValueError, match=r"^folder .*: no such arm$"):
            make(faulty(tmp_path, "make_refused"), num_workers=num_workers)
        with pytest.raises(ValueError, match="cannot be imported"):
            make(faulty(tmp_path, "nothing"), num_workers=num_workers)


def test_a_fault_while_making_environments_is_raised_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="could not make the environments: OSError: no licence"):
        make(faulty(tmp_path, "make_broken"), num_workers=2)


def test_in_this_process_exceptions_pass_through(tmp_path: Path) -> None:
    env = make(faulty(tmp_path))
    env.reset()
    (tmp_path / "step").write_text("raise")
    with pytest.raises(RuntimeError, match="the gripper fell off"):
        env.step(mark(env, 0))


def test_close_ends_the_workers_and_may_be_repeated(tmp_path: Path) -> None:
    env = make(faulty(tmp_path), num_workers=2)
    assert isinstance(env, WorkerVectorEnv)
    pids = env.worker_ids
    assert all(map(is_alive, pids))
    env.close()
    env.close()
    assert not any(map(is_alive, pids))


def test_a_dropped_environment_ends_its_workers(tmp_path: Path) -> None:
    env = make(faulty(tmp_path), num_workers=1)
    assert isinstance(env, WorkerVectorEnv)
    pids = env.worker_ids
    del env
    assert not any(map(is_alive, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("fault", ["", "hang"], ids=["between steps", "in a step"])
def test_workers_die_with_a_killed_parent(fault: str, tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    if fault:
        (tmp_path / "step").write_text(fault + " always")
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from tests.envs.test_vector import faulty, make, mark
from pathlib import Path
env = make(faulty(Path({str(tmp_path)!r})), num_workers=2)
env.reset()
print(*env.worker_ids, flush=True)
env.step(mark(env, 0, 3))
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.5)
        assert len(pids) == 2 and all(map(is_alive, pids))
        parent.kill()
    deadline = time.monotonic() + 2
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))
    if before:
        assert {name for name in os.listdir("/dev/shm") if "marlcore" in name} == set()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_workers_do_not_answer_the_signals_meant_for_the_parent(tmp_path: Path) -> None:
    env = make(faulty(tmp_path), num_workers=1)
    assert isinstance(env, WorkerVectorEnv)
    env.reset()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(env.worker_ids[0], number)
    assert not env.step(mark(env)).discarded.any()
    env.close()


def test_importing_the_package_imports_no_simulator_and_no_torch() -> None:
    script = (
        "import sys, marlcore.envs, marlcore.envs.worker; "
        "print(*{'torch', 'robosuite', 'mujoco', 'pettingzoo', 'gymnasium'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
