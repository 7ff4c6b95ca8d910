"""Actors, beliefs and critics together: what every policy must hold, over kinds and algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from marlcore.config import CNNConfig, MLPConfig, TinyConfig
from marlcore.distributions import Gaussian
from marlcore.envs.protocol import ActionSpec, EnvSpec
from marlcore.policies.build import PolicyNeeds, build_policy
from marlcore.policies.policy import MultiAgentPolicy
from marlcore.rng import NoiseSource, make_generator

O, P = 5, 3  # noqa: E741 - the glossary's letters


def make_spec(
    *, num_agents: int = 3, kind: str = "continuous", chunk: int = 2, history: int = 2
) -> EnvSpec:
    visible = np.zeros((num_agents, num_agents, O), dtype=bool)
    visible[:, :, :2] = True  # two entries are seen by all, the others by their owner
    visible[np.arange(num_agents), np.arange(num_agents)] = True
    sizes = tuple(2 + (i % 2) for i in range(num_agents))
    return EnvSpec(
        num_agents=num_agents,
        actions=ActionSpec(kind, sizes),
        observation_shapes={
            "vector": (num_agents, history, O),
            "state": (history, 4),
            "proprio": (num_agents, history, P),
            "images": (num_agents, history, 2, 36, 36, 3),
        },
        observation_dtypes={
            "vector": "float32",
            "state": "float32",
            "proprio": "float32",
            "images": "uint8",
        },
        visible=visible,
        num_shared_views=1,
        chunk_length=chunk,
    )


def make_observations(spec: EnvSpec, num_envs: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(256, (num_envs, *shape), generator=generator, dtype=torch.uint8)
        if name == "images"
        else torch.randn(num_envs, *shape, generator=generator)
        for name, shape in spec.observation_shapes.items()
    }


NEEDS = {
    "mappo": PolicyNeeds(critic_per_agent=False),
    "ippo": PolicyNeeds(critic_per_agent=True, own_observation=True),
    "gae_only": PolicyNeeds(critic_per_agent=True),
    "estimate": PolicyNeeds(critic_per_agent=True, belief="estimate"),
    "learned": PolicyNeeds(critic_per_agent=True, belief="learned"),
    "oracle": PolicyNeeds(critic_per_agent=True, belief="oracle"),
}
CONFIGS = {
    "separate": MLPConfig(hidden_sizes=(8,), output_gain=1.0),
    "shared": MLPConfig(hidden_sizes=(8,), output_gain=1.0, share_policy=True),
    "light": MLPConfig(hidden_sizes=(8,), output_gain=1.0, critic="light"),
    "tiny": TinyConfig(kind="tiny"),
    "images": CNNConfig(kind="cnn", hidden_sizes=(8,), output_gain=1.0, see_vector=False),
    "images and vector": CNNConfig(
        kind="cnn", hidden_sizes=(8,), output_gain=1.0, share_policy=True
    ),
}


def make_policy(spec: EnvSpec, needs: str, config: str = "separate") -> MultiAgentPolicy:
    return build_policy(
        CONFIGS[config],
        spec,
        NEEDS[needs],
        initialisation=make_generator(0, "initialisation"),
        shuffle=make_generator(0, "minibatches"),
    )


def noise(seed: int = 0) -> NoiseSource:
    return NoiseSource(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("needs", NEEDS)
def test_the_update_recomputes_exactly_what_the_rollout_decided(
    needs: str, config: str, kind: str
) -> None:
    """Invariant (a): the first ratio is 1 within 1e-6."""
    spec = make_spec(kind=kind)
    policy = make_policy(spec, needs, config)
    decision = policy.decide(make_observations(spec, 16), noise())
    evaluation = policy.evaluate(decision.inputs, decision.actions)
    ratio = (evaluation.log_probs - decision.log_probs).sum(-1).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-6)
    num_critics = spec.num_agents if NEEDS[needs].critic_per_agent else 1
    assert decision.values.shape == (16, num_critics)
    torch.testing.assert_close(evaluation.values, decision.values)
    torch.testing.assert_close(policy.values(make_observations(spec, 16)), decision.values)


@pytest.mark.parametrize("needs", NEEDS)
def test_a_batch_in_another_order_gives_the_same_rows(needs: str) -> None:
    """Invariant (f), up to the rounding of batched products."""
    spec = make_spec()
    policy = make_policy(spec, needs)
    observations = make_observations(spec, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    direct = policy.decide(observations, None)
    permuted = policy.decide({k: v[order] for k, v in observations.items()}, None)
    torch.testing.assert_close(permuted.actions, direct.actions[order])
    torch.testing.assert_close(permuted.values, direct.values[order])


def hidden_changed(
    spec: EnvSpec, observations: dict[str, Tensor], observer: int
) -> dict[str, Tensor]:
    """Everything that `observer` cannot see is something else."""
    assert spec.visible is not None
    hidden = torch.tensor(~spec.visible[observer]).unsqueeze(1)  # [N, 1, O] over history
    images = observations["images"].clone()
    others = [agent for agent in range(spec.num_agents) if agent != observer]
    images[:, others, :, spec.num_shared_views :] ^= 255
    vector = observations["vector"] + 10.0 * hidden
    return {**observations, "vector": vector, "images": images}


@pytest.mark.parametrize("config", ["separate", "shared", "tiny", "images", "images and vector"])
@pytest.mark.parametrize("needs", ["estimate", "learned"])
def test_a_belief_depends_on_nothing_its_owner_cannot_see(needs: str, config: str) -> None:
    """Invariant (g)."""
    spec = make_spec()
    policy = make_policy(spec, needs, config)
    observations = make_observations(spec)
    for observer in range(spec.num_agents):
        changed = hidden_changed(spec, observations, observer)
        beliefs = policy.decide(observations, None).inputs["beliefs"]
        again = policy.decide(changed, None).inputs["beliefs"]
        assert torch.equal(beliefs[:, observer], again[:, observer])


def test_an_oracle_does_see_what_its_owner_cannot() -> None:
    spec = make_spec()
    policy = make_policy(spec, "oracle")
    observations = make_observations(spec)
    changed = hidden_changed(spec, observations, 1)
    beliefs = policy.decide(observations, None).inputs["beliefs"]
    assert not torch.equal(beliefs[:, 1], policy.decide(changed, None).inputs["beliefs"][:, 1])


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("config", ["separate", "shared"])
def test_an_estimate_is_exact_where_all_is_seen(config: str, kind: str) -> None:
    spec = make_spec(kind=kind)
    assert spec.visible is not None
    spec.visible[:] = True
    observations = make_observations(spec)
    estimated = make_policy(spec, "estimate", config).decide(observations, None)
    truth = make_policy(spec, "oracle", config).decide(observations, None)
    torch.testing.assert_close(estimated.inputs["beliefs"], truth.inputs["beliefs"])


@pytest.mark.parametrize("needs", ["estimate", "oracle", "learned"])
def test_a_belief_holds_earlier_agents_alone(needs: str) -> None:
    spec = make_spec()
    policy = make_policy(spec, needs)
    beliefs = policy.decide(make_observations(spec), None).inputs["beliefs"]
    size = policy.actors.layout.belief_size
    assert beliefs.shape == (4, 3, 2 * size)
    assert not beliefs[:, 0].any()
    assert beliefs[:, 1, :size].any()
    assert not beliefs[:, 1, size:].any()
    assert beliefs[:, 2, size:].any()


def test_a_belief_is_the_true_distributions_parameters_under_the_oracle() -> None:
    spec = make_spec()
    policy = make_policy(spec, "oracle")
    inputs = policy.decide(make_observations(spec), None).inputs
    truth = policy.actors.distribution(inputs, inputs["beliefs"], agents=[0, 1, 2])
    assert isinstance(truth, Gaussian)
    told = inputs["beliefs"][:, 2]
    torch.testing.assert_close(told, truth.parameters()[:, :2].flatten(1))


def test_no_gradient_flows_into_a_stored_belief_and_some_into_a_recomputed_one() -> None:
    spec = make_spec(num_agents=2, chunk=1)
    observations = make_observations(spec)
    gradients: dict[bool, Tensor] = {}
    for recomputed in (False, True):
        needs = PolicyNeeds(
            critic_per_agent=True, belief="estimate", gradient_into_beliefs=recomputed
        )
        policy = build_policy(
            CONFIGS["separate"],
            spec,
            needs,
            initialisation=make_generator(0, "initialisation"),
            shuffle=make_generator(0, "minibatches"),
        )
        decision = policy.decide(observations, noise())
        policy.evaluate(decision.inputs, decision.actions).log_probs[:, 1].sum().backward()
        gradient = policy.actors.network.weights[0].grad
        gradients[recomputed] = gradient[0]  # agent 0's weights, reached through the belief alone
    assert not gradients[False].any()
    assert gradients[True].any()


def test_a_learned_belief_comes_to_know_the_predecessor() -> None:
    spec = make_spec(num_agents=2, chunk=1, history=1)
    assert spec.visible is not None
    spec.visible[:] = True
    policy = make_policy(spec, "learned")
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(64, 8, 1, 1, O, generator=generator).expand(64, 8, 2, 1, O)
    from marlcore.types import Rollout

    inputs = {
        "vector": shared.contiguous(),
        "beliefs": torch.zeros(64, 8, 2, policy.actors.layout.belief_size),
    }
    unused = torch.zeros(64, 8)
    rollout = Rollout(inputs, *[unused] * 7, executed_length=torch.ones(64, 8, 2))
    assert policy.beliefs is not None
    divergences = [
        policy.beliefs.learn(policy.actors, rollout)["update/belief_kl"] for _ in range(12)
    ]
    assert divergences[-1] < 0.15 * divergences[0]


def test_a_shared_actor_without_an_id_treats_equal_observations_equally() -> None:
    spec = make_spec(num_agents=2)
    policy = build_policy(
        MLPConfig(share_policy=True, agent_id=False),
        spec,
        NEEDS["mappo"],
        initialisation=make_generator(0, "initialisation"),
        shuffle=make_generator(0, "minibatches"),
    )
    observations = make_observations(spec)
    observations["vector"][:, 1] = observations["vector"][:, 0]
    actions = policy.decide(observations, None).actions
    # A matrix product may round its last rows otherwise than its first ones.
    torch.testing.assert_close(actions[:, 0], actions[:, 1], rtol=1e-5, atol=1e-8)


def test_moments_see_the_newest_observation_of_every_decision_once() -> None:
    spec = make_spec()
    policy = make_policy(spec, "mappo")
    vector = torch.randn(40, *spec.observation_shapes["vector"])
    policy.actors.update_moments({"vector": vector})
    assert policy.actors.moments.count == 40
    torch.testing.assert_close(policy.actors.moments.mean, vector[:, :, 0].double().mean(0))


def test_a_light_critic_without_proprio_is_refused_with_the_way_out() -> None:
    spec = make_spec()
    shapes = {k: v for k, v in spec.observation_shapes.items() if k != "proprio"}
    blind: Any = EnvSpec(**{**spec.__dict__, "observation_shapes": shapes})
    with pytest.raises(ValueError, match=r"policy\.critic=state"):
        make_policy(blind, "mappo", "light")


def test_actors_on_images_alone_do_not_read_the_vector() -> None:
    spec = make_spec()
    policy = make_policy(spec, "mappo", "images")
    observations = make_observations(spec)
    other_vector = {**observations, "vector": observations["vector"] + 1}
    darker = {**observations, "images": observations["images"] // 2}
    actions = policy.decide(observations, None).actions
    assert torch.equal(actions, policy.decide(other_vector, None).actions)
    assert not torch.allclose(actions, policy.decide(darker, None).actions)


def test_pixels_are_normalised_by_what_was_seen_of_them() -> None:
    spec = make_spec()
    policy = make_policy(spec, "mappo", "images")
    observations = make_observations(spec, 8)
    observations["images"][:, 1, :, 0, 5, 7] = 90  # one that stands still
    policy.actors.update_moments(observations)
    moments = policy.actors.images.encoders[1].moments
    newest = observations["images"][:, 1, 0].double() / 255
    torch.testing.assert_close(moments.mean, newest.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moments.std[0, 5, 7], torch.full((3,), 4 / 255).double())
    std = newest[:, 1].std(0, correction=0)
    torch.testing.assert_close(moments.std[1], std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalised", [True, False])
def test_bright_pixels_differ_before_anything_was_seen(normalised: bool) -> None:
    config = CNNConfig(kind="cnn", see_vector=False, normalise_observations=normalised)
    spec = make_spec()
    policy = build_policy(
        config,
        spec,
        NEEDS["mappo"],
        initialisation=make_generator(0, "initialisation"),
        shuffle=make_generator(0, "minibatches"),
    )
    shape = (1, *spec.observation_shapes["images"])
    features = [
        policy.actors.features({"images": torch.full(shape, level, dtype=torch.uint8)})
        for level in (100, 200)
    ]
    assert not torch.allclose(*features)


def test_the_policy_loss_trains_the_convolutions() -> None:
    spec = make_spec()
    policy = make_policy(spec, "mappo", "images")
    decision = policy.decide(make_observations(spec), noise())
    policy.evaluate(decision.inputs, decision.actions).log_probs.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.actors.images.parameters())


def test_a_cnn_without_images_or_with_small_ones_is_refused_with_the_way_out() -> None:
    spec = make_spec()
    shapes = {k: v for k, v in spec.observation_shapes.items() if k != "images"}
    blind: Any = EnvSpec(**{**spec.__dict__, "observation_shapes": shapes})
    with pytest.raises(ValueError, match=r"set env\.cameras"):
        make_policy(blind, "mappo", "images")
    small: Any = EnvSpec(
        **{**spec.__dict__, "observation_shapes": {**shapes, "images": (3, 2, 2, 35, 35, 3)}}
    )
    with pytest.raises(ValueError, match=r"36 pixels a side or more; env\.image_size is 35"):
        make_policy(small, "mappo", "images")


def test_weights_depend_on_the_seed_alone() -> None:
    spec = make_spec()
    first, second = make_policy(spec, "estimate"), make_policy(spec, "estimate")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
