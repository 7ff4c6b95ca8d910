"""The PPO update, once for all algorithms. arXiv 1707.06347.

T decisions   E environments   N agents   B minibatch rows   K chunk   C critics.
Sums run over processes: every process takes the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from marlcore import distributed
from marlcore.algorithms.report import UpdateReport
from marlcore.buffer import minibatches
from marlcore.config import PPOConfig
from marlcore.distributions import executed, executed_mask
from marlcore.losses import clipped_policy_loss, value_loss
from marlcore.policies.protocol import Policy
from marlcore.types import Evaluation, Minibatch, Rollout, Targets


@dataclass(frozen=True)
class Losses:
    """Sums over the rows of a microbatch, already divided by the minibatch's number of rows."""

    policy: Tensor
    """[N]."""
    value: Tensor
    """[C]."""
    entropy: Tensor
    """[N]."""


class PPOUpdater:
    """Epochs of minibatches with a clipped policy loss and a value loss.

        L = L_clip + value_coef L_value - entropy_coef E[H]

    Args:
        policy: whose actors and critics are trained.
        config: coefficients; see `PPOConfig`.
        shuffle: orders the minibatches; equal on every process.
    """

    def __init__(self, policy: Policy, config: PPOConfig, *, shuffle: torch.Generator) -> None:
        self._policy, self._config, self._shuffle = policy, config, shuffle
        self.optimiser = torch.optim.Adam(
            [
                {"params": _trained(policy.actors), "lr": config.actor_lr},
                {"params": _trained(policy.critics), "lr": config.critic_lr},
            ],
            eps=1e-5,
        )

    def update(
        self, rollout: Rollout, targets: Targets, *, remaining: float = 1.0
    ) -> dict[str, float]:
        """Improve the policy on a rollout; return the metrics.

        Args:
            rollout: of this process.
            targets: advantages and value targets of the rollout.
            remaining: share of the run still to come, for lr_decay and noise that falls.

        Raises:
            FloatingPointError: if a loss is not finite; the parameters keep their last good values.
        """
        config = self._config
        self._set_learning_rates(remaining if config.lr_decay else 1.0)
        report = UpdateReport(rollout, targets)
        data, targets = self._in_training_units(rollout, targets)
        order = self._order(rollout)
        if self._recomputes():
            data = self._with_own_log_probs(data, targets, order)
        for epoch in range(config.num_epochs):
            if epoch > 0:
                order = self._order(rollout)
            report.start_epoch()
            for minibatch in self._minibatches(data, targets, order):
                self._step(minibatch, report)
            if config.target_kl is not None and report.epoch_kl() > config.target_kl:
                break
        self._policy.actors.limit_noise(remaining)
        return {**report.metrics(), **self._policy.after_update(rollout)}

    def _in_training_units(self, rollout: Rollout, targets: Targets) -> tuple[Rollout, Targets]:
        """Return values and targets in the critics' unit, and advantages normalised, as asked."""
        moments = self._policy.value_moments
        old_values = moments.normalise(rollout.values)  # the unit they were predicted in
        if self._config.normalise_values:
            moments.update(targets.value_targets[rollout.active.any(-1)])
        advantages = targets.advantages
        if self._config.normalise_advantages:
            advantages = normalise_advantages(advantages, rollout.active)
        value_targets = moments.normalise(targets.value_targets)
        return replace(rollout, values=old_values), Targets(advantages, value_targets)

    def _step(self, minibatch: Minibatch, report: UpdateReport) -> None:
        """One optimiser step, over all processes and microbatches."""
        config = self._config
        self.optimiser.zero_grad()
        weights = _row_weights(minibatch)
        for part in self._microbatches(minibatch):
            evaluation = self._policy.evaluate(part.inputs, part.actions)
            losses = self.losses(part, evaluation, weights)
            total = (
                losses.policy.sum()
                + config.value_coef * losses.value.sum()
                - config.entropy_coef * losses.entropy.sum()
            )
            if not torch.isfinite(total):
                raise FloatingPointError(
                    f"the loss is {total.item()}: policy {losses.policy.tolist()}, value "
                    f"{losses.value.tolist()}; lower algorithm.actor_lr and critic_lr or "
                    "algorithm.max_grad_norm"
                )
            total.backward()
            report.add(part, evaluation, losses, clip_epsilon=config.clip_epsilon)
        actor_norm, critic_norm = (
            self._clipped_norm(module) for module in (self._policy.actors, self._policy.critics)
        )
        if not (torch.isfinite(actor_norm) and torch.isfinite(critic_norm)):
            raise FloatingPointError(
                f"a gradient is not finite (norm {actor_norm.item()} of the actors, "
                f"{critic_norm.item()} of the critics); lower algorithm.actor_lr and critic_lr"
            )
        report.add_norms(actor_norm, critic_norm)
        self.optimiser.step()

    def _order(self, rollout: Rollout) -> Tensor:
        return torch.randperm(rollout.rewards.numel(), generator=self._shuffle)

    def _minibatches(self, data: Rollout, targets: Targets, order: Tensor) -> Iterator[Minibatch]:
        number = self._config.num_minibatches
        return minibatches(data, targets, num_minibatches=number, order=order)

    def _microbatches(self, minibatch: Minibatch) -> list[Minibatch]:
        asked = self._config.microbatch_size
        return minibatch.split(self._policy.microbatch_size(minibatch.inputs, asked))

    def _recomputes(self) -> bool:
        asked = self._config.recompute_log_probs
        return self._policy.rounds_by_batch if asked is None else asked

    def _with_own_log_probs(self, data: Rollout, targets: Targets, order: Tensor) -> Rollout:
        """Compute old log-probs in the very batches of the first epoch: its ratios begin at 1."""
        parts = [
            self._policy.evaluate(part.inputs, part.actions).log_probs.detach()
            for minibatch in self._minibatches(data, targets, order)
            for part in self._microbatches(minibatch)
        ]
        log_probs = torch.cat(parts)
        own = torch.empty_like(log_probs)
        own[order.to(own.device)] = log_probs
        return replace(data, log_probs=own.view_as(data.log_probs))

    def losses(self, part: Minibatch, evaluation: Evaluation, weights: RowWeights) -> Losses:
        """Return the weighted losses of a microbatch, by agent and by critic."""
        config = self._config
        active_BN = part.executed_length > 0
        log_probs_BNK, advantages_BN = evaluation.log_probs, part.advantages
        old_BNK = part.log_probs
        mask_BNK = executed_mask(log_probs_BNK.shape[-1], part.executed_length)
        if config.ratio_level == "chunk":
            policy_BN = clipped_policy_loss(
                log_probs=executed(log_probs_BNK, part.executed_length).sum(-1),
                old_log_probs=executed(old_BNK, part.executed_length).sum(-1),
                advantages=advantages_BN,
                clip_epsilon=config.clip_epsilon,
            )
        else:
            policy_BNK = clipped_policy_loss(
                log_probs=log_probs_BNK,
                old_log_probs=old_BNK,
                advantages=advantages_BN.unsqueeze(-1).expand_as(old_BNK),
                clip_epsilon=config.clip_epsilon,
            )
            length = part.executed_length.clamp(min=1)
            policy_BN = (policy_BNK * mask_BNK).sum(-1) / length
        value_BC = value_loss(
            values=evaluation.values,
            old_values=part.values,
            value_targets=part.value_targets,
            value_clip=config.value_clip,
            huber_delta=config.huber_delta,
        )
        entropy_BN = executed(evaluation.entropy, part.executed_length).sum(-1)
        return Losses(
            policy=(policy_BN * active_BN).sum(0) * weights.per_agent,
            value=(value_BC * _critic_rows(active_BN, value_BC)).sum(0) * weights.per_critic,
            entropy=(entropy_BN * active_BN).sum(0) * weights.per_agent,
        )

    def _clipped_norm(self, module: nn.Module) -> Tensor:
        distributed.sum_gradients(module)
        return nn.utils.clip_grad_norm_(_trained(module), self._config.max_grad_norm)

    def _set_learning_rates(self, factor: float) -> None:
        rates = (self._config.actor_lr, self._config.critic_lr)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor


@dataclass(frozen=True)
class RowWeights:
    """1 / (active rows of the minibatch over all processes), counted by agents and by critics."""

    per_agent: Tensor
    per_critic: Tensor


def _row_weights(minibatch: Minibatch) -> RowWeights:
    active_BN = minibatch.executed_length > 0
    rows_BC = _critic_rows(active_BN, minibatch.value_targets)
    agents = distributed.sum_over_ranks(active_BN.sum().float()).clamp(min=1)
    critics = distributed.sum_over_ranks(rows_BC.sum().float()).clamp(min=1)
    return RowWeights(per_agent=1 / agents, per_critic=1 / critics)


def _critic_rows(active_BN: Tensor, like_BC: Tensor) -> Tensor:
    """Rows that count for critics [B, C]: any agent acted; the chain reads V of all of them."""
    return active_BN.any(-1, keepdim=True).expand_as(like_BC)


def normalise_advantages(advantages: Tensor, active: Tensor) -> Tensor:
    """Give each agent's active advantages [T, E, N] mean 0 and std 1, over all processes."""
    weights = active.double()
    count_N = distributed.sum_over_ranks(weights.sum((0, 1))).clamp(min=1)
    mean_N = distributed.sum_over_ranks((advantages * weights).sum((0, 1))) / count_N
    centred = advantages - mean_N
    variance_N = distributed.sum_over_ranks((centred.square() * weights).sum((0, 1))) / count_N
    return (centred / (variance_N.sqrt() + 1e-8)).to(advantages.dtype)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
