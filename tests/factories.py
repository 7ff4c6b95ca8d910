"""Builds the data that tests run on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from experiments._build import build_trainer, make_training_environments
from marlcore.checkpoint import CheckpointStore
from marlcore.config import ExperimentConfig
from marlcore.config_errors import parse_config
from marlcore.recording import MemoryRecorder, Recorder
from marlcore.trainer import Trainer

CPU = torch.device("cpu")


def make_config(name: str = "acppo", **sections: dict[str, Any]) -> ExperimentConfig:
    """A small run on the fake environment; `section={...}` changes keys, `seed=..` the seed."""
    seed = sections.pop("seed", 0)
    values: dict[str, Any] = {
        "seed": seed,
        "env": {"kind": "fake", "max_episode_steps": 7},
        "policy": {"kind": "mlp", "hidden_sizes": [16], "critic_hidden_sizes": [16]},
        "algorithm": {"name": name, "num_epochs": 2, "num_minibatches": 2},
        "training": {
            "num_envs": 4,
            "num_workers": 0,
            "num_steps_per_rollout": 16,
            "total_timesteps": 256,
            "num_eval_episodes": 4,
            "checkpoint_every": 64,
        },
        "logging": {"console": "off", "video": False},
    }
    for section, changes in sections.items():
        values[section] = changes if "kind" in changes else {**values[section], **changes}
    return parse_config(values)


@contextlib.contextmanager
def make_trainer(
    config: ExperimentConfig,
    recorder: Recorder | None = None,
    store: CheckpointStore | None = None,
) -> Iterator[Trainer]:
    """What trains `config` in its own environments."""
    torch.set_num_threads(1)
    env = make_training_environments(config)
    with contextlib.closing(env):
        yield build_trainer(
            config, env=env, device=CPU, recorder=recorder or MemoryRecorder(), store=store
        )


def train(config: ExperimentConfig) -> tuple[Trainer, MemoryRecorder]:
    """Train a configuration from start to end."""
    recorder = MemoryRecorder()
    with make_trainer(config, recorder) as trainer:
        trainer.train()
    return trainer, recorder


def make_credit(
    seed: int,
    *,
    T: int = 6,
    E: int = 3,
    N: int = 2,
    end_rate: float = 0.3,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Random rewards, values and ends: the arguments of `microstep_gae`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    ended = torch.rand(T, E, generator=generator) < end_rate
    absorbing = torch.rand(T, E, generator=generator) < 0.5
    return {
        "rewards": normal(T, E),
        "values": normal(T, E, N),
        "next_values": normal(T, E),
        "terminated": ended & absorbing,
        "episode_ended": ended,
    }


def learning_metrics(recorder: MemoryRecorder) -> list[tuple[int, dict[str, float]]]:
    """Records without what a clock or the machine decides."""
    return [
        (step, {k: v for k, v in metrics.items() if not k.startswith(("time/", "system/"))})
        for step, metrics in recorder.records
    ]
