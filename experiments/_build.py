"""From a typed configuration to the objects that train it, or a policy of it."""

from __future__ import annotations

import contextlib
import os
import textwrap
from pathlib import Path

import torch

from experiments import _stop
from marlcore import distributed
from marlcore.algorithms import PPOUpdater, build_algorithm
from marlcore.checkpoint import CheckpointStore, load_checkpoint
from marlcore.cloning import CloningUpdater, DemonstrationCollector, Demonstrations
from marlcore.collector import Collector
from marlcore.config import ExperimentConfig
from marlcore.envs import EnvSpec, VectorEnv, make_vector_env
from marlcore.evaluation import EvaluationResult, evaluate
from marlcore.policies.build import PolicyNeeds, build_policy
from marlcore.policies.layout import Kept
from marlcore.policies.protocol import Policy
from marlcore.recording import Recorder
from marlcore.rendezvous import place
from marlcore.rng import NoiseSource, make_generator
from marlcore.trainer import Trainer

EVALUATION_SEED_OFFSET = 1_000_003
"""Evaluated episodes are none of those trained on: their environments have another seed."""


def choose_device(name: str) -> torch.device:
    """Return the torch device of `training.device`.

    Raises:
        ValueError: if that GPU does not exist here.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        # Slurm may show every process its own GPU alone.
        device = torch.device("cuda", place().local_rank % torch.cuda.device_count())
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


def _num_cores() -> int:
    """Cores of this process; Slurm does not everywhere keep a process to what it was given."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    here = len(os.sched_getaffinity(0))
    return min(here, int(given)) if given.isdecimal() and int(given) else here


def make_environments(
    config: ExperimentConfig,
    *,
    seed: int,
    num_envs: int,
    num_groups: int = 1,
    stagger_episodes: bool = False,
) -> VectorEnv:
    """Make the vector environment of a run, or of an evaluation with another seed."""
    num_workers = config.training.num_workers
    if num_workers is None:
        is_cheap = config.env.kind in ("fake", "game") and num_groups == 1
        num_workers = 0 if is_cheap else max(_num_cores(), num_groups)
    return make_vector_env(
        config.env,
        num_envs=num_envs,
        num_workers=num_workers,
        num_groups=num_groups,
        seed=seed,
        first_index=distributed.rank() * num_envs,
        worker_timeout_s=config.training.worker_timeout_s,
        stagger_episodes=stagger_episodes,
    )


def make_training_environments(config: ExperimentConfig) -> VectorEnv:
    """Make the vector environment that this process collects from."""
    return make_environments(
        config,
        seed=config.seed,
        num_envs=config.training.num_envs,
        num_groups=config.training.num_env_groups,
        stagger_episodes=config.training.stagger_episodes,
    )


def kept_in_a_rollout(config: ExperimentConfig) -> Kept:
    """Return how many observations a rollout holds: decisions, ends of episodes, history."""
    env, training = config.env, config.training
    executed = env.executed_length or env.num_actions_chunk
    steps = training.num_steps_per_rollout
    if training.demonstrations is not None:  # drawn at random, each with a history of its own
        return Kept(training.num_envs * steps * env.history_length, training.num_envs)
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
    policy = make_policy(config, env.spec, algorithm.needs, shuffle, device, kept)
    updater = PPOUpdater if training.demonstrations is None else CloningUpdater
    return Trainer(
        config=training,
        policy=policy,
        algorithm=algorithm,
        updater=updater(policy, config.algorithm, shuffle=shuffle),
        env=env,
        collector=_make_collector(config, env, actions, device),
        generators={"actions": actions, "minibatches": shuffle},
        recorder=recorder,
        store=store,
        evaluate=lambda policy: evaluate_policy(
            config, policy, training.num_eval_episodes, config.seed, True, device
        ),
        stop_requested=_stop.stop_requested,
        time_left=_stop.time_left,
    )


def _make_collector(
    config: ExperimentConfig, env: VectorEnv, actions: torch.Generator, device: torch.device
) -> Collector | DemonstrationCollector:
    training = config.training
    num_steps = training.num_steps_per_rollout
    if training.demonstrations is None:
        return Collector(env, num_steps=num_steps, noise=NoiseSource(actions), device=device)
    source = Demonstrations(
        Path(training.demonstrations),
        env.spec,
        spacing=config.env.executed_length or config.env.num_actions_chunk,
    )
    print(
        f"{training.demonstrations}: {source.num_episodes} episodes, "
        f"{source.num_decisions:,} decisions"
    )
    return DemonstrationCollector(
        source, env, num_steps=num_steps, generator=actions, device=device
    )


def load_actors(policy: Policy, checkpoint: Path, device: torch.device) -> None:
    """Give a policy the actors of a checkpoint.

    Raises:
        ValueError: the checkpoint is damaged, or its actors are others.
    """
    state = load_checkpoint(checkpoint, device).policy
    heads = ("actors.", "joint.actors.")
    actors = {
        name.split("actors.", 1)[1]: tensor
        for name, tensor in state.items()
        if name.startswith(heads)
    }
    try:
        policy.actors.load_state_dict(actors, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"training.start_from: the actors of {checkpoint} do not fit this run; start from one "
            f"of the same env, policy and algorithm ({textwrap.shorten(str(error), 240)})"
        ) from None


def make_policy(
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


def evaluate_policy(
    config: ExperimentConfig,
    policy: Policy,
    num_episodes: int,
    seed: int,
    deterministic: bool,
    device: torch.device,
) -> EvaluationResult:
    env = make_evaluation_environments(config, seed=seed, num_episodes=num_episodes)
    with contextlib.closing(env):
        return evaluate_in(env, policy, num_episodes, seed, deterministic, device)


def make_evaluation_environments(
    config: ExperimentConfig, *, seed: int, num_episodes: int
) -> VectorEnv:
    """Make environments of fresh episodes, no more of them than episodes."""
    num_envs = min(config.training.num_envs, num_episodes)
    return make_environments(config, seed=seed + EVALUATION_SEED_OFFSET, num_envs=num_envs)


def evaluate_in(
    env: VectorEnv,
    policy: Policy,
    num_episodes: int,
    seed: int,
    deterministic: bool,
    device: torch.device,
) -> EvaluationResult:
    """Evaluate until all episodes are done, or a signal asks to stop.

    Raises:
        EvaluationStoppedError: it did.
    """
    noise = None if deterministic else NoiseSource(make_generator(seed, "evaluation"))
    return evaluate(
        policy,
        env,
        num_episodes=num_episodes,
        noise=noise,
        device=device,
        should_stop=_stop.should_stop,
    )
