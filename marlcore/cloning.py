"""Behaviour cloning: actors are fitted to demonstrations, by the loop that trains with rewards.

A collector that reads demonstrations in place of running environments, and an update with an L1
loss in place of PPO's. Everything else, from records to resumption, is the trainer's.

T decisions   E environments   N agents   K chunk   D action   H history   M decisions in all
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from marlcore import distributed
from marlcore.buffer import Buffer, minibatches
from marlcore.collector import Collection
from marlcore.config import PPOConfig
from marlcore.distributions import Gaussian, executed
from marlcore.envs import demonstrations
from marlcore.envs.protocol import EnvSpec, Observation, VectorEnv
from marlcore.policies.protocol import Policy
from marlcore.types import Inputs, Minibatch, Rollout, Step, Targets, to_tensors


class Demonstrations:
    """All decisions of a folder, in memory: a decision begins at every env step.

    Args:
        folder: of demonstrations.
        spec: of the environments that the policy is for; observations and actions must be alike.
        spacing: env steps between the observations of a history.

    Raises:
        ValueError: no demonstrations, or of other observations or actions.
    """

    def __init__(self, folder: Path, spec: EnvSpec, *, spacing: int) -> None:
        meta = demonstrations.read_meta(folder)
        _check(folder, meta, spec)
        paths = demonstrations.episodes_of(folder)
        if not paths:
            raise ValueError(f"{folder} holds no episode; collect some")
        self._episodes = [demonstrations.read_episode(path) for path in paths]
        self._spec, self._spacing = spec, spacing
        lengths = [len(episode["actions"]) for episode in self._episodes]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self.num_decisions = int(self._starts[-1])
        """M."""
        self.num_episodes = len(paths)

    def decision(self, number: int) -> tuple[Observation, NDArray[np.float32], int, float]:
        """Observation [N, H, ...], actions [N, K, D], how many of K there are, and their reward.

        Args:
            number: in [0, M).
        """
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        episode, step = self._episodes[which], number - int(self._starts[which])
        length = min(self._spec.chunk_length, len(episode["actions"]) - step)
        rows = np.minimum(np.arange(step, step + self._spec.chunk_length), step + length - 1)
        observation: Observation = {}
        for name, shape in self._spec.observation_shapes.items():
            axis = 0 if name == "state" else 1
            past = step - self._spacing * np.arange(shape[axis])
            observation[name] = np.moveaxis(episode[name][np.maximum(past, 0)], 0, axis)
        reward = float(episode["rewards"][step : step + length].sum())
        return observation, episode["actions"][rows].swapaxes(0, 1), length, reward


class DemonstrationCollector:
    """Rollouts of demonstrated decisions, drawn at random with replacement.

    What is drawn follows from the generator alone, so a checkpoint of it is a checkpoint of this.

    Args:
        source: what is drawn from.
        env: whose state a checkpoint holds; it is not stepped.
        num_steps: T of a rollout.
        generator: draws.
        device: of the policy.
    """

    def __init__(
        self,
        source: Demonstrations,
        env: VectorEnv,
        *,
        num_steps: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self._source, self._env = source, env
        self._num_steps, self._generator, self._device = num_steps, generator, device
        self._buffer = Buffer(num_steps, env.num_envs)
        self._is_reset = False

    def start_from(self, observations: Observation) -> None:
        """Go on after a resume; the environments' observations mean nothing here."""
        del observations
        self._is_reset = True

    def collect(self, policy: Policy) -> Collection:
        """Draw one rollout; valid until the next."""
        if not self._is_reset:
            self._env.reset()
            self._is_reset = True
        steps = [self._draw(policy) for _ in range(self._num_steps)]
        for step in steps:
            self._buffer.append(step, slice(0, self._env.num_envs))
        rollout = self._buffer.rollout(bootstrap=torch.zeros_like(steps[-1].values))
        num_env_steps = rollout.executed_length[..., 0].sum()
        total = int(distributed.sum_over_ranks(num_env_steps))
        return Collection(rollout, (), total, 0, {"env": 0.0, "policy": 0.0})

    def _draw(self, policy: Policy) -> Step:
        """E decisions as a row of a rollout."""
        num_envs = self._env.num_envs
        drawn = torch.randint(self._source.num_decisions, (num_envs,), generator=self._generator)
        found = [self._source.decision(int(number)) for number in drawn]
        seen, actions, lengths, rewards = zip(*found, strict=True)
        observations = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
        decision = policy.decide(to_tensors(observations, self._device), None)
        values = decision.values
        ended = torch.ones(num_envs, dtype=torch.bool, device=self._device)
        length_EN = torch.tensor(lengths, device=self._device).unsqueeze(-1)
        return Step(
            inputs=decision.inputs,
            actions=torch.as_tensor(np.stack(actions), device=self._device),
            log_probs=torch.zeros_like(decision.log_probs),
            values=values,
            rewards=torch.tensor(rewards, dtype=torch.float32, device=self._device),
            next_values=torch.zeros_like(values),
            terminated=ended,
            episode_ended=ended,
            executed_length=length_EN.repeat(1, decision.actions.shape[1]),
        )


class CloningUpdater:
    """One pass over drawn decisions: L1 between the mean of each action and the demonstrated one.

        L = mean over agents, rows and their executed actions of |mu_d - a_d|, averaged over D

    Standard deviations and critics are left as they are.

    Args:
        policy: whose actors are fitted.
        config: actor_lr, num_minibatches, microbatch_size, max_grad_norm, lr_decay.
        shuffle: orders the minibatches; equal on every process.
    """

    def __init__(self, policy: Policy, config: PPOConfig, *, shuffle: torch.Generator) -> None:
        self._policy, self._config, self._shuffle = policy, config, shuffle
        self._parameters = [p for p in policy.actors.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self._parameters, lr=config.actor_lr, eps=1e-5)

    def update(
        self, rollout: Rollout, targets: Targets, *, remaining: float = 1.0
    ) -> dict[str, float]:
        """Fit the actors; return the metrics.

        Raises:
            FloatingPointError: the loss is not finite; the parameters keep their last good values.
        """
        config = self._config
        for group in self.optimiser.param_groups:
            group["lr"] = config.actor_lr * (remaining if config.lr_decay else 1.0)
        order = torch.randperm(rollout.rewards.numel(), generator=self._shuffle)
        losses: list[float] = []
        norms: list[float] = []
        for minibatch in minibatches(
            rollout, targets, num_minibatches=config.num_minibatches, order=order
        ):
            loss, norm = self._step(minibatch)
            losses.append(loss)
            norms.append(norm)
        return {
            "update/cloning_loss": sum(losses) / len(losses),
            "update/grad_norm_actor": sum(norms) / len(norms),
            **self._policy.after_update(rollout),
        }

    def _step(self, minibatch: Minibatch) -> tuple[float, float]:
        for parameter in self._parameters:  # standard deviations have none; Adam keeps all alike
            parameter.grad = torch.zeros_like(parameter)
        counts = minibatch.executed_length.sum().float()
        count = distributed.sum_over_ranks(counts).clamp(min=1)
        size = self._policy.microbatch_size(minibatch.inputs, self._config.microbatch_size)
        total = torch.zeros((), device=count.device)
        for part in minibatch.split(size):
            loss = self._distances(part.inputs, part).sum() / count
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()}; lower algorithm.actor_lr")
            loss.backward()
            total += loss.detach()
        distributed.sum_gradients(self._policy.actors)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        self.optimiser.step()
        return distributed.sum_over_ranks(total).item(), norm.item()

    def _distances(self, inputs: Inputs, part: Minibatch) -> Tensor:
        """Of each executed action [B, N, K], zero elsewhere."""
        distribution, _ = self._policy.actors.act(inputs, inputs.get("beliefs"))
        assert isinstance(distribution, Gaussian), "demonstrations have continuous actions"
        off = torch.where(distribution.used, (distribution.mean - part.actions).abs(), 0.0)
        return executed(off.sum(-1) / distribution.used.sum(-1), part.executed_length)


def _check(folder: Path, meta: dict[str, Any], spec: EnvSpec) -> None:
    """Refuse demonstrations of other observations or actions."""
    found = {name: tuple(shape) for name, shape in meta["observation_shapes"].items()}
    for name, shape in spec.observation_shapes.items():
        axis = 0 if name == "state" else 1
        wanted = (*shape[:axis], *shape[axis + 1 :])
        if found.get(name) != wanted:
            raise ValueError(
                f"{folder} has {name} of shape {found.get(name)}, this run's is {wanted}; collect "
                "demonstrations with the same env.observations, env.cameras and env.image_size"
            )
    sizes = tuple(meta["action_sizes"])
    if sizes != spec.actions.sizes:
        raise ValueError(
            f"{folder} has actions of {sizes} dimensions, this run {spec.actions.sizes}"
        )
