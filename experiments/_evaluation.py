"""A checkpoint used: evaluated, filmed, loaded to act, written in OpenVLA-OFT's layout."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from experiments import _stop
from experiments._build import (
    EVALUATION_SEED_OFFSET,
    choose_device,
    evaluate_in,
    make_environments,
    make_evaluation_environments,
    make_policy,
)
from experiments._rundir import read_config
from marlcore.algorithms import build_algorithm
from marlcore.checkpoint import TrainState, load_checkpoint
from marlcore.config import ExperimentConfig, OpenVLAConfig
from marlcore.config_errors import parse_config
from marlcore.durable import patiently
from marlcore.envs import VectorEnv, make_vector_env
from marlcore.evaluation import EvaluationResult, record_video
from marlcore.policies.layout import Kept
from marlcore.policies.protocol import Policy


def evaluate_run(
    checkpoint: Path,
    *,
    num_episodes: int,
    seed: int,
    deterministic: bool,
    video: Path | None,
) -> dict[str, Any]:
    """Evaluate the policy of a checkpoint on fresh episodes; optionally film one.

    The configuration is the run's own (config.json beside the checkpoint).

    Raises:
        ValueError: if the checkpoint is damaged.
        EvaluationStoppedError: a signal asked to stop meanwhile.
    """
    config, device = _settings_of(checkpoint)
    env = make_evaluation_environments(config, seed=seed, num_episodes=num_episodes)
    with contextlib.closing(env):
        policy, state = load_policy(checkpoint, env)
        outcome = evaluate_in(env, policy, num_episodes, seed, deterministic, device)
    if video is not None:
        print(f"filming an episode to {video}", flush=True)
        patiently(
            lambda: _film(config, policy, video, seed=seed, device=device),
            place=video,
            what=str(video),
        )
    return {
        **_describe_evaluation(outcome),
        "env_steps": state.progress["env_steps"],
        "deterministic": deterministic,
        "seed": seed,
        "checkpoint": str(checkpoint),
        "video": None if video is None else str(video),
    }


def load_policy(checkpoint: Path, env: VectorEnv) -> tuple[Policy, TrainState]:
    """Return the policy of a checkpoint, to act in `env`.

    Raises:
        ValueError: if the checkpoint is damaged.
    """
    config, device = _settings_of(checkpoint)
    state = load_checkpoint(checkpoint, device)
    algorithm = build_algorithm(config.algorithm, num_agents=env.spec.num_agents)
    kept = Kept(env.num_envs * (config.env.history_length + 1), env.num_envs)
    policy = make_policy(config, env.spec, algorithm.needs, torch.Generator(), device, kept)
    policy.load_state_dict(state.policy, strict=True)
    return policy, state


def export_run(checkpoint: Path, folder: Path, *, merge: bool) -> list[Path]:
    """Write the OpenVLA actors of a checkpoint in OpenVLA-OFT's layout; return the folders.

    Raises:
        ValueError: if the run has other actors, or the folder holds something.
    """
    config, _ = _settings_of(checkpoint)
    if not isinstance(config.policy, OpenVLAConfig):
        raise ValueError(
            f"{checkpoint} is of policy.kind={config.policy.kind}; only openvla has a layout to "
            "write, others are in the checkpoint's policy.safetensors"
        )
    from marlcore.policies import openvla

    env = make_environments(config, seed=config.seed, num_envs=1)
    with contextlib.closing(env):
        policy, state = load_policy(checkpoint, env)
    assert isinstance(policy, openvla.MultiAgentVLAPolicy)
    name = config.policy.pretrained_checkpoint
    with openvla.pretrained(name, env.spec) as folder_of_backbone:
        return openvla.export_actors(
            policy.actors,
            folder,
            num_steps=int(str(state.progress["env_steps"])),
            source=openvla.open_checkpoint(folder_of_backbone) if merge else None,
        )


def _settings_of(checkpoint: Path) -> tuple[ExperimentConfig, torch.device]:
    """The configuration of a checkpoint's run, applied to this process, and where it runs here."""
    config = parse_config(read_config(checkpoint.parent))
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    return config, choose_device(config.training.device)


def _describe_evaluation(outcome: EvaluationResult) -> dict[str, Any]:
    metrics = outcome.metrics()
    has_success = outcome.episodes[0].success is not None
    return {
        "metrics": metrics,
        "return_mean": metrics["eval/return_mean"],
        "return_std": metrics["eval/return_std"],
        "length_mean": metrics["eval/episode_length_mean"],
        "num_episodes": len(outcome.episodes),
        "num_successes": sum(bool(e.success) for e in outcome.episodes) if has_success else None,
        "num_held": sum(bool(e.success_held) for e in outcome.episodes) if has_success else None,
    }


def _film(
    config: ExperimentConfig, policy: Policy, path: Path, *, seed: int, device: torch.device
) -> None:
    env = make_vector_env(
        config.env,
        num_envs=1,
        num_workers=0,
        seed=seed + EVALUATION_SEED_OFFSET,
        worker_timeout_s=config.training.worker_timeout_s,
    )
    with contextlib.closing(env):
        record_video(policy, env, path, device=device, should_stop=_stop.should_stop)
