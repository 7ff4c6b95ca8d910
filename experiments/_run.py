"""One run: trained, evaluated, filmed; shared by the scripts."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch

from experiments import _stop
from experiments._build import (
    build_trainer,
    choose_device,
    load_actors,
    make_training_environments,
)
from experiments._evaluation import evaluate_run
from experiments._rundir import find_checkpoint, write_config
from experiments.recorders import make_recorder
from experiments.tracking.spool import Spool
from marlcore import distributed
from marlcore.checkpoint import (
    CheckpointStore,
    TrainState,
    load_checkpoint,
    load_first_good,
    numbered_checkpoints,
    saved_at,
)
from marlcore.config import ExperimentConfig
from marlcore.durable import write_whole
from marlcore.evaluation import EvaluationStoppedError
from marlcore.recording import MemoryRecorder, Recorder
from marlcore.rendezvous import place
from marlcore.trainer import Outcome, Trainer

_VISIBLE_S = 30.0
"""File systems of networks show a new directory with a delay."""


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
    with _process_group(config, device), ExitStack() as stack:
        env = make_training_environments(config)
        stack.callback(env.close)
        store = CheckpointStore(run_dir, keep=training.keep_checkpoints)
        trainer = build_trainer(
            config, env=env, device=device, recorder=MemoryRecorder(), store=store
        )
        if distributed.is_main():
            print("\n".join(trainer.policy.notes), end="\n" if trainer.policy.notes else "")
        saved = _begin(trainer, config, distributed.from_main(resume_from), device)
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
        del trainer  # the evaluation loads the policy anew: two would not always fit
        gc.collect()  # adapters and their layers know each other
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if outcome.reason in ("completed", "success") and distributed.is_main():
            result |= _final_evaluation(config, run_dir, recorder, outcome)
    return result


def _begin(
    trainer: Trainer, config: ExperimentConfig, resume_from: Path | None, device: torch.device
) -> float | None:
    """Load what training begins with; returns when the checkpoint it goes on from was saved."""
    if resume_from is not None:
        state, saved = _load(resume_from, device)
        trainer.restore(state)
        return saved
    if config.training.start_from is not None:
        start = find_checkpoint(config.training.start_from)
        load_actors(trainer.policy, start, device)
        if distributed.is_main():
            print(f"actors of {start}")
    return None


def _process_group(config: ExperimentConfig, device: torch.device) -> AbstractContextManager[None]:
    os.environ.update(distributed.settings(config.distributed))
    return distributed.process_group(
        device,
        connect_timeout_s=config.distributed.connect_timeout_s,
        collective_timeout_s=config.distributed.collective_timeout_s,
    )


def _load(wanted: Path, device: torch.device) -> tuple[TrainState, float | None]:
    """The wanted checkpoint, or loudly the newest whole one before it; and when it was saved.

    The first process chooses: others may see another state of a network's file system.
    """
    path, state = wanted, None
    if distributed.is_main():
        candidates = numbered_checkpoints(wanted.parent)
        if wanted in candidates:
            candidates = candidates[candidates.index(wanted) :]
        else:
            candidates = [wanted, *candidates]
        path, state, faults = load_first_good(candidates, device)
        for fault in faults:
            print(f"WARNING: damaged checkpoint passed over: {fault}", file=sys.stderr)
        if faults:
            print(f"WARNING: going on from {path} instead", file=sys.stderr)
    path = distributed.from_main(path)
    if state is None:
        _wait_for(path)
        state = load_checkpoint(path, device)
    return state, saved_at(path)


def _wait_for(path: Path) -> None:
    """Wait until this process sees what the first one has chosen."""
    deadline = time.monotonic() + _VISIBLE_S
    while not path.is_dir():
        if time.monotonic() > deadline:
            raise ValueError(
                f"{place()} does not see {path}, which the first process goes on from; the runs "
                "must lie on a file system that all nodes share (MARL_RUNS_DIR says where they are)"
            )
        time.sleep(0.2)


def _final_evaluation(
    config: ExperimentConfig, run_dir: Path, recorder: Recorder, outcome: Outcome
) -> dict[str, Any]:
    """Evaluate and film the last policy, and keep both with the run.

    If a signal stops it, the resumed run, which has nothing else to do, does it again.
    """
    video = run_dir / "video.mp4" if config.logging.video else None
    print(f"evaluating {config.training.num_eval_episodes} episodes", flush=True)
    try:
        result = evaluate_run(
            numbered_checkpoints(run_dir)[0],
            num_episodes=config.training.num_eval_episodes,
            seed=config.seed,
            deterministic=True,
            video=video,
        )
    except EvaluationStoppedError:
        return {"reason": _stop.stop_requested()}
    path = run_dir / "evaluation.json"
    write_whole(path, json.dumps(result, indent=1))
    recorder.record(result["metrics"], step=outcome.progress.env_steps)
    recorder.add_artifact(path)
    if video is not None:
        recorder.add_artifact(video)
    return result


def _describe(outcome: Outcome, run_dir: Path) -> dict[str, Any]:
    saved = numbered_checkpoints(run_dir)
    return {
        "reason": outcome.reason,
        "env_steps": outcome.progress.env_steps,
        "elapsed_s": outcome.progress.elapsed_s,
        "checkpoint": str(saved[0]) if saved else None,
    }
