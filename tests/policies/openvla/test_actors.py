"""OpenVLA agents: what each sees, samples, learns. Each fault of earlier code has a test here."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from marlcore.algorithms import PPOUpdater
from marlcore.distributions import Gaussian
from marlcore.envs import make_decision_env, make_vector_env
from marlcore.policies.layout import Kept
from marlcore.policies.openvla import OpenVLAActors, build_actors
from marlcore.policies.openvla.checkpoint import load_action_head, open_checkpoint
from marlcore.policies.openvla.memory import Budget, saved_bytes
from marlcore.policies.openvla.tiny import make_tiny_checkpoint
from marlcore.rng import NoiseSource
from marlcore.types import Evaluation, Inputs, Rollout
from tests.factories import make_trainer
from tests.policies.openvla.helpers import (
    CPU,
    build,
    collect,
    policy_of,
    rows_of,
    stir,
    vla_config,
)

SHARING = [True, False]
GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "openvla" / "a56"


def first_update(name: str, **sections: Any) -> dict[str, float]:
    """Metrics of one optimiser step on a whole rollout."""
    algorithm = {"num_epochs": 1, "num_minibatches": 1, **sections.pop("algorithm", {})}
    config = vla_config(name, algorithm=algorithm, **sections)
    with make_trainer(config) as trainer:
        policy = policy_of(trainer)
        rollout = trainer.collector.collect(policy).rollout
        return trainer.updater.update(rollout, trainer.algorithm.targets(rollout))


@pytest.mark.parametrize("name", ["mappo", "acppo"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-4)])
@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("microbatch", [None, 3])
def test_the_first_ratio_of_an_update_is_one(
    name: str, dtype: str, tolerance: float, share: bool, microbatch: int | None
) -> None:
    """Invariant (a), also where the update's batches have another size than the rollout's."""
    metrics = first_update(
        name,
        policy={"dtype": dtype, "share_policy": share},
        algorithm={"microbatch_size": microbatch},
    )
    assert metrics["update/ratio_min"] == pytest.approx(1, abs=tolerance)
    assert metrics["update/ratio_max"] == pytest.approx(1, abs=tolerance)
    assert metrics["update/clip_fraction"] == 0


def test_the_rollout_and_the_update_agree_without_recomputing() -> None:
    """So recomputing hides nothing: what is left is rounding."""
    for name in ("mappo", "acppo"):
        metrics = first_update(name, algorithm={"recompute_log_probs": False})
        assert metrics["update/ratio_min"] == pytest.approx(1, abs=1e-3)
        assert metrics["update/ratio_max"] == pytest.approx(1, abs=1e-3)


def test_the_checkpoint_s_head_acts(tmp_path: Any) -> None:
    """Faults: head never loaded; read out at the prompt's positions."""
    make_tiny_checkpoint(tmp_path, proprio_size=2)
    config = vla_config("mappo", policy={"pretrained_checkpoint": str(tmp_path)})
    policy, actors, observations = build(config)
    head = load_action_head(open_checkpoint(str(tmp_path)), 2)
    assert head is not None
    inputs = actors.encode(observations)
    prompts = actors.prompts.rows(torch.tensor([1]))
    features = actors.sight.store.get(inputs["images"][:1, 1], CPU).flatten(1, 2)
    token = actors.proprio_projectors[0](observations["proprio"][:1, 1, 0])
    with torch.no_grad():
        hidden = actors.backbone(features, token, prompts)
        ahead = hidden.shape[1] - prompts.ids.shape[1]
        is_action = torch.cat([torch.zeros(1, ahead, dtype=torch.bool), prompts.is_action], dim=1)
        before = is_action.roll(-1, dims=1)  # one position earlier, as in next-token prediction
        expected = head(hidden[before].unsqueeze(0))
    assert torch.all(prompts.ids[prompts.is_action] == 1)
    actual = policy.get_actions(observations)[0, 1]
    torch.testing.assert_close(actual, expected[0, :, :2], rtol=1e-5, atol=1e-5)


def test_a_fresh_head_starts_near_zero(tmp_path: Any) -> None:
    make_tiny_checkpoint(tmp_path, fine_tuned=False)
    config = vla_config("mappo", policy={"pretrained_checkpoint": str(tmp_path)})
    policy, _, observations = build(config)
    assert any(
        "fresh at the start of a run: action head, proprio projector" in x for x in policy.notes
    )
    assert policy.get_actions(observations).abs().max() < 0.1


@pytest.mark.parametrize("share", SHARING)
def test_chained_agents_start_as_unchained_ones(share: bool) -> None:
    chained, _, observations = build(vla_config("acppo", policy={"share_policy": share}))
    plain, _, _ = build(vla_config("mappo", policy={"share_policy": share}))
    assert torch.equal(chained.get_actions(observations), plain.get_actions(observations))
    extended = chained.proprio_projector_extended
    assert extended.fc1.in_features == 2 + 2 * 2 * 2
    with torch.no_grad():
        extended.fc1.weight[:, 2:] += 0.3
    changed = chained.get_actions(observations)
    unchanged = plain.get_actions(observations)
    assert torch.equal(changed[:, 0], unchanged[:, 0])
    assert not torch.allclose(changed[:, 1], unchanged[:, 1])
    with pytest.raises(ValueError, match="no extended projector"):
        _ = plain.proprio_projector_extended


def test_two_arms_at_chunk_4_have_56_inputs() -> None:
    """8 numbers of proprio, 24 means and 24 deviations of the other arm."""
    from marlcore.policies.openvla.heads import ProprioProjector

    assert ProprioProjector(8, 16).extended(2 * 4 * 6).fc1.in_features == 56


@pytest.mark.parametrize("share", SHARING)
def test_the_belief_of_the_rollout_is_used_in_every_epoch(share: bool) -> None:
    """Fault: agent 1 conditioned on the estimate in the rollout and on the truth in the update."""
    policy, collection, _ = collect(vla_config("acppo", policy={"share_policy": share}))
    inputs = {name: tensor.flatten(0, 1) for name, tensor in collection.rollout.inputs.items()}
    actions = collection.rollout.actions.flatten(0, 1)
    stir(policy)
    assert policy.joint.beliefs is not None
    with torch.no_grad():
        anew = policy.joint.beliefs.compute(policy.actors, inputs)
        assert not torch.allclose(anew[:, 1], inputs["beliefs"][:, 1], atol=1e-3)
        stored = policy.evaluate_actions(inputs, actions).log_probs
        other = policy.evaluate_actions({**inputs, "beliefs": anew}, actions).log_probs
    assert not torch.allclose(stored[:, 1], other[:, 1])
    assert torch.equal(stored[:, 0], other[:, 0])


def test_the_estimate_pass_reads_shared_frames_newest_first_and_black_ones() -> None:
    """Fault: frame order reversed. [front_t, black, front_t-1, black], prompt of agent 0."""
    policy, actors, observations = build(vla_config("acppo"))
    # The fake environment shares no view: pretend that it has a front view and a wrist view.
    images = observations["images"]
    both = torch.cat([images[:, :1].expand_as(images), images.flip(3)], dim=3)
    front_and_wrist = {**observations, "images": both}
    actors.sight.own_view = torch.tensor([False, True, False, True])
    inputs = actors.encode(front_and_wrist)
    estimate = policy.estimate_agent0_action_dist(inputs)
    front = inputs["images"][:, 0, [0, 2]]
    assert not torch.equal(front[:, 0], front[:, 1])
    black = actors.sight.black()[0]
    frames = actors.sight.store.get(front, CPU)
    features = torch.stack(
        [frames[:, 0], black.expand_as(frames[:, 0]), frames[:, 1], black.expand_as(frames[:, 0])],
        dim=1,
    )
    token = actors.proprio_projectors[0](torch.zeros(len(images), 2))
    prompts = actors.prompts.rows(torch.zeros(len(images), dtype=torch.int64))
    with torch.no_grad():
        hidden = actors.backbone(features.flatten(1, 2), token, prompts)
        expected = actors.heads[0](actors.backbone.action_hidden(hidden, prompts))[..., :2]
    torch.testing.assert_close(estimate.mode()[:, 0], expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        reversed_frames = features[:, [2, 1, 0, 3]].flatten(1, 2)
        wrong = actors.heads[0](
            actors.backbone.action_hidden(actors.backbone(reversed_frames, token, prompts), prompts)
        )
    assert (wrong[..., :2] - expected).abs().max() > 1e-3


def test_the_estimate_sees_nothing_that_the_observer_cannot_see() -> None:
    """Invariant (g): not agent 0's wrist, not its proprio, not its true distribution."""
    policy, actors, observations = build(vla_config("acppo"))
    stir(policy)
    mine = policy.get_actions_and_values(observations).inputs["beliefs"]
    hidden = {name: tensor.clone() for name, tensor in observations.items()}
    hidden["images"][:, 0] = 255 - hidden["images"][:, 0]  # no view is shared here
    hidden["proprio"][:, 0] += 0.5
    hidden["vector"][:, 0] += 1.0
    told = policy.get_actions_and_values(hidden)
    assert torch.equal(told.inputs["beliefs"], mine)
    truth = policy.get_actions(observations)[:, 0]
    assert not torch.allclose(policy.get_actions(hidden)[:, 0], truth)
    actors._share_proprio = True
    known = policy.get_actions_and_values(observations).inputs["beliefs"]
    assert not torch.allclose(known, mine)
    assert not torch.allclose(policy.get_actions_and_values(hidden).inputs["beliefs"], known)


def test_beliefs_carry_no_gradient_unless_asked() -> None:
    for detach in (True, False):
        policy, collection, _ = collect(
            vla_config("acppo", algorithm={"detach_action_dist_grad": detach})
        )
        stir(policy)
        inputs = {name: t.flatten(0, 1) for name, t in collection.rollout.inputs.items()}
        actions = collection.rollout.actions.flatten(0, 1)
        policy.evaluate_actions(inputs, actions).log_probs[:, 1].sum().backward()
        assert not inputs["beliefs"].requires_grad
        projector = policy.actors.proprio_projectors[0].fc1.bias.grad
        assert (projector is not None and bool(projector.abs().sum() > 0)) != detach


def test_bfloat16_stops_at_the_trunk() -> None:
    """Fault: a bfloat16 log_std that Adam never moves, and bfloat16 log-probs."""
    config = vla_config("acppo", policy={"dtype": "bfloat16", "share_policy": False})
    policy, collection, trainer = collect(config)
    assert policy.actors.backbone.dtype == torch.bfloat16
    trained = [p for p in policy.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    for tensor in (
        collection.rollout.log_probs,
        collection.rollout.values,
        collection.rollout.actions,
        collection.rollout.inputs["beliefs"],
    ):
        assert tensor.dtype == torch.float32
    before = policy.actors.log_std.detach().clone()
    updater = PPOUpdater(
        policy,
        config.algorithm.model_copy(update={"actor_lr": 1e-6, "entropy_coef": 1.0}),
        shuffle=torch.Generator(),
    )
    updater.update(collection.rollout, trainer.algorithm.targets(collection.rollout))
    moved = policy.actors.log_std - before
    assert moved.shape == (2, 2)
    assert torch.all(moved > 0)  # by some 1e-6, below bfloat16's resolution of 4e-3
    states = updater.optimiser.state.values()
    assert {t.dtype for state in states for t in state.values()} == {torch.float32}


def test_log_std_stays_between_floor_and_ceiling() -> None:
    policy, _, observations = build(
        vla_config("mappo", policy={"min_log_std": -1.5, "max_log_std": -0.5})
    )
    for value, bound in ((3.0, -0.5), (-9.0, -1.5)):
        with torch.no_grad():
            policy.actors.log_std.fill_(value)
        inputs = policy.actors.encode(observations)
        distribution = policy.actors.act(inputs, None)[0]
        assert isinstance(distribution, Gaussian)
        torch.testing.assert_close(distribution.std, torch.full_like(distribution.std, bound).exp())
        distribution.std.sum().backward()  # it can come back
    assert policy.actors.log_std.grad is not None
    assert torch.all(policy.actors.log_std.grad > 0)


def test_noise_is_held_below_a_line_over_the_run() -> None:
    policy, _, _ = build(
        vla_config("mappo", policy={"initial_log_std": 0.0, "final_log_std": math.log(0.2)})
    )
    for remaining, std in ((1.0, 1.0), (0.5, 0.6), (0.0, 0.2)):
        policy.actors.limit_noise(remaining)
        bound = policy.actors.bounded_log_std().exp()
        torch.testing.assert_close(bound, torch.full_like(bound, std))


@pytest.mark.parametrize("entry", [0, 1])
def test_the_newest_proprio_is_read_in_rollout_and_update(entry: int) -> None:
    """Fault: newest proprio in the rollout, oldest in the update."""
    policy, _, observations = build(vla_config("acppo"))
    stir(policy)
    changed = {name: tensor.clone() for name, tensor in observations.items()}
    changed["proprio"][:, :, entry] += 0.3
    reads = entry == 0
    same = torch.equal(policy.get_actions(changed), policy.get_actions(observations))
    assert same != reads
    inputs = policy.get_actions_and_values(observations).inputs
    actions = policy.get_actions(observations, NoiseSource(torch.Generator().manual_seed(0)))
    with torch.no_grad():
        first = policy.evaluate_actions(inputs, actions).log_probs
        second = policy.evaluate_actions(
            {**inputs, "proprio": changed["proprio"]}, actions
        ).log_probs
    assert torch.equal(first, second) != reads


def test_proprio_is_normalised_by_the_statistics() -> None:
    policy, actors, observations = build(vla_config("mappo"))
    quantiles = dataclasses.replace(
        actors.proprio_quantiles,
        q01=actors.proprio_quantiles.q01 * 2,
        q99=actors.proprio_quantiles.q99 * 2,
    )
    expected = observations["proprio"] / 2
    actors.proprio_quantiles = quantiles
    torch.testing.assert_close(actors._normalised(observations["proprio"]), expected)
    assert actors._normalised(torch.full((1, 2, 2, 2), 9.0)).max() == 1.0  # clipped
    del policy


def test_only_executed_actions_count() -> None:
    """Fault: log-probs over actions that were not executed."""
    config = vla_config(
        "acppo", env={"num_actions_chunk": 4, "executed_length": 3, "max_episode_steps": 7}
    )
    policy, collection, trainer = collect(config)
    rollout = collection.rollout
    assert set(rollout.executed_length.flatten().tolist()) <= {1, 3}  # episodes end after 7
    targets = trainer.algorithm.targets(rollout)
    changed = dataclasses.replace(rollout, actions=rollout.actions.clone())
    changed.actions[..., 3, :] += 5.0

    def gradient(data: Rollout) -> Tensor:
        policy.zero_grad()
        algorithm = config.algorithm.model_copy(
            update={"num_epochs": 1, "num_minibatches": 1, "recompute_log_probs": False}
        )
        updater = PPOUpdater(policy, algorithm, shuffle=torch.Generator())
        updater.optimiser.step = lambda closure=None: None  # type: ignore[method-assign]
        updater.update(data, targets)
        grad = policy.actors.heads[0].model.fc2.weight.grad
        assert grad is not None
        return grad.clone()

    torch.testing.assert_close(gradient(changed), gradient(rollout), rtol=1e-4, atol=1e-7)


def test_rewards_and_ends_are_those_of_the_decision_that_returned_them() -> None:
    """Faults: ends of episodes not stored, flags read one step late, a reward normaliser."""
    config = vla_config(
        "acppo", env={"max_episode_steps": 5}, training={"num_steps_per_rollout": 8}
    )
    with make_trainer(config) as trainer:
        rollout = trainer.collector.collect(trainer.policy).rollout
    env = make_vector_env(config.env, num_envs=4, num_workers=0, seed=0, worker_timeout_s=9.0)
    env.reset()
    ends = 0
    for t in range(8):
        outcome = env.step(rollout.actions[t].numpy())
        assert rollout.rewards[t].tolist() == outcome.rewards.tolist()
        assert (
            rollout.episode_ended[t].tolist() == (outcome.truncated | outcome.terminated).tolist()
        )
        ends += int(rollout.episode_ended[t].sum())
    env.close()
    assert ends == 4 * 2  # every third decision: steps 2, 4 and the fifth alone


def count_calls(module: Any) -> Callable[[], int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return lambda: len(calls)


@pytest.mark.parametrize(("name", "per_decision"), [("mappo", 1), ("acppo", 2)])
def test_passes_are_batched_over_agents_and_environments(name: str, per_decision: int) -> None:
    """Fault: one sample at a time."""
    policy, actors, observations = build(vla_config(name))
    trunk_calls = count_calls(actors.backbone.language_model)
    policy.get_actions_and_values(observations)
    assert trunk_calls() == per_decision


def test_images_are_encoded_once_ever() -> None:
    """Fault: images encoded again in every epoch."""
    with make_trainer(vla_config("acppo")) as trainer:
        policy = policy_of(trainer)
        tower_calls = count_calls(policy.actors.backbone.vision_backbone)
        for _ in range(3):
            before = policy.actors.sight.cache.num_encoded
            rollout = trainer.collector.collect(policy).rollout
            new = policy.actors.sight.cache.num_encoded - before
            assert new <= 2 * 4 * (4 + 3)  # agents, environments; decisions, first and last frames
            calls = tower_calls()
            trainer.updater.update(rollout, trainer.algorithm.targets(rollout))
            assert tower_calls() == calls


def gradients(policy: Any) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def evaluate(policy: Any, inputs: Inputs, actions: Tensor) -> Evaluation:
    evaluation: Evaluation = policy.evaluate_actions(inputs, actions)
    ((evaluation.log_probs * 0.1).sum() + evaluation.values.sum()).backward()
    return evaluation


@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("critic", ["light", "hidden"])
def test_cached_equals_uncached_and_batched_equals_single(share: bool, critic: str) -> None:
    """For values and gradients."""
    policy, collection, _ = collect(
        vla_config("acppo", policy={"share_policy": share, "critic": critic})
    )
    stir(policy)
    inputs = {name: t.flatten(0, 1)[:6] for name, t in collection.rollout.inputs.items()}
    actions = collection.rollout.actions.flatten(0, 1)[:6]
    policy.zero_grad()
    together = evaluate(policy, inputs, actions)
    expected = gradients(policy)
    policy.zero_grad()
    single = [
        evaluate(policy, rows_of(inputs, slice(i, i + 1)), actions[i : i + 1]) for i in range(6)
    ]
    for name in ("log_probs", "entropy", "values"):
        one_by_one = torch.cat([getattr(part, name) for part in single])
        torch.testing.assert_close(one_by_one, getattr(together, name), rtol=1e-4, atol=1e-4)
    for name, gradient in gradients(policy).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_picture_s_features_do_not_depend_on_what_is_seen_with_it() -> None:
    """So a resumed run, which encodes the frames of two decisions at once, gives the same bits."""
    _, actors, observations = build(vla_config("mappo"))
    images = observations["images"].flatten(0, 3)
    together = actors.sight.encode(images, [None] * len(images))
    assert torch.equal(actors.sight.encode(images[3:4], [None]), together[3:4])


def test_kept_features_are_those_of_the_pictures() -> None:
    policy, actors, observations = build(vla_config("mappo"))
    serials = actors.encode(observations)["images"]
    kept = actors.sight.store.get(serials, CPU)
    pixels = actors.sight._images.pixels(observations["images"].flatten(0, 3))
    with torch.no_grad():
        anew = actors.backbone.image_features(pixels)
    torch.testing.assert_close(kept.flatten(0, 2), anew, rtol=1e-4, atol=1e-4)
    del policy


@pytest.mark.parametrize("share", SHARING)
def test_recomputing_layers_changes_nothing_but_memory(share: bool) -> None:
    policy, collection, _ = collect(vla_config("acppo", policy={"share_policy": share}))
    stir(policy)
    inputs = {name: t.flatten(0, 1) for name, t in collection.rollout.inputs.items()}
    actions = collection.rollout.actions.flatten(0, 1)
    results: list[dict[str, Tensor]] = []
    for recompute in (False, True):
        policy.actors.recompute = recompute
        policy.zero_grad()
        evaluation = evaluate(policy, inputs, actions)
        results.append({"log_probs": evaluation.log_probs.detach(), **gradients(policy)})
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, msg=name)


@pytest.mark.parametrize("layers", [None, 1, 0])
def test_what_is_trained(layers: int | None) -> None:
    policy, collection, _ = collect(
        vla_config("acppo", policy={"share_policy": False, "lora_layers": layers})
    )
    stir(policy)
    inputs = {name: t.flatten(0, 1) for name, t in collection.rollout.inputs.items()}
    actions = collection.rollout.actions.flatten(0, 1)
    policy.evaluate_actions(inputs, actions).log_probs[:, 1].sum().backward()
    moved = {name for name, gradient in gradients(policy).items() if gradient.abs().sum() > 0}
    adapters = {name for name in moved if ".lora_" in name}
    depth = 3 if layers is None else layers
    assert len(adapters) == depth * 7 * 2
    assert all(".agent_1." in name for name in adapters)  # agent 0's adapter has no part in it
    rest = {name.split(".")[2] for name in moved - adapters}
    assert rest == {"heads", "proprio_projectors_extended", "log_std"}
    assert {name.split(".")[3] for name in moved if ".heads." in name} == {"1"}
    frozen = [p for n, p in policy.actors.backbone.named_parameters() if ".lora_" not in n]
    assert not any(p.requires_grad for p in frozen)


@pytest.mark.parametrize("name", ["mappo", "acppo", "ippo"])
def test_critics_on_hidden_states_send_no_gradient_into_actors(name: str) -> None:
    policy, collection, _ = collect(vla_config(name, policy={"critic": "hidden"}))
    inputs = {n: t.flatten(0, 1) for n, t in collection.rollout.inputs.items()}
    assert inputs["hidden"].shape == (16, 2, 64 + 4)
    evaluation = policy.evaluate_actions(inputs, collection.rollout.actions.flatten(0, 1))
    evaluation.values.sum().backward()
    assert evaluation.values.shape == (16, 1 if name == "mappo" else 2)
    assert all(p.grad is None or not p.grad.any() for p in policy.actors.parameters())
    assert any(p.grad is not None and p.grad.any() for p in policy.critics.parameters())
    torch.testing.assert_close(evaluation.values, collection.rollout.values.flatten(0, 1))


def test_agents_are_told_apart_by_their_prompt() -> None:
    policy, actors, observations = build(vla_config("mappo"))
    same = {name: tensor.clone() for name, tensor in observations.items()}
    for name in ("images", "proprio"):
        same[name][:, 1] = same[name][:, 0]
    actions = policy.get_actions(same)
    assert not torch.allclose(actions[:, 0], actions[:, 1])
    assert actors.prompts.visible is None  # equal length: no padding, no mask


def test_prompts_of_unequal_length_are_padded_without_effect() -> None:
    config = vla_config("mappo", policy={"instruction": "lift"})
    policy, actors, observations = build(config)
    alone = policy.get_actions(observations)
    from marlcore.policies.openvla.prompts import make_prompts

    ids = [
        row[: int(stop)].tolist()
        for row, stop in zip(actors.prompts.ids, actors.prompts.action_positions[:, 0], strict=True)
    ]
    longer = [ids[0], [*ids[1][:-1], 300, 301, 302, ids[1][-1]]]
    actors.prompts = make_prompts(longer, actors.prompts.action_positions.shape[1])
    assert actors.prompts.visible is not None
    torch.testing.assert_close(
        policy.get_actions(observations)[:, 0], alone[:, 0], rtol=1e-4, atol=1e-4
    )


def test_the_state_leaves_the_backbone_out_and_refuses_another() -> None:
    policy, actors, observations = build(vla_config("acppo"))
    stir(policy)
    state = policy.state_dict()
    size = sum(tensor.numel() for tensor in state.values())
    assert size < 0.1 * sum(p.numel() for p in actors.backbone.parameters())
    assert not any("base_layer" in name or "vision" in name for name in state)
    other, _, _ = build(vla_config("acppo", seed=1))
    assert not torch.allclose(other.get_actions(observations), policy.get_actions(observations))
    other.load_state_dict(state, strict=True)
    torch.testing.assert_close(other.get_actions(observations), policy.get_actions(observations))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({k: v for k, v in state.items() if "log_std" not in k}, strict=True)
    with torch.no_grad():
        other.actors.fingerprint += 0.1
    with pytest.raises(ValueError, match="another backbone"):
        other.load_state_dict(state, strict=True)


def test_an_update_measures_what_fits_once_and_remembers_it() -> None:
    with make_trainer(vla_config("acppo")) as trainer:
        actors = policy_of(trainer).actors
        rollout = trainer.collector.collect(trainer.policy).rollout
        assert not actors.microbatch.any()
        metrics = trainer.updater.update(rollout, trainer.algorithm.targets(rollout))
        assert actors.microbatch.tolist() == [8, 0, 0, 0]
        assert metrics["update/microbatch_size"] == 8
        inputs = {name: tensor[0] for name, tensor in rollout.inputs.items()}
        assert actors.microbatch_size(inputs, None, 0) == 4  # no more than there are
        assert actors.microbatch_size(inputs, 2, 0) == 2
        actors._budget = Budget("auto", memory_bytes=1)
        assert actors.microbatch_size(inputs, 1, 0) == 1
        assert actors.recompute  # though the user chose the rows
        actors._budget = Budget("off")
        assert actors.microbatch_size(inputs, 1, 0) == 1
        assert not actors.recompute


@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize("recompute", ["auto", "on"])
def test_the_cost_of_a_row_is_what_an_update_keeps(share: bool, recompute: Any) -> None:
    """Measured a layer at a time, against a whole pass with everything kept."""
    settings = {"share_policy": share, "activation_checkpointing": recompute}
    policy, collection, _ = collect(vla_config("acppo", policy=settings))
    actors = policy.actors
    row = {name: tensor[0, :1] for name, tensor in collection.rollout.inputs.items()}
    cost = actors.row_cost(row)
    actors.recompute = False
    whole = saved_bytes(lambda: actors.act(row, row["beliefs"]), actors.parameters())
    assert whole <= cost.kept <= 1.1 * whole  # what layers share is counted for each
    assert cost.recomputed < 0.7 * cost.kept
    assert actors.row_cost(row, more_passes=1).kept == pytest.approx(1.5 * cost.kept, rel=0.01)


def test_pictures_are_needed() -> None:
    with pytest.raises(ValueError, match=r"looks at images and proprio.*name cameras"):
        build(vla_config("mappo", env={"image_size": None}))


def test_statistics_that_nobody_measured_are_refused(tmp_path: Any) -> None:
    config = vla_config("mappo")
    spec = make_decision_env(config.env, seed=0, index=0).spec
    unmeasured = dataclasses.replace(spec, proprio_quantiles=None)

    def built(policy: Any) -> OpenVLAActors:
        actors, _ = build_actors(
            policy,
            unmeasured,
            uses_beliefs=False,
            kept=Kept(4, 1),
            generator=torch.Generator(),
            device=CPU,
        )
        return actors

    with pytest.raises(ValueError, match=r"use policy\.statistics=checkpoint"):
        built(config.policy)
    built(config.policy.model_copy(update={"statistics": "checkpoint"}))
    make_tiny_checkpoint(tmp_path, proprio_size=2)
    other = {
        "statistics": "checkpoint",
        "pretrained_checkpoint": str(tmp_path),
        "unnorm_key": "libero",
    }
    with pytest.raises(ValueError, match="no data set 'libero'"):
        built(config.policy.model_copy(update=other))


def test_what_the_lower_layers_computed_is_kept_for_the_epochs() -> None:
    """Saving: the boundary's activations; exact, because nothing below is trained."""
    kept = {"lora_layers": 1, "train_proprio_projector": False, "cache_boundary": True}
    results: list[dict[str, Any]] = []
    for cached in (True, False):
        config = vla_config("mappo", policy={**kept, "cache_boundary": cached})
        policy, collection, _ = collect(config)
        if cached:
            assert any(line.startswith("inputs of layer 2: 0.") for line in policy.notes)
        stir(policy)
        inputs = {n: t.flatten(0, 1) for n, t in collection.rollout.inputs.items()}
        assert ("boundary" in inputs) == cached
        layers = policy.actors.backbone.language_model.model.layers
        calls = [count_calls(layer) for layer in layers]
        evaluation = evaluate(policy, inputs, collection.rollout.actions.flatten(0, 1))
        assert [count() for count in calls] == ([0, 0, 1] if cached else [1, 1, 1])
        results.append({"log_probs": evaluation.log_probs.detach(), **gradients(policy)})
    assert results[0].keys() == results[1].keys()
    for name, tensor in results[1].items():
        torch.testing.assert_close(results[0][name], tensor, rtol=1e-4, atol=1e-4, msg=name)


def test_nothing_below_a_kept_boundary_may_be_trained() -> None:
    with pytest.raises(ValueError, match=r"nothing below may be trained: set policy\.lora_layers"):
        vla_config("mappo", policy={"cache_boundary": True, "lora_layers": 1})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in what it compiles with
@pytest.mark.parametrize("share", SHARING)
def test_a_compiled_trunk_chooses_the_same_actions(share: bool) -> None:
    plain, _, observations = build(vla_config("acppo", policy={"share_policy": share}))
    compiled, _, _ = build(vla_config("acppo", policy={"share_policy": share, "compile": True}))
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    actions = compiled.get_actions(observations)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(compiled.get_actions(observations), actions)
    torch.testing.assert_close(actions, plain.get_actions(observations), rtol=1e-4, atol=1e-4)


def test_with_film_an_agent_sees_with_its_own_prompt(tmp_path: Any) -> None:
    for path in (GOLDEN / "checkpoint").iterdir():
        if not path.name.startswith(("action_head", "proprio_projector")):
            shutil.copy(path, tmp_path)  # its proprio is 8 wide, the fake environment's 2
    shutil.copy(GOLDEN / "vision_backbone_film--5000_checkpoint.pt", tmp_path)
    config = vla_config("acppo", policy={"pretrained_checkpoint": str(tmp_path)})
    policy, actors, observations = build(config)
    assert actors.backbone.vision_backbone.film
    same = {
        **observations,
        "images": observations["images"][:, :1].expand_as(observations["images"]),
    }
    serials = actors.encode(same)["images"]
    features = actors.sight.store.get(serials, CPU)
    assert not torch.allclose(features[:, 0], features[:, 1])
    assert actors.sight.black().shape[0] == 2
    before = actors.sight.cache.num_encoded
    decision = policy.get_actions_and_values(same)
    assert actors.sight.cache.num_encoded == before
    evaluation = policy.evaluate_actions(decision.inputs, decision.actions)
    torch.testing.assert_close(evaluation.log_probs, decision.log_probs, rtol=1e-4, atol=1e-4)


def test_learned_beliefs_learn_in_microbatches() -> None:
    config = vla_config("acppo", algorithm={"belief": "learned"})
    with make_trainer(config) as trainer:
        policy = policy_of(trainer)
        rollout = trainer.collector.collect(policy).rollout
        policy.actors.microbatch.copy_(torch.tensor([3, 0, 0, 0]))
        rows: list[int] = []
        trunk = policy.actors.backbone.language_model
        trunk.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
        metrics = policy.after_update(rollout)
        assert metrics["update/belief_kl"] > 0
        assert max(rows) == 3 * 2
        assert sum(rows) == 16 * 2


def test_with_film_a_shared_view_is_kept_for_each_agent(tmp_path: Any) -> None:
    """Each agent sees it with its own prompt: a rollout holds more pictures than without."""
    for path in (GOLDEN / "checkpoint").iterdir():
        shutil.copy(path, tmp_path)
    config = vla_config("mappo", policy={"pretrained_checkpoint": str(tmp_path)})
    spec = make_decision_env(config.env, seed=0, index=0).spec
    shapes = {**spec.observation_shapes, "proprio": (2, 2, 8)}
    quantiles = np.array([[-1.0] * 8, [1.0] * 8])
    spec = dataclasses.replace(
        spec, observation_shapes=shapes, proprio_quantiles=quantiles, num_shared_views=1
    )
    sizes: list[int] = []
    for film in (False, True):
        if film:
            shutil.copy(GOLDEN / "vision_backbone_film--5000_checkpoint.pt", tmp_path)
        actors, _ = build_actors(
            config.policy,
            spec,
            uses_beliefs=False,
            kept=Kept(20, 2),
            generator=torch.Generator(),
            device=CPU,
        )
        sizes.append(actors.sight.store.capacity)
    assert sizes[1] == 2 * sizes[0]
