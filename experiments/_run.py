"""From a typed configuration to objects, to a trained policy; shared by the scripts."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from experiments._rundir import read_config, write_config
from experiments._stop import stop_requested
from experiments.recorders import make_recorder
from experiments.tracking.spool import Spool
from marlcore import distributed
from marlcore.algorithms import PPOUpdater, build_algorithm
from marlcore.checkpoint import (
    CheckpointStore,
    TrainState,
    load_checkpoint,
    load_first_good,
    numbered_checkpoints,
    saved_at,
)
from marlcore.collector import Collector
from marlcore.config import ExperimentConfig, OpenVLAConfig
from marlcore.config_errors import parse_config
from marlcore.durable import patiently, write_whole
from marlcore.envs import EnvSpec, VectorEnv, make_vector_env
from marlcore.evaluation import EvaluationResult, evaluate, record_video
from marlcore.policies.build import PolicyNeeds, build_policy
from marlcore.policies.layout import Kept
from marlcore.policies.protocol import Policy
from marlcore.recording import MemoryRecorder, Recorder
from marlcore.rng import NoiseSource, make_generator
from marlcore.trainer import Outcome, Trainer

EVALUATION_SEED_OFFSET = 1_000_003
"""Evaluated episodes are none of those trained on: their environments have another seed."""


def choose_device(name: str) -> torch.device:
    """Return the torch device of `training.device`.

    Raises:
        ValueError: if that GPU does not exist here.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    if name == "auto":
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"training.device={name}: this machine has {torch.cuda.device_count()} GPUs that torch "
            "can use; take training.device=cpu or auto"
        )
    return device


def make_environments(config: ExperimentConfig, *, seed: int, num_envs: int) -> VectorEnv:
    """Make the vector environment of a run, or of an evaluation with another seed."""
    num_workers = config.training.num_workers
    if num_workers is None:
        num_workers = 0 if config.env.kind in ("fake", "game") else len(os.sched_getaffinity(0))
    return make_vector_env(
        config.env,
        num_envs=num_envs,
        num_workers=num_workers,
        seed=seed,
        first_index=distributed.rank() * num_envs,
        worker_timeout_s=config.training.worker_timeout_s,
    )


def run(
    config: ExperimentConfig,
    *,
    run_dir: Path,
    spool: Spool | None,
    resume_from: Path | None,
) -> dict[str, Any]:
    """Train, evaluate, film; return what the summary shows.

    Args:
        config: of the run.
        run_dir: exists; checkpoints, evaluation and video go there.
        spool: the run's record; the first process has it.
        resume_from: checkpoint to go on from.

    Raises:
        ValueError: if the configuration cannot be run here (no such GPU, camera or factory).
    """
    training = config.training
    if training.num_threads is not None:
        torch.set_num_threads(training.num_threads)
    device = choose_device(training.device)
    with distributed.process_group(device), ExitStack() as stack:
        env = make_environments(config, seed=config.seed, num_envs=training.num_envs)
        stack.callback(env.close)
        store = CheckpointStore(run_dir, keep=training.keep_checkpoints)
        trainer = build_trainer(
            config, env=env, device=device, recorder=MemoryRecorder(), store=store
        )
        if distributed.is_main():
            print("\n".join(trainer.policy.notes), end="\n" if trainer.policy.notes else "")
        state, saved = None, None
        if resume_from is not None:
            state, saved = _load(run_dir, resume_from, device)
            trainer.restore(state)
        if spool is not None:  # nothing of the record is touched before the run can go on
            write_config(run_dir, config.model_dump(mode="json"))
            store.clean()
            store.drop_after(trainer.progress.env_steps)
            trainer.recorder = make_recorder(
                config,
                spool=spool,
                start_step=trainer.progress.env_steps,
                start_update=trainer.progress.num_updates,
                saved_at=saved,
            )
            stack.callback(trainer.recorder.close)
        outcome = trainer.train()
        env.close()
        result = _describe(outcome, run_dir)
        recorder = trainer.recorder
        del trainer, state  # the evaluation loads the policy anew: two would not always fit
        gc.collect()  # adapters and their layers know each other
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if outcome.reason in ("completed", "success") and distributed.is_main():
            result |= _final_evaluation(config, run_dir, recorder, outcome)
    return result


def kept_in_a_rollout(config: ExperimentConfig) -> Kept:
    """Return how many observations a rollout holds: decisions, ends of episodes, history."""
    env, training = config.env, config.training
    executed = env.executed_length or env.num_actions_chunk
    steps = training.num_steps_per_rollout
    ends = -(-steps * executed // env.max_episode_steps) + 1
    observations = training.num_envs * (steps + ends + env.history_length)
    return Kept(observations, training.num_envs)


def build_trainer(
    config: ExperimentConfig,
    *,
    env: VectorEnv,
    device: torch.device,
    recorder: Recorder,
    store: CheckpointStore | None,
) -> Trainer:
    """Put together what trains `config` in `env`; the policy is built here, on `device`."""
    training = config.training
    algorithm = build_algorithm(config.algorithm, num_agents=env.spec.num_agents)
    actions, shuffle = (make_generator(config.seed, name) for name in ("actions", "minibatches"))
    kept = kept_in_a_rollout(config)
    policy = _policy(config, env.spec, algorithm.needs, shuffle, device, kept)
    return Trainer(
        config=training,
        policy=policy,
        algorithm=algorithm,
        updater=PPOUpdater(policy, config.algorithm, shuffle=shuffle),
        env=env,
        collector=Collector(
            env,
            num_steps=training.num_steps_per_rollout,
            noise=NoiseSource(actions),
            device=device,
        ),
        generators={"actions": actions, "minibatches": shuffle},
        recorder=recorder,
        store=store,
        evaluate=lambda policy: _evaluate(
            config, policy, training.num_eval_episodes, config.seed, True, device
        ),
        stop_requested=stop_requested,
    )


def _policy(
    config: ExperimentConfig,
    spec: EnvSpec,
    needs: PolicyNeeds,
    shuffle: torch.Generator,
    device: torch.device,
    kept: Kept,
) -> Policy:
    return build_policy(
        config.policy,
        spec,
        needs,
        initialisation=make_generator(config.seed, "initialisation"),
        shuffle=shuffle,
        device=device,
        kept=kept,
    )


def _load(run_dir: Path, wanted: Path, device: torch.device) -> tuple[TrainState, float | None]:
    """The wanted checkpoint, or loudly the newest whole one before it; and when it was saved."""
    candidates = numbered_checkpoints(run_dir)
    if wanted in candidates:
        candidates = candidates[candidates.index(wanted) :]
    else:
        candidates = [wanted, *candidates]
    path, state, faults = load_first_good(candidates, device)
    for fault in faults:
        print(f"WARNING: damaged checkpoint passed over: {fault}", file=sys.stderr)
    if faults:
        print(f"WARNING: going on from {path} instead", file=sys.stderr)
    return state, saved_at(path)


def _final_evaluation(
    config: ExperimentConfig, run_dir: Path, recorder: Recorder, outcome: Outcome
) -> dict[str, Any]:
    """Evaluate and film the last policy, and keep both with the run."""
    video = run_dir / "video.mp4" if config.logging.video else None
    print(f"evaluating {config.training.num_eval_episodes} episodes", flush=True)
    result = evaluate_run(
        numbered_checkpoints(run_dir)[0],
        num_episodes=config.training.num_eval_episodes,
        seed=config.seed,
        deterministic=True,
        video=video,
    )
    path = run_dir / "evaluation.json"
    write_whole(path, json.dumps(result, indent=1))
    recorder.record(result["metrics"], step=outcome.progress.env_steps)
    recorder.add_artifact(path)
    if video is not None:
        recorder.add_artifact(video)
    return result


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
    """
    config, device = _settings_of(checkpoint)
    num_envs = min(config.training.num_envs, num_episodes)
    noise = None if deterministic else NoiseSource(make_generator(seed, "evaluation"))
    env = make_environments(config, seed=seed + EVALUATION_SEED_OFFSET, num_envs=num_envs)
    with contextlib.closing(env):
        policy, state = load_policy(checkpoint, env)
        outcome = evaluate(policy, env, num_episodes=num_episodes, noise=noise, device=device)
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


def _settings_of(checkpoint: Path) -> tuple[ExperimentConfig, torch.device]:
    """The configuration of a checkpoint's run, applied to this process, and where it runs here."""
    config = parse_config(read_config(checkpoint.parent))
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    return config, choose_device(config.training.device)


def load_policy(checkpoint: Path, env: VectorEnv) -> tuple[Policy, TrainState]:
    """Return the policy of a checkpoint, to act in `env`.

    Raises:
        ValueError: if the checkpoint is damaged.
    """
    config, device = _settings_of(checkpoint)
    state = load_checkpoint(checkpoint, device)
    algorithm = build_algorithm(config.algorithm, num_agents=env.spec.num_agents)
    kept = Kept(env.num_envs * (config.env.history_length + 1), env.num_envs)
    policy = _policy(config, env.spec, algorithm.needs, torch.Generator(), device, kept)
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


def _evaluate(
    config: ExperimentConfig,
    policy: Policy,
    num_episodes: int,
    seed: int,
    deterministic: bool,
    device: torch.device,
) -> EvaluationResult:
    noise = None if deterministic else NoiseSource(make_generator(seed, "evaluation"))
    num_envs = min(config.training.num_envs, num_episodes)
    env = make_environments(config, seed=seed + EVALUATION_SEED_OFFSET, num_envs=num_envs)
    with contextlib.closing(env):
        return evaluate(policy, env, num_episodes=num_episodes, noise=noise, device=device)


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
        record_video(policy, env, path, device=device)


def _describe(outcome: Outcome, run_dir: Path) -> dict[str, Any]:
    saved = numbered_checkpoints(run_dir)
    return {
        "reason": outcome.reason,
        "env_steps": outcome.progress.env_steps,
        "elapsed_s": outcome.progress.elapsed_s,
        "checkpoint": str(saved[0]) if saved else None,
    }
