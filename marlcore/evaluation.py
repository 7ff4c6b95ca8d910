"""Whole episodes of a policy: metrics with their intervals, and a video."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlcore.envs.protocol import Episode, VectorEnv
from marlcore.metrics import episode_metrics
from marlcore.policies.protocol import Policy
from marlcore.rng import NoiseSource
from marlcore.types import to_tensors


class EvaluationStoppedError(Exception):
    """A stop was asked for half-way; nothing of the episodes counts."""


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes of one policy."""

    episodes: tuple[Episode, ...]

    def metrics(self) -> dict[str, float]:
        """Return the metrics of phase eval."""
        returns = np.array([episode.episode_return for episode in self.episodes])
        return {**episode_metrics("eval", self.episodes), "eval/return_std": float(returns.std())}


def evaluate(
    policy: Policy,
    env: VectorEnv,
    *,
    num_episodes: int,
    noise: NoiseSource | None,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> EvaluationResult:
    """Run exactly `num_episodes`, the same number of each environment (give or take one).

    Quotas, not the first to finish: otherwise short episodes would be counted too often.

    Args:
        policy: its mode acts where `noise` is None.
        env: is reset first.
        num_episodes: over all environments.
        noise: samples actions instead.
        device: of the policy.
        should_stop: asked before every decision.

    Raises:
        EvaluationStoppedError: it said so.
    """
    quota = [len(range(e, num_episodes, env.num_envs)) for e in range(env.num_envs)]
    finished: list[list[Episode]] = [[] for _ in quota]
    observations = to_tensors(env.reset(), device)
    while any(len(done) < wanted for done, wanted in zip(finished, quota, strict=True)):
        _go_on_unless(should_stop)
        decision = policy.decide(observations, noise)
        outcome = env.step(_to_numpy(decision.actions))
        observations = to_tensors(outcome.observations, device)
        for episode in outcome.episodes:
            if len(finished[episode.env_index]) < quota[episode.env_index]:
                finished[episode.env_index].append(episode)
    return EvaluationResult(tuple(episode for done in finished for episode in done))


def record_video(
    policy: Policy,
    env: VectorEnv,
    path: Path,
    *,
    device: torch.device,
    max_episodes: int = 3,
    fps: int = 20,
    should_stop: Callable[[], bool] = lambda: False,
) -> Episode:
    """Film the first environment's episode, its next ones if it fails, and write the last filmed.

    An H.264 file of one picture a decision: real time at chunk 1 and 20 Hz.

    Returns:
        The filmed episode.

    Raises:
        EvaluationStoppedError: `should_stop`, asked before every decision, said so.
    """
    observations = to_tensors(env.reset(), device)
    frames: list[NDArray[np.uint8]] = [env.render(0)]
    filmed = 0
    while True:
        _go_on_unless(should_stop)
        outcome = env.step(_to_numpy(policy.decide(observations, None).actions))
        observations = to_tensors(outcome.observations, device)
        episode = next((e for e in outcome.episodes if e.env_index == 0), None)
        if episode is None:
            frames.append(env.render(0))
            continue
        filmed += 1
        if episode.success is not False or filmed == max_episodes:
            _write_video(frames, path, fps)
            return episode
        frames = [env.render(0)]


def _go_on_unless(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise EvaluationStoppedError


def _write_video(frames: Sequence[NDArray[np.uint8]], path: Path, fps: int) -> None:
    import imageio_ffmpeg  # only where a video is made

    height, width, _ = frames[0].shape
    writer = cast(
        Generator[None, NDArray[np.uint8] | None],
        imageio_ffmpeg.write_frames(
            str(path), (width, height), fps=fps, macro_block_size=2, ffmpeg_log_level="error"
        ),
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def _to_numpy(tensor: Tensor) -> NDArray[np.generic]:
    return cast(NDArray[np.generic], tensor.cpu().numpy())
