"""Every metric key with its meaning. `/agent_n` behind a key is the same for one agent.

Phases: rollout (training episodes), update, eval, time, system. A rate over no episodes is absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from marlcore.envs.protocol import Episode

MEANINGS: dict[str, str] = {
    "rollout/return_mean": "undiscounted team return of the episodes that ended, mean",
    "rollout/return_min": "lowest of these returns",
    "rollout/return_max": "highest of these returns",
    "rollout/episode_length_mean": "env steps of these episodes, mean",
    "rollout/success_rate": "share of these episodes in which success held at some step",
    "rollout/success_held_rate": "share of these episodes in which success held at the last step",
    "rollout/num_episodes": "episodes that ended",
    "rollout/reward_mean": "team reward of a decision, mean",
    "update/policy_loss": "clipped surrogate loss, mean over agents and rows",
    "update/value_loss": "value loss, mean over critics and rows",
    "update/entropy": "entropy of an executed action chunk in nats, mean",
    "update/approx_kl": "KL(old || new) in nats, estimated in the last epoch",
    "update/clip_fraction": "share of ratios outside the clip interval in the last epoch",
    "update/ratio_min": "lowest probability ratio of the update, of the first process",
    "update/ratio_max": "highest probability ratio of the update, of the first process",
    "update/microbatch_size": "rows of one forward-backward, of the first process",
    "update/num_epochs": "epochs run before target_kl stopped the update",
    "update/grad_norm_actor": "gradient norm of the actors before clipping, mean over steps",
    "update/grad_norm_critic": "gradient norm of the critics before clipping, mean over steps",
    "update/explained_variance": "1 - Var(target - value) / Var(target) before the update",
    "update/cloning_loss": "L1 distance of mean actions to demonstrated ones, mean",
    "update/belief_kl": "KL(true || predicted) of learned beliefs in nats",
    "update/gamma": "discount of a decision",
    "update/gamma_prime": "discount of a microstep",
    "update/lambda_prime": "lambda of a microstep",
    "update/decision_discount": "gamma_prime ** N, the discount of a decision that follows",
    "eval/return_mean": "undiscounted team return of the evaluated episodes, mean",
    "eval/return_std": "standard deviation of these returns",
    "eval/episode_length_mean": "env steps of these episodes, mean",
    "eval/success_rate": "share of these episodes in which success held at some step",
    "eval/success_held_rate": "share of these episodes in which success held at the last step",
    "eval/num_episodes": "episodes evaluated",
    "time/env_steps_per_s": "env steps a second of this update, collection and update together",
    "time/env_s": "seconds in environments",
    "time/policy_s": "seconds choosing actions",
    "time/update_s": "seconds updating",
    "time/elapsed_s": "seconds since the run began, earlier attempts included",
    "system/memory_mib": "resident memory of this process",
    "system/num_discarded": "decisions lost to failures of environment workers in this rollout",
}


def meaning(key: str) -> str:
    """Return what a metric means.

    Raises:
        KeyError: if no such metric is declared.
    """
    return MEANINGS[re.sub(r"/agent_\d+$", "", key)]


def episode_metrics(phase: str, episodes: Sequence[Episode]) -> dict[str, float]:
    """Return length and success metrics of some episodes; nothing of none."""
    if not episodes:
        return {}
    metrics = {
        f"{phase}/return_mean": _mean(e.episode_return for e in episodes),
        f"{phase}/episode_length_mean": _mean(e.length for e in episodes),
        f"{phase}/num_episodes": float(len(episodes)),
    }
    if episodes[0].success is not None:
        metrics[f"{phase}/success_rate"] = _mean(bool(e.success) for e in episodes)
        metrics[f"{phase}/success_held_rate"] = _mean(bool(e.success_held) for e in episodes)
    return metrics


def _mean(values: Iterable[float]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)
