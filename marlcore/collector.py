"""Environment and policy in, rollouts out; the environment's state lives on between rollouts.

T decisions   E environments   N agents   C critics.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from marlcore import distributed
from marlcore.buffer import Buffer
from marlcore.envs.protocol import Episode, Observation, VectorEnv, VectorStep
from marlcore.policies.protocol import Policy
from marlcore.rng import NoiseSource, SharedNoise
from marlcore.types import Decision, Inputs, Rollout, Step, to_tensors


@dataclass(frozen=True)
class Collection:
    """A rollout and what happened in it, over all processes."""

    rollout: Rollout
    episodes: tuple[Episode, ...]
    """Finished in this rollout."""
    num_env_steps: int
    num_discarded: int
    """Decisions lost to failures of environment workers."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Where the time went: env, policy."""


class Collector:
    """Runs T decisions of E environments at a time.

    Groups of environments take turns: while the policy decides for one, the others step.
    """

    def __init__(
        self, env: VectorEnv, *, num_steps: int, noise: NoiseSource, device: torch.device
    ) -> None:
        self._env = env
        self._groups = env.groups
        self._num_steps = num_steps
        self._noise = SharedNoise(noise, self._groups)
        self._device = device
        self._buffer = Buffer(num_steps, env.num_envs)
        self._observations: list[Inputs] = []
        self._seconds = {"env": 0.0, "policy": 0.0}

    def start_from(self, observations: Observation) -> None:
        """Go on from these observations [E, ...] instead of resetting (after a resume)."""
        self._observations = [
            to_tensors({name: array[rows] for name, array in observations.items()}, self._device)
            for rows in self._groups
        ]

    def collect(self, policy: Policy) -> Collection:
        """Run one rollout; valid until the next."""
        if not self._observations:
            self.start_from(self._env.reset())
        episodes: list[Episode] = []
        num_env_steps = num_discarded = 0
        self._seconds = {"env": 0.0, "policy": 0.0}
        groups = range(len(self._groups))
        decisions = [self._decide(policy, group) for group in groups]
        for step in range(self._num_steps):
            for group in groups:
                start = time.perf_counter()
                outcome = self._env.finish(group)
                self._seconds["env"] += time.perf_counter() - start
                self._store(policy, decisions[group], outcome, self._groups[group])
                self._observations[group] = to_tensors(outcome.observations, self._device)
                if step + 1 < self._num_steps:
                    decisions[group] = self._decide(policy, group)
                episodes.extend(outcome.episodes)
                num_env_steps += outcome.num_env_steps
                num_discarded += int(outcome.discarded.sum())
        rollout = self._buffer.rollout(bootstrap=policy.values(self.observations()))
        return _over_ranks(
            Collection(rollout, tuple(episodes), num_env_steps, num_discarded, self._seconds)
        )

    def observations(self) -> Inputs:
        """What all environments show now, [E, ...]."""
        first, *others = self._observations
        if not others:
            return first
        return {name: torch.cat([part[name] for part in self._observations]) for name in first}

    def _decide(self, policy: Policy, group: int) -> Decision:
        """Decide for a group and have it begin to step."""
        start = time.perf_counter()
        decision = policy.decide(self._observations[group], self._noise.of(group))
        actions = cast(NDArray[np.generic], decision.actions.cpu().numpy())
        chosen = time.perf_counter()
        self._env.begin(group, actions)
        self._seconds["policy"] += chosen - start
        self._seconds["env"] += time.perf_counter() - chosen
        return decision

    def _store(self, policy: Policy, decision: Decision, outcome: VectorStep, group: slice) -> None:
        values = decision.values
        next_values = torch.full_like(values, torch.nan)  # the buffer fills in successors
        if outcome.truncated.any():  # a terminated state's value is never read
            rows = outcome.truncated
            final = {name: array[rows] for name, array in outcome.final_observations.items()}
            ended = torch.as_tensor(rows, device=self._device)
            next_values[ended] = policy.values(to_tensors(final, self._device))
        discarded = torch.as_tensor(outcome.discarded, device=self._device)
        self._buffer.cut_before(discarded, group)
        terminated = torch.as_tensor(outcome.terminated, device=self._device)
        truncated = torch.as_tensor(outcome.truncated, device=self._device)
        self._buffer.append(
            Step(
                inputs=decision.inputs,
                actions=decision.actions,
                log_probs=decision.log_probs,
                values=values,
                rewards=torch.as_tensor(outcome.rewards, device=self._device),
                next_values=next_values,
                terminated=terminated,
                episode_ended=terminated | truncated | discarded,
                executed_length=torch.as_tensor(outcome.executed_length, device=self._device),
            ),
            group,
        )


def _over_ranks(own: Collection) -> Collection:
    """Join what every process saw; the rollout stays this process's own."""
    everyone = distributed.gather_objects((own.episodes, own.num_env_steps, own.num_discarded))
    return Collection(
        rollout=own.rollout,
        episodes=tuple(episode for episodes, _, _ in everyone for episode in episodes),
        num_env_steps=sum(steps for _, steps, _ in everyone),
        num_discarded=sum(lost for _, _, lost in everyone),
        seconds=own.seconds,
    )
