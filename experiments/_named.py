"""Named configs that the scripts share; each is a part of the configuration, put over the defaults.

`python experiments/mappo.py print_named_configs` lists them with the comment of each.
"""

from __future__ import annotations

from typing import Any

from experiments._named_public import PUBLIC

Values = dict[str, Any]


def merged(*layers: Values) -> Values:
    """Values of later layers over those of earlier ones, section by section."""
    result: Values = {}
    for layer in layers:
        for section, values in layer.items():
            result[section] = {**result.get(section, {}), **values}
    return result


CAMERAS = ["frontview", "robot0_eye_in_hand", "robot1_eye_in_hand"]
"""One view that both arms see, and each arm's own."""

TWO_ARM_STATE: Values = {
    "env": {
        "kind": "peg_in_hole",
        "observations": "state",
        "reward": "staged",
        "max_episode_steps": 200,
        "num_actions_chunk": 1,
    },
    "policy": {
        "kind": "mlp",
        "hidden_sizes": [128, 128],
        "critic_hidden_sizes": [128, 128],
        "final_log_std": -3.0,
    },
    "algorithm": {
        "gamma": 0.97,
        "actor_lr": 6e-4,
        "critic_lr": 6e-4,
        "lr_decay": True,
        "num_epochs": 10,
        "num_minibatches": 8,
        "target_kl": 0.03,
        "normalise_values": True,
    },
    "training": {
        "num_envs": 16,
        "num_env_groups": 2,
        "stagger_episodes": True,
        "num_steps_per_rollout": 64,
        "total_timesteps": 130_000,
        "num_eval_episodes": 100,
    },
}
"""Two arms learn to put the peg into the hole from state and hold it there, in under three minutes.

Sixteen environments of 64 decisions, not one of 1000: the policy decides for eight at once while
the other eight step. They are in different parts of an episode, so that every rollout shows the
approach and the hole.
"""

TWO_ARM_STATE_CHUNKS = merged(
    TWO_ARM_STATE,
    {
        "env": {"num_actions_chunk": 4},
        "algorithm": {"target_kl": 0.1},
        "training": {"num_steps_per_rollout": 32, "total_timesteps": 200_000},
    },
)
"""The same with four actions a decision.

A decision has four times the numbers, so a policy that moves each of them as far has four times the
KL divergence; short rollouts make up for decisions that are four times as rare.
"""

TWO_ARM_DEMONSTRATIONS = merged(
    TWO_ARM_STATE,
    {
        "env": {"reward": "sparse"},
        "policy": {"initial_log_std": -1.6, "final_log_std": None},
        "algorithm": {"gamma": 0.99, "actor_lr": 3e-4},
        "training": {"total_timesteps": 100_000},
    },
)
"""The same with robosuite's sparse reward; to be begun from demonstrations (`start_from`).

The reward begins when the peg is in; with a gamma of 0.97 too little of it reaches the approach.
"""

TWO_ARM_PICTURES = merged(
    TWO_ARM_STATE_CHUNKS,
    {
        "env": {"cameras": CAMERAS, "image_size": 64, "render_quality": "lite"},
        "policy": {"kind": "cnn", "see_vector": False, "initial_log_std": -1.6},
        "algorithm": {"actor_lr": 1e-4},
    },
)
"""The same for actors that see pictures alone; to be begun from demonstrations (`start_from`).

Their noise and learning rate are small, so that what the demonstrations taught is not lost.
"""

QUICKSTART = merged(
    TWO_ARM_STATE,
    {
        "training": {
            "total_timesteps": 100_000,
            "stop_success_rate": 1.0,
            "stop_window": 100,
            "num_eval_episodes": 20,
        }
    },
)
"""The same over 100,000 env steps, ended as soon as 100 episodes in a row succeed."""

TWO_ARM: Values = {
    "env": {
        "kind": "peg_in_hole",
        "reward": "dense",
        "num_actions_chunk": 4,
        "history_length": 2,
        "max_episode_steps": 300,
    },
    "algorithm": {
        "clip_epsilon": 0.2,
        "actor_lr": 3e-4,
        "critic_lr": 3e-4,
        "entropy_coef": 0.01,
        "value_coef": 0.5,
        "num_epochs": 10,
        "max_grad_norm": 0.5,
    },
    "training": {"num_envs": 4, "num_steps_per_rollout": 256, "total_timesteps": 1_000_000},
}
"""Two arms with the settings of earlier work: dense reward, chunks of 4, two observations.

num_epochs=10 and the sizes of the rollout are a choice of ours: earlier work does not say.
"""

OPENVLA_7B: Values = {
    "env": {
        "kind": "peg_in_hole",
        "observations": "proprio",
        "cameras": CAMERAS,
        "image_size": 224,
        "num_actions_chunk": 4,
        "history_length": 2,
        "reward": "staged",
        "max_episode_steps": 200,
    },
    "policy": {
        "kind": "openvla",
        "pretrained_checkpoint": "moojink/openvla-7b-oft-finetuned-libero-spatial",
    },
    "algorithm": {
        "actor_lr": 1e-5,
        "critic_lr": 3e-4,
        "num_epochs": 4,
        "num_minibatches": 8,
        "target_kl": 0.03,
    },
    "training": {
        "num_envs": 8,
        "num_steps_per_rollout": 50,
        "total_timesteps": 500_000,
        "checkpoint_every": 16_000,
        "num_eval_episodes": 16,
    },
}
"""Two OpenVLA-OFT agents, adapters and heads trained, one front view and a wrist view each."""

OPENVLA_TINY: Values = {
    **OPENVLA_7B,
    "env": {**OPENVLA_7B["env"], "backend": "robosuite", "image_size": 56, "max_episode_steps": 40},
    "policy": {"kind": "openvla", "pretrained_checkpoint": "tiny", "lora_rank": 4},
    "training": {
        "num_envs": 2,
        "num_steps_per_rollout": 20,
        "total_timesteps": 640,
        "checkpoint_every": 320,
        "num_eval_episodes": 2,
    },
}
"""The same code with a small random checkpoint, in minutes on a CPU; it learns nothing of note."""

TWO_ARM_VLA: Values = {
    **OPENVLA_7B,
    "env": {
        **OPENVLA_7B["env"],
        "reward": "dense",
        "reward_weights": {
            "success": 1.0,
            "reaching": 0.4,
            "perpendicular": 1.2,
            "parallel": 0.6,
            "alignment": 1.2,
        },
        "max_episode_steps": 300,
    },
    "algorithm": {
        **OPENVLA_7B["algorithm"],
        "clip_epsilon": 0.2,
        "entropy_coef": 0.01,
        "value_coef": 0.5,
        "max_grad_norm": 0.5,
    },
    "training": {
        **OPENVLA_7B["training"],
        "num_envs": 4,
        "num_steps_per_rollout": 256,
        "total_timesteps": 1_000_000,
    },
}
"""OpenVLA-OFT with the settings of earlier work: weighted dense reward, chunks of 4.

Learning rates, epochs and minibatches are a choice of ours: earlier work does not say.
"""

PAPER_UPDATE: Values = {
    "policy": {"output_gain": 0.01},
    "algorithm": {
        "gamma": 0.99,
        "clip_epsilon": 0.2,
        "actor_lr": 5e-4,
        "critic_lr": 5e-4,
        "entropy_coef": 0.01,
        "value_coef": 1.0,
        "num_epochs": 10,
        "num_minibatches": 1,
        "max_grad_norm": 10.0,
        "normalise_values": True,
        "value_clip": 0.2,
        "huber_delta": 10.0,
    },
}
"""The update of the MAPPO paper (arXiv 2103.01955): one minibatch, normalised values, Huber."""


def _game(name: str, total_timesteps: int, **algorithm: Any) -> Values:
    return {
        "env": {"kind": "game", "game": name},
        "policy": {"kind": "mlp", "hidden_sizes": [64, 64], "critic_hidden_sizes": [64, 64]},
        "algorithm": {"entropy_coef": 0.01, "num_minibatches": 4, **algorithm},
        "training": {
            "num_envs": 8,
            "num_workers": 0,
            "num_steps_per_rollout": 100,
            "total_timesteps": total_timesteps,
        },
    }


GAMES: dict[str, Values] = {
    "partition": _game("partition", 40_000),
    "sum_coordination": _game("sum_coordination", 80_000),
    "climbing": _game("climbing", 80_000, entropy_coef=0.05),
    "penalty": _game("penalty", 80_000, entropy_coef=0.05),
}
"""Small games with known solutions, seconds to a minute."""

COMMON: dict[str, Values] = {
    "quickstart": QUICKSTART,
    "two_arm_state": TWO_ARM_STATE,
    "two_arm_state_chunks": TWO_ARM_STATE_CHUNKS,
    "two_arm_demonstrations": TWO_ARM_DEMONSTRATIONS,
    "two_arm_pictures": TWO_ARM_PICTURES,
    "two_arm": TWO_ARM,
    "openvla_7b": OPENVLA_7B,
    "openvla_tiny": OPENVLA_TINY,
    **GAMES,
    **PUBLIC,
}

MEANINGS: dict[str, str] = {
    "quickstart": "two arms learn peg-in-hole from state, staged reward, minutes on a CPU",
    "two_arm_state": "the same, trained on until the peg is held, for comparisons",
    "two_arm_state_chunks": "the same with chunks of four actions",
    "two_arm_demonstrations": "the same with the sparse reward, from demonstrations (start_from)",
    "two_arm_pictures": "the same from pictures alone; begins from demonstrations (start_from)",
    "two_arm": "peg-in-hole with the settings of earlier work: dense reward, chunks of 4",
    "openvla_7b": "peg-in-hole with two OpenVLA-OFT agents (fetches 15 GB from the hub once)",
    "openvla_tiny": "the same code with a small random checkpoint, minutes on a CPU",
    "two_arm_vla_mappo": "OpenVLA-OFT with the settings of earlier work: weighted dense reward",
    "two_arm_vla_acppo": "OpenVLA-OFT with the settings of earlier work: weighted dense reward",
    "partition": "game: two agents must choose differently",
    "sum_coordination": "game: four numbers must add up to what all see (continuous)",
    "climbing": "game: the best joint action stands beside the worst",
    "penalty": "game: two best joint actions, penalties for mixing them",
    "simple_spread": "PettingZoo's MPE: three particles cover three landmarks (needs mpe2)",
    "simple_reference": "PettingZoo's MPE: two particles tell each other where to go (needs mpe2)",
    "mamujoco_cheetah": "MaMuJoCo: HalfCheetah, two agents of three joints (gymnasium-robotics)",
    "mamujoco_ant": "MaMuJoCo: Ant, four agents of two joints (gymnasium-robotics)",
    "rware_tiny": "RWARE: four robots in the smallest warehouse (needs rware)",
    "mappo_paper": "the update with the MAPPO paper's numbers (arXiv 2103.01955)",
    "acppo_paper": "the same with gamma_prime = gamma ** (1/N), the paper's choice",
}
"""What `--help` says of each."""
