"""From environments to rollouts, against an environment whose every number is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from marlcore.collector import Collector
from marlcore.envs.protocol import ActionSpec, EnvSpec, Episode, Observation, VectorStep
from marlcore.policies.policy import MultiAgentPolicy
from marlcore.rng import NoiseSource
from tests.factories import CPU, make_config, make_trainer


class CountingEnv:
    """Two environments whose observation is a count; ends are those of a script.

    Decision t ends environment 0 as `script` says: "terminated", "truncated", "discarded" or "".
    """

    num_envs = 2
    groups = (slice(0, 2),)

    def __init__(self, spec: EnvSpec, script: list[str]) -> None:
        self.spec, self._script, self._t = spec, script, 0

    def reset(self) -> Observation:
        return self._observation(0.0)

    def begin(self, group: int, actions: NDArray[np.generic]) -> None:
        assert (group, len(actions)) == (0, 2)

    def finish(self, group: int) -> VectorStep:
        end = self._script[self._t]
        self._t += 1
        flags = {name: np.array([end == name, False]) for name in ("terminated", "truncated")}
        discarded = np.array([end == "discarded", False])
        episode = Episode(0, 1.0, self._t, None, None)
        return VectorStep(
            observations=self._observation(float(self._t)),
            final_observations=self._observation(1000.0),
            rewards=np.array([1.0, 2.0], dtype=np.float32),
            discarded=discarded,
            executed_length=np.where(discarded, 0, 1)[:, None].repeat(2, 1),
            num_env_steps=int(2 - discarded.sum()),
            episodes=(episode,) if end in flags else (),
            **flags,
        )

    def _observation(self, value: float) -> Observation:
        shapes = self.spec.observation_shapes
        return {name: np.full((2, *shape), value, np.float32) for name, shape in shapes.items()}

    def close(self) -> None: ...


SPEC = EnvSpec(
    num_agents=2,
    actions=ActionSpec("continuous", (1, 1)),
    observation_shapes={"vector": (2, 1, 3), "state": (1, 4)},
    observation_dtypes={"vector": "float32", "state": "float32"},
)


class CountingPolicy(MultiAgentPolicy):
    """Its value is the count it sees."""

    def values(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        return observations["state"][:, 0, :1]


def collect(script: list[str]) -> tuple[Collector, MultiAgentPolicy]:
    from marlcore.policies.build import PolicyNeeds, build_policy

    config = make_config("mappo")
    generator = torch.Generator().manual_seed(0)
    policy = build_policy(
        config.policy,
        SPEC,
        PolicyNeeds(critic_per_agent=False),
        initialisation=generator,
        shuffle=generator,
    )
    policy.__class__ = CountingPolicy
    env = CountingEnv(SPEC, script)
    noise = NoiseSource(torch.Generator().manual_seed(0))
    return Collector(env, num_steps=3, noise=noise, device=CPU), policy


def test_a_truncated_episode_bootstraps_from_its_own_final_observation() -> None:
    collector, policy = collect(["", "truncated", ""])
    rollout = collector.collect(policy).rollout
    assert rollout.next_values[1, 0, 0] == 1000
    assert rollout.episode_ended[:, 0].tolist() == [False, True, False]
    assert not rollout.terminated.any()


def test_a_rollouts_end_bootstraps_and_is_no_end_of_an_episode() -> None:
    collector, policy = collect(["", "", ""])
    rollout = collector.collect(policy).rollout
    assert rollout.next_values[2, :, 0].tolist() == [3.0, 3.0]
    assert not rollout.episode_ended.any()


def test_a_void_decision_cuts_its_episode_off_and_counts_in_no_loss() -> None:
    collector, policy = collect(["", "discarded", ""])
    collection = collector.collect(policy)
    rollout = collection.rollout
    assert rollout.episode_ended[:, 0].tolist() == [True, True, False]
    assert rollout.active[:, 0, 0].tolist() == [True, False, True]
    assert collection.num_discarded == 1
    assert collection.num_env_steps == 5


def test_flag_t_is_returned_by_decision_t() -> None:
    collector, policy = collect(["terminated", "", ""])
    rollout = collector.collect(policy).rollout
    assert rollout.terminated[:, 0].tolist() == [True, False, False]
    assert rollout.inputs["vector"][:, 0, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]


def test_an_environment_goes_on_where_the_last_rollout_left_it() -> None:
    config = make_config(env={"max_episode_steps": 50}, training={"num_steps_per_rollout": 8})
    with make_trainer(config) as trainer:
        first = trainer.collector.collect(trainer.policy).rollout
        last_seen = first.inputs["vector"][-1].clone()
        second = trainer.collector.collect(trainer.policy).rollout
        assert not torch.equal(second.inputs["vector"][0], last_seen)
        assert not first.episode_ended.any()
        start = second.inputs["vector"][0].clone()
    with make_trainer(config) as again:  # a run of twice the length sees the same at step 8
        long = make_config(env={"max_episode_steps": 50}, training={"num_steps_per_rollout": 16})
        with make_trainer(long) as other:
            whole = other.collector.collect(again.policy).rollout
            torch.testing.assert_close(whole.inputs["vector"][8], start)


def test_the_number_of_workers_changes_no_number() -> None:
    rollouts = []
    for num_workers in (0, 2):
        with make_trainer(make_config(training={"num_workers": num_workers})) as trainer:
            rollouts.append(trainer.collector.collect(trainer.policy).rollout)
    assert torch.equal(rollouts[0].rewards, rollouts[1].rewards)
    assert torch.equal(rollouts[0].inputs["vector"], rollouts[1].inputs["vector"])


def test_groups_that_take_turns_change_no_number() -> None:
    """But for rounding, which differs with the size of a batch."""
    rollouts = []
    for num_groups in (1, 2, 3):
        training = {"num_envs": 5, "num_workers": 3, "num_env_groups": num_groups}
        config = make_config("acppo", env={"max_episode_steps": 7}, training=training)
        with make_trainer(config) as trainer:
            collector, policy = trainer.collector, trainer.policy
            assert len(collector._groups) == num_groups
            collector.collect(policy)
            collection = collector.collect(policy)
            rollout = collection.rollout
            rows = [rollout.rewards, rollout.values, rollout.next_values, rollout.log_probs]
            tensors = [*rows, rollout.inputs["vector"], collector.observations()["vector"]]
            episodes = [(e.env_index, e.episode_return) for e in collection.episodes]
            rollouts.append(([tensor.clone() for tensor in tensors], sorted(episodes)))
    for tensors, episodes in rollouts[1:]:
        for one, other in zip(tensors, rollouts[0][0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        assert episodes == [(index, pytest.approx(total)) for index, total in rollouts[0][1]]
        assert len(episodes) > 4
