"""One run of environment.py, in a process of its own; prints one JSON line.

    python _environment_runs.py '{"kind": "ours", "seconds": 5, "config": {...}}'

kind: ours (one environment), vector (with workers), robosuite (as it comes), limit (the physics
alone), and in the environment of the peers sb3 and gymnasium (robosuite's own GymWrapper in their
vector environments). Actions are random, episodes of 200 env steps follow each other.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

NUM_ACTIONS = 12
HORIZON = 200


def measure(step: Callable[[], int], seconds: float) -> dict[str, float]:
    """Env steps, seconds and seconds of this process's CPU time; the first second warms up."""
    begin = time.perf_counter()
    while time.perf_counter() < begin + 1.0:
        step()
    count, cpu, start = 0, time.process_time(), time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        count += step()
    return {"env_steps": count, "seconds": now - start, "cpu_s": time.process_time() - cpu}


def make_robosuite(cameras: list[str], size: int):
    import robosuite

    return robosuite.make(
        "TwoArmPegInHole",
        robots=["Panda", "Panda"],
        gripper_types=None,
        env_configuration="opposed",
        has_renderer=False,
        has_offscreen_renderer=bool(cameras),
        use_camera_obs=bool(cameras),
        camera_names=cameras or "agentview",
        camera_heights=size,
        camera_widths=size,
        reward_shaping=True,
        control_freq=20,
        horizon=HORIZON,
        hard_reset=False,
    )


def robosuite_steps(task: dict) -> Callable[[], int]:
    env = make_robosuite(task.get("cameras", []), task.get("size", 84))
    env.reset()
    generator = np.random.default_rng(0)
    done = False

    def step() -> int:
        nonlocal done
        if done:
            env.reset()
        done = env.step(generator.uniform(-1, 1, NUM_ACTIONS))[2]
        return 1

    return step


def config_of(task: dict):
    from marlcore.config import PegInHoleConfig

    values = {"max_episode_steps": HORIZON, "reward": "dense", **task["config"]}
    return PegInHoleConfig.model_validate_json(json.dumps(values))


def our_steps(task: dict) -> Callable[[], int]:
    from marlcore.envs import make_decision_env

    config = config_of(task)
    env = make_decision_env(config, seed=0, index=0)
    generator = np.random.default_rng(0)
    number = 0
    env.reset(number)
    shape = (2, config.num_actions_chunk, NUM_ACTIONS // 2)

    def step() -> int:
        nonlocal number
        transition = env.step(generator.uniform(-1, 1, shape).astype(np.float32))
        if transition.episode is not None:
            number += 1
            env.reset(number)
        return transition.num_env_steps

    return step


def vector_steps(task: dict) -> Callable[[], int]:
    from marlcore.envs import make_vector_env

    config = config_of(task)
    num_envs = task["num_envs"]
    env = make_vector_env(
        config,
        num_envs=num_envs,
        num_workers=task["num_workers"],
        num_groups=task.get("num_groups", 1),
        seed=0,
        worker_timeout_s=300.0,
    )
    env.reset()
    generator = np.random.default_rng(0)
    shape = (num_envs, 2, config.num_actions_chunk, NUM_ACTIONS // 2)
    groups = range(len(env.groups))

    def begin(group: int) -> None:
        actions = generator.uniform(-1, 1, shape).astype(np.float32)
        env.begin(group, actions[env.groups[group]])

    def step() -> int:
        count = 0
        for group in groups:
            count += env.finish(group).num_env_steps
            begin(group)
        return count

    for group in groups:
        begin(group)
    return step


def limit_steps(task: dict) -> Callable[[], int]:
    import mujoco

    env = make_robosuite([], 84)
    env.reset()
    model, data = env.sim.model._model, env.sim.data._data
    generator = np.random.default_rng(0)
    low, high = model.actuator_ctrlrange.T
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        if count % HORIZON == 0:
            env.reset()
        data.ctrl[:] = data.qfrc_bias[: len(low)] + 0.01 * generator.uniform(low, high)
        mujoco.mj_step(model, data, nstep=25)
        return 1

    return step


def wrapped():
    from robosuite.wrappers import GymWrapper

    env = GymWrapper(make_robosuite([], 84))
    env.metadata = {"render_modes": []}  # robosuite's None is not what gymnasium expects
    return env


def peer_steps(task: dict) -> Callable[[], int]:
    if task["kind"] == "sb3":
        from stable_baselines3.common.vec_env import SubprocVecEnv as Peer
    else:
        from gymnasium.vector import AsyncVectorEnv as Peer

    num_envs = task["num_envs"]
    env = Peer([wrapped] * num_envs)
    env.reset()
    generator = np.random.default_rng(0)

    def step() -> int:
        env.step(generator.uniform(-1, 1, (num_envs, NUM_ACTIONS)))
        return num_envs

    return step


KINDS = {
    "ours": our_steps,
    "vector": vector_steps,
    "robosuite": robosuite_steps,
    "limit": limit_steps,
    "sb3": peer_steps,
    "gymnasium": peer_steps,
}


def main() -> None:
    task = json.loads(sys.argv[1])
    result = measure(KINDS[task["kind"]](task), task["seconds"])
    print(json.dumps(result), flush=True)
    os._exit(0)  # GL contexts and workers end with the process


if __name__ == "__main__":
    main()
