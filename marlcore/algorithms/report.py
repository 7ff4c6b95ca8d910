"""What an update reports: losses, divergence, clipping, gradients, how well critics explain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from marlcore import distributed
from marlcore.distributions import executed
from marlcore.losses import approximate_kl, explained_variance
from marlcore.types import Evaluation, Minibatch, Rollout, Targets

if TYPE_CHECKING:
    from marlcore.algorithms.ppo import Losses


class UpdateReport:
    """Gathers tensors during an update and turns them into numbers once at its end."""

    def __init__(self, rollout: Rollout, targets: Targets) -> None:
        self._explained_C = [
            explained_variance(
                values=rollout.values[..., c], value_targets=targets.value_targets[..., c]
            )
            for c in range(rollout.values.shape[-1])
        ]
        self._policy: list[Tensor] = []
        self._value: list[Tensor] = []
        self._entropy: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._ratios: list[tuple[Tensor, Tensor]] = []
        self._kl_sums: list[Tensor] = []
        self._num_epochs = 0
        self._num_steps = 0
        self._microbatch_size = 0

    def start_epoch(self) -> None:
        """A new pass over the rollout begins."""
        self._kl_sums = []
        self._num_epochs += 1

    @torch.no_grad()
    def add(
        self, part: Minibatch, evaluation: Evaluation, losses: Losses, *, clip_epsilon: float
    ) -> None:
        """Take in a microbatch."""
        self._microbatch_size = max(self._microbatch_size, len(part.actions))
        self._policy.append(losses.policy.detach())
        self._value.append(losses.value.detach())
        self._entropy.append(losses.entropy.detach())
        difference = executed(evaluation.log_probs - part.log_probs, part.executed_length).sum(-1)
        log_ratio = difference[part.executed_length > 0]
        if log_ratio.numel() == 0:
            return
        ratio = log_ratio.exp()
        clipped = ((ratio - 1).abs() > clip_epsilon).sum()
        count = torch.full_like(clipped, ratio.numel())
        kl = approximate_kl(log_ratio).sum()
        self._kl_sums.append(torch.stack([kl, clipped.to(kl.dtype), count.to(kl.dtype)]))
        self._ratios.append((ratio.min(), ratio.max()))

    def add_norms(self, actor: Tensor, critic: Tensor) -> None:
        """Take in an optimiser step's gradient norms, before clipping."""
        self._norms.append(torch.stack([actor, critic]))
        self._num_steps += 1

    def epoch_kl(self) -> float:
        """Return the mean approximate KL of this epoch, over all processes."""
        return self._epoch_mean(0)

    def metrics(self) -> dict[str, float]:
        """Return everything, over all processes; divergence and clipping are the last epoch's."""
        policy_N, value_C, entropy_N = (
            distributed.sum_over_ranks(torch.stack(parts).sum(0)) / self._num_steps
            for parts in (self._policy, self._value, self._entropy)
        )
        metrics = {
            "update/policy_loss": policy_N.sum().item(),
            "update/value_loss": value_C.sum().item(),
            "update/entropy": entropy_N.sum().item(),
            "update/approx_kl": self._epoch_mean(0),
            "update/clip_fraction": self._epoch_mean(1),
            "update/ratio_min": min((low.item() for low, _ in self._ratios), default=1.0),
            "update/ratio_max": max((high.item() for _, high in self._ratios), default=1.0),
            "update/microbatch_size": float(self._microbatch_size),
            "update/num_epochs": float(self._num_epochs),
        }
        actor_norm, critic_norm = cast(list[float], torch.stack(self._norms).mean(0).tolist())
        metrics["update/grad_norm_actor"] = actor_norm
        metrics["update/grad_norm_critic"] = critic_norm
        for agent, loss in enumerate(cast(list[float], policy_N.tolist())):
            metrics[f"update/policy_loss/agent_{agent}"] = loss * len(policy_N)
        return {**metrics, **self._explained()}

    def _explained(self) -> dict[str, float]:
        values = [value.item() for value in self._explained_C]
        if len(values) == 1:
            named = {"update/explained_variance": values[0]}
        else:
            named = {f"update/explained_variance/agent_{i}": v for i, v in enumerate(values)}
        return {key: value for key, value in named.items() if math.isfinite(value)}

    def _epoch_mean(self, column: int) -> float:
        sums = torch.stack(self._kl_sums).sum(0) if self._kl_sums else self._policy[0].new_zeros(3)
        total = distributed.sum_over_ranks(sums)
        return (total[column] / total[2].clamp(min=1)).item()
