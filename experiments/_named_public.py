"""Named configs of public environments; each needs the package that its docstring names."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]

SIMPLE_SPREAD: Values = {
    "env": {
        "kind": "pettingzoo",
        "factory": "mpe2.simple_spread_v3:parallel_env",
        "factory_kwargs": {"N": 3, "max_cycles": 25},
        "max_episode_steps": 25,
    },
    "policy": {"share_policy": True, "hidden_sizes": [64, 64], "critic_hidden_sizes": [64, 64]},
    "algorithm": {
        "actor_lr": 7e-4,
        "critic_lr": 7e-4,
        "entropy_coef": 0.01,
        "num_epochs": 10,
        "num_minibatches": 8,
    },
    "training": {"num_envs": 16, "num_steps_per_rollout": 125, "total_timesteps": 1_000_000},
}
"""Three particles cover three landmarks (PettingZoo's MPE); needs the package mpe2."""

SIMPLE_REFERENCE: Values = {
    **SIMPLE_SPREAD,
    "env": {
        "kind": "pettingzoo",
        "factory": "mpe2.simple_reference_v3:parallel_env",
        "factory_kwargs": {"max_cycles": 25},
        "max_episode_steps": 25,
    },
}
"""Each of two particles knows where the other one must go, and says it; needs mpe2."""


def _mamujoco(scenario: str, agent_conf: str) -> Values:
    return {
        "env": {
            "kind": "pettingzoo",
            "factory": "gymnasium_robotics:mamujoco_v1.parallel_env",
            "factory_kwargs": {"scenario": scenario, "agent_conf": agent_conf},
            "max_episode_steps": 1000,
        },
        "policy": {"hidden_sizes": [64, 64], "critic_hidden_sizes": [64, 64]},
        "algorithm": {
            "lr_decay": True,
            "num_epochs": 10,
            "num_minibatches": 32,
            "normalise_values": True,
        },
        "training": {
            "num_envs": 8,
            "num_env_groups": 2,
            "num_steps_per_rollout": 256,
            "total_timesteps": 1_000_000,
        },
    }


MAMUJOCO: dict[str, Values] = {
    "mamujoco_cheetah": _mamujoco("HalfCheetah", "2x3"),
    "mamujoco_ant": _mamujoco("Ant", "4x2"),
}
"""One body, its joints shared out to agents that see their neighbourhood; gymnasium-robotics."""

RWARE: Values = {
    "env": {
        "kind": "pettingzoo",
        "factory": "marlcore.envs.gymnasium_tuples:parallel_env",
        "factory_kwargs": {"id": "rware:rware-tiny-4ag-v2"},
        "team_reward": "sum",
        "max_episode_steps": 500,
    },
    "policy": {"share_policy": True, "hidden_sizes": [128, 128]},
    "algorithm": {"entropy_coef": 0.001, "num_epochs": 4, "num_minibatches": 4},
    "training": {
        "num_envs": 16,
        "num_env_groups": 2,
        "num_steps_per_rollout": 250,
        "total_timesteps": 4_000_000,
    },
}
"""Four robots of a small warehouse bring shelves that are asked for; needs the package rware."""

PUBLIC: dict[str, Values] = {
    "simple_spread": SIMPLE_SPREAD,
    "simple_reference": SIMPLE_REFERENCE,
    **MAMUJOCO,
    "rware_tiny": RWARE,
}
