"""The update: gradients, weights of rows, stopping, normalisation."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch

from marlcore.algorithms import PPOUpdater, build_algorithm
from marlcore.algorithms.ppo import normalise_advantages
from marlcore.buffer import minibatches
from marlcore.collector import Collection
from marlcore.config import ExperimentConfig
from marlcore.policies.protocol import Policy
from marlcore.types import Rollout, Targets
from tests.factories import make_config, make_trainer


def collect(config: ExperimentConfig) -> tuple[Policy, Collection, Targets]:
    """One rollout of a fresh policy, with targets."""
    with make_trainer(config) as trainer:
        collection = trainer.collector.collect(trainer.policy)
        return trainer.policy, collection, trainer.algorithm.targets(collection.rollout)


def gradients_of(
    config: ExperimentConfig, policy: Policy, rollout: Rollout, targets: Targets
) -> list[torch.Tensor]:
    """Gradients of the first optimiser step."""
    own = copy.deepcopy(policy)
    algorithm = config.algorithm.model_copy(
        update={"num_epochs": 1, "num_minibatches": 1, "max_grad_norm": 1e9}
    )
    updater = PPOUpdater(own, algorithm, shuffle=torch.Generator().manual_seed(0))
    updater.update(rollout, targets)
    return [p.grad for p in own.parameters() if p.grad is not None]


@pytest.mark.parametrize("algorithm", ["mappo", "acppo", "ippo"])
@pytest.mark.parametrize("ratio_level", ["chunk", "action"])
def test_the_first_ratio_of_an_update_is_one(algorithm: str, ratio_level: str) -> None:
    """Invariant (a), through collector, buffer and update."""
    config = make_config(
        algorithm,
        env={"num_actions_chunk": 3},
        algorithm={"num_epochs": 1, "num_minibatches": 1, "ratio_level": ratio_level},
    )
    policy, collection, targets = collect(config)
    updater = PPOUpdater(policy, config.algorithm, shuffle=torch.Generator().manual_seed(0))
    metrics = updater.update(collection.rollout, targets)
    assert metrics["update/ratio_min"] == pytest.approx(1, abs=1e-6)
    assert metrics["update/ratio_max"] == pytest.approx(1, abs=1e-6)
    assert metrics["update/approx_kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["update/clip_fraction"] == 0


@pytest.mark.parametrize("algorithm", ["mappo", "acppo"])
def test_microbatches_change_memory_and_not_the_gradient(algorithm: str) -> None:
    config = make_config(algorithm)
    policy, collection, targets = collect(config)
    split = config.model_copy(
        update={"algorithm": config.algorithm.model_copy(update={"microbatch_size": 7})}
    )
    whole = gradients_of(config, policy, collection.rollout, targets)
    parts = gradients_of(split, policy, collection.rollout, targets)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("belief", ["estimate", "learned", "oracle"])
def test_one_agent_has_nobody_to_believe_anything_of(belief: str) -> None:
    config = make_config("acppo", env={"num_agents": 1}, algorithm={"belief": belief})
    policy, collection, targets = collect(config)
    updater = PPOUpdater(policy, config.algorithm, shuffle=torch.Generator().manual_seed(0))
    assert "update/policy_loss" in updater.update(collection.rollout, targets)


@pytest.mark.parametrize("algorithm", ["mappo", "acppo", "ippo"])
def test_a_row_that_did_not_run_changes_nothing(algorithm: str) -> None:
    config = make_config(algorithm, algorithm={"entropy_coef": 0.1})
    policy, collection, targets = collect(config)
    rollout = collection.rollout
    rollout.executed_length[3, 1] = 0  # of every agent
    before = gradients_of(config, policy, rollout, targets)

    def spoilt(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[3, 1] += 100.0
        return tensor

    changed = dataclasses.replace(
        rollout, log_probs=spoilt(rollout.log_probs), actions=spoilt(rollout.actions)
    )
    wild = Targets(spoilt(targets.advantages), spoilt(targets.value_targets))
    after = gradients_of(config, policy, changed, wild)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)


def test_advantages_are_normalised_per_agent_over_the_rows_that_count() -> None:
    advantages = torch.randn(50, 4, 2) * torch.tensor([3.0, 0.1]) + torch.tensor([5.0, -1.0])
    active = torch.rand(50, 4, 2) < 0.7
    normalised = normalise_advantages(advantages, active)
    for agent in range(2):
        counted = normalised[..., agent][active[..., agent]]
        assert counted.mean().item() == pytest.approx(0, abs=1e-5)
        assert counted.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_target_kl_ends_the_update_early() -> None:
    changes: dict[str, Any] = {"num_epochs": 10, "actor_lr": 0.05}
    policy, collection, targets = collect(make_config(algorithm=changes))
    free = make_config(algorithm=changes).algorithm
    bound = make_config(algorithm={**changes, "target_kl": 0.01}).algorithm
    epochs = [
        PPOUpdater(
            copy.deepcopy(policy), algorithm, shuffle=torch.Generator().manual_seed(0)
        ).update(collection.rollout, targets)["update/num_epochs"]
        for algorithm in (free, bound)
    ]
    assert epochs[0] == 10
    assert epochs[1] < 10


def test_learning_rates_fall_to_nothing_over_the_run() -> None:
    config = make_config(algorithm={"lr_decay": True, "actor_lr": 1e-2, "critic_lr": 1e-3})
    policy, collection, targets = collect(config)
    updater = PPOUpdater(policy, config.algorithm, shuffle=torch.Generator().manual_seed(0))
    updater.update(collection.rollout, targets, remaining=0.25)
    assert [group["lr"] for group in updater.optimiser.param_groups] == [0.0025, 0.00025]


@pytest.mark.parametrize("share_policy", [False, True])
def test_noise_is_held_below_a_line_and_free_under_it(share_policy: bool) -> None:
    """With one actor for all, too."""
    noise = {
        "initial_log_std": math.log(0.6),
        "final_log_std": math.log(0.1),
        "share_policy": share_policy,
    }
    config = make_config(policy=noise, algorithm={"num_epochs": 1, "num_minibatches": 1})
    policy, collection, targets = collect(config)
    updater = PPOUpdater(policy, config.algorithm, shuffle=torch.Generator().manual_seed(0))
    log_std = policy.get_parameter("actors.log_std")
    with torch.no_grad():
        log_std[..., 0] = math.log(0.2)  # of its own accord
    updater.update(collection.rollout, targets, remaining=0.5)
    for own, bound in log_std.exp().tolist():
        assert own == pytest.approx(0.2, abs=0.01)
        assert bound == pytest.approx(0.35)
    updater.update(collection.rollout, targets, remaining=0.0)
    assert log_std.exp().flatten().tolist() == pytest.approx([0.1] * log_std.numel())


def test_noise_without_a_line_is_learned_alone() -> None:
    config = make_config(algorithm={"actor_lr": 1e-2})
    policy, collection, targets = collect(config)
    updater = PPOUpdater(policy, config.algorithm, shuffle=torch.Generator().manual_seed(0))
    updater.update(collection.rollout, targets, remaining=0.0)
    start = config.policy.initial_log_std
    assert (policy.get_parameter("actors.log_std") - start).abs().max().item() < 0.1


def test_a_loss_that_is_not_finite_stops_before_it_does_harm() -> None:
    config = make_config()
    policy, collection, targets = collect(config)
    before = copy.deepcopy(policy.state_dict())
    bad = Targets(targets.advantages, torch.full_like(targets.value_targets, torch.inf))
    updater = PPOUpdater(policy, config.algorithm, shuffle=torch.Generator().manual_seed(0))
    with pytest.raises(FloatingPointError, match="actor_lr"):
        updater.update(collection.rollout, bad)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_gradient_that_is_not_finite_stops_before_it_does_harm() -> None:
    """A ratio of infinity: the clipped branch is finite, its gradient 0 * inf."""
    config = make_config(algorithm={"normalise_advantages": False})
    policy, collection, targets = collect(config)
    targets = Targets(torch.ones_like(targets.advantages), targets.value_targets)
    before = copy.deepcopy(policy.state_dict())
    far = dataclasses.replace(collection.rollout, log_probs=collection.rollout.log_probs - 1000)
    updater = PPOUpdater(policy, config.algorithm, shuffle=torch.Generator().manual_seed(0))
    with pytest.raises(FloatingPointError, match="gradient is not finite"):
        updater.update(far, targets)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_value_clipping_holds_old_values_in_the_unit_they_were_predicted_in() -> None:
    config = make_config("mappo", algorithm={"normalise_values": True, "value_clip": 0.2})
    policy, collection, targets = collect(config)
    huge = Targets(targets.advantages, targets.value_targets * 50 + 100)
    gradients = gradients_of(config, policy, collection.rollout, huge)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)
    clipped, free = (
        gradients_of(
            config.model_copy(
                update={"algorithm": config.algorithm.model_copy(update={"value_clip": clip})}
            ),
            policy,
            collection.rollout,
            huge,
        )
        for clip in (0.2, None)
    )
    for a, b in zip(clipped, free, strict=True):  # no value has moved yet: nothing to clip
        torch.testing.assert_close(a, b)


def test_normalised_values_predict_in_their_own_unit_and_bootstrap_in_rewards() -> None:
    config = make_config("mappo", algorithm={"normalise_values": True})
    policy, collection, targets = collect(config)
    huge = Targets(targets.advantages, targets.value_targets * 1000 + 5000)
    updater = PPOUpdater(policy, config.algorithm, shuffle=torch.Generator().manual_seed(0))
    updater.update(collection.rollout, huge)
    mean = huge.value_targets.mean().item()
    assert policy.value_moments.mean.item() == pytest.approx(mean, rel=1e-4)
    rollout = collection.rollout
    flat = {name: tensor.flatten(0, 1) for name, tensor in rollout.inputs.items()}
    own_unit = policy.evaluate(flat, rollout.actions.flatten(0, 1)).values
    assert own_unit.abs().max() < 10


def test_the_gradient_is_that_of_the_loss_written_literally() -> None:
    """Against autograd of PPO eq. 7 on the joint batch, without the update's machinery."""
    config = make_config("acppo", env={"num_actions_chunk": 2}, algorithm={"entropy_coef": 0.05})
    policy, collection, targets = collect(config)
    rollout = collection.rollout
    actual = gradients_of(config, policy, rollout, targets)
    (batch,) = minibatches(
        rollout,
        Targets(normalise_advantages(targets.advantages, rollout.active), targets.value_targets),
        num_minibatches=1,
        order=torch.arange(rollout.rewards.numel()),
    )
    literal = copy.deepcopy(policy)
    evaluation = literal.evaluate(batch.inputs, batch.actions)
    executed = torch.arange(2) < batch.executed_length.unsqueeze(-1)
    new = (evaluation.log_probs * executed).sum(-1)
    old = (batch.log_probs * executed).sum(-1)
    ratio = (new - old).exp()
    surrogate = torch.min(ratio * batch.advantages, ratio.clamp(0.8, 1.2) * batch.advantages).mean()
    value = 0.5 * (evaluation.values - batch.value_targets).square().mean()
    entropy = (evaluation.entropy * executed).sum(-1).mean()
    (-surrogate + 0.5 * value - 0.05 * entropy).backward()
    expected = [p.grad for p in literal.parameters() if p.grad is not None]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_acppo_with_one_agent_is_ppo() -> None:
    """Invariant (c), down to the targets: N = 1 has no chain and no belief."""
    changes: dict[str, Any] = {"kind": "fake", "num_agents": 1, "max_episode_steps": 7}
    rollout = collect(make_config("acppo", env=changes))[1].rollout
    acppo = make_config("acppo", env=changes, algorithm={"gamma_prime": 0.97, "lambda_prime": 0.9})
    mappo = make_config("mappo", env=changes, algorithm={"gamma": 0.97, "gae_lambda": 0.9})
    a, b = (
        build_algorithm(config.algorithm, num_agents=1).targets(rollout)
        for config in (acppo, mappo)
    )
    assert torch.equal(a.advantages, b.advantages)
    assert torch.equal(a.value_targets, b.value_targets)
