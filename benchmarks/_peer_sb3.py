"""Stable-Baselines3's PPO on robosuite's TwoArmPegInHole; run by training.py in their environment.

    python _peer_sb3.py '{"updates": 3, "num_envs": 2, "hard_reset": true, ...}'

One agent drives both arms; robosuite's own GymWrapper, a process an environment. Prints one JSON
line: env steps and seconds of every update after the first, which warms up.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv


class Clock(BaseCallback):
    """Notes when every rollout began and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[float] = []
        self.ended: list[float] = []

    def _on_rollout_start(self) -> None:
        self.began.append(time.perf_counter())

    def _on_rollout_end(self) -> None:
        self.ended.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def make_env(*, horizon: int, hard_reset: bool):
    import robosuite
    from robosuite.wrappers import GymWrapper

    env = robosuite.make(
        "TwoArmPegInHole",
        robots=["Panda", "Panda"],
        gripper_types=None,
        env_configuration="opposed",
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        use_object_obs=True,
        reward_shaping=True,
        control_freq=20,
        horizon=horizon,
        hard_reset=hard_reset,
    )
    return GymWrapper(env)


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task["num_threads"])
    env = make_vec_env(
        make_env,
        n_envs=task["num_envs"],
        seed=0,
        env_kwargs={"horizon": task["horizon"], "hard_reset": task["hard_reset"]},
        vec_env_cls=SubprocVecEnv,
    )
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=task["num_steps"],
        batch_size=task["minibatch_size"],
        n_epochs=task["num_epochs"],
        policy_kwargs={"net_arch": task["hidden_sizes"]},
        device="cpu",
        seed=0,
    )
    clock = Clock()
    rollout = task["num_steps"] * task["num_envs"]
    model.learn(rollout * (task["updates"] + 1), callback=clock)
    clock.began.append(time.perf_counter())
    env.close()
    spans = list(zip(clock.began, clock.ended, clock.began[1:], strict=False))[1:]
    result = {
        "env_steps": [rollout] * len(spans),
        "seconds": [after - began for began, _, after in spans],
        "update_s": [after - ended for _, ended, after in spans],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
