"""The loop: collect, update, record, evaluate, save."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlcore import distributed
from marlcore.algorithms.ppo import PPOUpdater
from marlcore.algorithms.protocol import Algorithm
from marlcore.cadence import crossed
from marlcore.checkpoint import (
    CheckpointStore,
    TrainState,
    load_optimiser_tensors,
    optimiser_tensors,
)
from marlcore.cloning import CloningUpdater, DemonstrationCollector
from marlcore.collector import Collection, Collector
from marlcore.config import TrainingConfig
from marlcore.envs.protocol import Episode, VectorEnv
from marlcore.evaluation import EvaluationResult, EvaluationStoppedError
from marlcore.metrics import episode_metrics
from marlcore.policies.protocol import Policy
from marlcore.recording import Recorder

TIME_LIMIT = "time limit"
"""Why training ended if the time that is left is too short for another step."""

_RESERVE, _RESERVE_S = 1.5, 5.0
"""The next step and checkpoint may take so many times as long as the longest before, and more."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    env_steps: int = 0
    num_updates: int = 0
    elapsed_s: float = 0.0
    """Seconds of training, earlier attempts included."""
    best_score: tuple[float, float] | None = None
    """(success rate, return) of the best checkpoint."""
    evaluation_is_due: bool = False
    """A stop came before the evaluation of this step was done."""


@dataclass(frozen=True)
class Outcome:
    """Why training ended, and where."""

    progress: Progress
    reason: str
    """completed, success, the name of the signal that asked for it, or TIME_LIMIT."""
    episodes: tuple[Episode, ...]
    """The newest training episodes, `stop_window` of them at most."""


class Trainer:
    """Trains one policy with one algorithm; every process runs the same loop.

    Args:
        generators: every generator of the run by name, for the checkpoint.
        evaluate: runs an evaluation of the policy on environments of its own.
        stop_requested: name of a signal received, if any; asked between updates.
        time_left: seconds until the process will be ended from outside.
        store: where checkpoints go; None: nowhere.
    """

    def __init__(
        self,
        *,
        config: TrainingConfig,
        policy: Policy,
        algorithm: Algorithm,
        updater: PPOUpdater | CloningUpdater,
        env: VectorEnv,
        collector: Collector | DemonstrationCollector,
        generators: Mapping[str, torch.Generator],
        recorder: Recorder,
        store: CheckpointStore | None,
        evaluate: Callable[[Policy], EvaluationResult],
        stop_requested: Callable[[], str | None],
        time_left: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._config = config
        self.policy, self.algorithm, self.updater = policy, algorithm, updater
        self._env, self.collector = env, collector
        self._generators = generators
        self.recorder, self._store = recorder, store
        self._evaluate, self.stop_requested = evaluate, stop_requested
        self.time_left = time_left
        self._longest_step_s = self._longest_save_s = 0.0
        self._recent: deque[Episode] = deque(maxlen=config.stop_window)
        self._saved_at = -1
        self.progress = Progress()

    def train(self) -> Outcome:
        """Train until the env steps are used up, the success rate is reached or a signal came."""
        if self.progress.evaluation_is_due:
            self._record_evaluation()
        while (reason := self._reason_to_end()) is None:
            start = time.perf_counter()
            collection = self.collector.collect(self.policy)
            collected = time.perf_counter()
            rollout = collection.rollout
            targets = self.algorithm.targets(rollout)
            remaining = 1 - self.progress.env_steps / self._config.total_timesteps
            update = self.updater.update(rollout, targets, remaining=remaining)
            end = time.perf_counter()
            previous = self.progress
            self._advance(collection, seconds=end - start)
            times = {"env": collection.seconds["env"], "policy": collection.seconds["policy"]}
            self._record(collection, update, {**times, "update": end - collected}, end - start)
            if self._crossed(self._config.evaluate_every, previous):
                self._record_evaluation()
            self._longest_step_s = max(self._longest_step_s, time.perf_counter() - start)
            if self._crossed(self._config.checkpoint_every, previous):
                self.save()
        self.save()
        return Outcome(self.progress, reason, tuple(self._recent))

    def save(self) -> None:
        """Write a checkpoint of this moment, once."""
        env_steps = self.progress.env_steps
        if self._store is None or env_steps in (0, self._saved_at):
            return
        start = time.perf_counter()
        self._warn_of_the_time_left()
        score = self._score()
        best = self.progress.best_score
        is_best = score is not None and (best is None or score >= best)
        if is_best:
            self.progress = replace(self.progress, best_score=score)
        environments = distributed.gather_objects(self._env.state_dict())
        if distributed.is_main():
            state = self._state(environments)
            self._store.save(state, env_steps=env_steps, is_best=is_best)
        distributed.barrier()
        self._saved_at = env_steps
        self._longest_save_s = max(self._longest_save_s, time.perf_counter() - start)

    def restore(self, state: TrainState) -> None:
        """Go on from a checkpoint as if nothing had happened between.

        Raises:
            ValueError: if the checkpoint does not fit the run, naming what differs.
        """
        try:
            self.policy.load_state_dict(state.policy, strict=True)
        except RuntimeError as error:
            raise ValueError(f"the checkpoint's policy does not fit this run: {error}") from error
        load_optimiser_tensors(self._optimisers(), state.training)
        for name, generator in self._generators.items():
            generator.set_state(state.training[f"generator/{name}"])
        self.collector.start_from(self._env.load_state_dict(_own_environments(state)))
        document: dict[str, Any] = dict(state.progress)
        self._recent.extend(Episode(**episode) for episode in document.pop("recent_episodes"))
        best = document.pop("best_score")
        self.progress = Progress(**document, best_score=None if best is None else tuple(best))
        self._saved_at = self.progress.env_steps

    def _reason_to_end(self) -> str | None:
        own = self.stop_requested() or (TIME_LIMIT if self._time_is_up() else None)
        device = next(self.policy.parameters()).device
        if distributed.any_over_ranks(own is not None, device):
            return next(reason for reason in distributed.gather_objects(own) if reason is not None)
        wanted = self._config.stop_success_rate
        if wanted is not None and len(self._recent) == self._config.stop_window:
            rate = sum(bool(e.success) for e in self._recent) / len(self._recent)
            if rate >= wanted:
                return "success"
        return "completed" if self.progress.env_steps >= self._config.total_timesteps else None

    def _time_is_up(self) -> bool:
        needed = _RESERVE * (self._longest_step_s + self._longest_save_s) + _RESERVE_S
        return self.time_left() < needed

    def _warn_of_the_time_left(self) -> None:
        left = self.time_left()
        if self._longest_save_s > left and distributed.is_main():
            print(
                f"WARNING: saving took {self._longest_save_s:.0f} s before, {left:.0f} s are left; "
                "if they are not enough, the run goes on from its last whole checkpoint",
                file=sys.stderr,
            )

    def _advance(self, collection: Collection, *, seconds: float) -> None:
        self._recent.extend(collection.episodes)
        self.progress = replace(
            self.progress,
            env_steps=self.progress.env_steps + collection.num_env_steps,
            num_updates=self.progress.num_updates + 1,
            elapsed_s=self.progress.elapsed_s + seconds,
        )

    def _crossed(self, every: int | None, previous: Progress) -> bool:
        if every is None:
            return False
        return crossed(every, before=previous.env_steps, after=self.progress.env_steps)

    def _record(
        self,
        collection: Collection,
        update: Mapping[str, float],
        seconds: Mapping[str, float],
        total_s: float,
    ) -> None:
        returns = [episode.episode_return for episode in collection.episodes]
        extremes = (
            {"rollout/return_min": min(returns), "rollout/return_max": max(returns)}
            if returns
            else {}
        )
        reward = distributed.sum_over_ranks(collection.rollout.rewards.mean())
        metrics = {
            **episode_metrics("rollout", collection.episodes),
            **extremes,
            "rollout/reward_mean": reward.item() / distributed.world_size(),
            **update,
            **{f"update/{name}": value for name, value in self.algorithm.resolved().items()},
            **{f"time/{name}_s": value for name, value in seconds.items()},
            "time/env_steps_per_s": collection.num_env_steps / total_s,
            "time/elapsed_s": self.progress.elapsed_s,
            "system/memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "system/num_discarded": float(collection.num_discarded),
        }
        self.recorder.record(metrics, step=self.progress.env_steps)

    def _record_evaluation(self) -> None:
        """Evaluate; if a stop is asked for meanwhile, leave it to the resumed run."""
        is_due = False
        if distributed.is_main():
            try:
                metrics = self._evaluate(self.policy).metrics()
                self.recorder.record(metrics, step=self.progress.env_steps)
            except EvaluationStoppedError:
                is_due = True
        self.progress = replace(self.progress, evaluation_is_due=distributed.from_main(is_due))

    def _score(self) -> tuple[float, float] | None:
        if not self._recent:
            return None
        metrics = episode_metrics("rollout", list(self._recent))
        return metrics.get("rollout/success_held_rate", 0.0), metrics["rollout/return_mean"]

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"ppo": self.updater.optimiser, **self.policy.optimisers}

    def _state(self, environments: list[dict[str, NDArray[np.generic]]]) -> TrainState:
        training: dict[str, Tensor] = optimiser_tensors(self._optimisers())
        for name, generator in self._generators.items():
            training[f"generator/{name}"] = generator.get_state()
        for rank, part in enumerate(environments):
            for name, array in part.items():
                training[f"env/{rank}/{name}"] = torch.from_numpy(np.array(array))
        progress: dict[str, object] = {
            **asdict(self.progress),
            "recent_episodes": [asdict(episode) for episode in self._recent],
        }
        return TrainState(self.policy.state_dict(), training, progress)


def _own_environments(state: TrainState) -> dict[str, NDArray[np.generic]]:
    """Return what this process's environments saved."""
    saved = {name: tensor for name, tensor in state.training.items() if name.startswith("env/")}
    ranks = {name.split("/")[1] for name in saved}
    if len(ranks) != distributed.world_size():
        raise ValueError(
            f"the checkpoint is of {len(ranks)} processes, this run has "
            f"{distributed.world_size()}; resume with as many"
        )
    prefix = f"env/{distributed.rank()}/"
    return {
        name.removeprefix(prefix): tensor.numpy()
        for name, tensor in saved.items()
        if name.startswith(prefix)
    }
