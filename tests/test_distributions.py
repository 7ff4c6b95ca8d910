from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from marlcore.distributions import Categorical, Gaussian, executed, kl_divergence

seeds = st.integers(0, 2**31 - 1)


def make_gaussian(seed: int, *, used: tuple[bool, ...] = (True, True, True)) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(5, 2, 4, 3, generator=generator)
    std = torch.randn(5, 2, 4, 3, generator=generator).exp()
    return Gaussian(mean, std, torch.tensor(used).expand_as(mean))


def make_categorical(seed: int, num_choices: int = 5, num_used: int = 5) -> Categorical:
    logits = torch.randn(5, 2, 4, num_choices, generator=torch.Generator().manual_seed(seed))
    return Categorical.from_logits(logits, torch.arange(num_choices) < num_used)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_gaussians_agree_with_torch(seed: int) -> None:
    p, q = make_gaussian(seed), make_gaussian(seed + 1)
    reference, other = Normal(p.mean, p.std), Normal(q.mean, q.std)
    actions = p.sample(torch.randn_like(p.mean))
    torch.testing.assert_close(p.log_prob(actions), reference.log_prob(actions).sum(-1))
    torch.testing.assert_close(p.entropy(), reference.entropy().sum(-1))
    torch.testing.assert_close(
        kl_divergence(p, q), torch_kl(reference, other).sum(-1), rtol=1e-4, atol=1e-4
    )


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_categoricals_agree_with_torch(seed: int) -> None:
    p, q = make_categorical(seed), make_categorical(seed + 1)
    reference, other = TorchCategorical(logits=p.logits), TorchCategorical(logits=q.logits)
    actions = p.sample(torch.zeros_like(p.logits))
    torch.testing.assert_close(p.log_prob(actions), reference.log_prob(actions[..., 0]))
    torch.testing.assert_close(p.entropy(), reference.entropy())
    torch.testing.assert_close(kl_divergence(p, q), torch_kl(reference, other))


def test_gumbel_noise_samples_the_categorical() -> None:
    from marlcore.rng import NoiseSource

    p = Categorical.from_logits(torch.tensor([[[1.0, 0.0, -1.0]]]), torch.ones(3, dtype=torch.bool))
    noise = NoiseSource(torch.Generator().manual_seed(0)).gumbel(100_000, 1, 3)
    frequencies = torch.bincount(p.sample(noise).flatten().long(), minlength=3) / 100_000
    torch.testing.assert_close(frequencies, p.logits.exp()[0, 0], rtol=0, atol=0.006)


def test_dimensions_that_an_agent_lacks_count_for_nothing() -> None:
    narrow = make_gaussian(0, used=(True, True, False))
    full = Normal(narrow.mean, narrow.std)
    actions = torch.randn_like(narrow.mean)
    expected = full.log_prob(actions)[..., :2].sum(-1)
    torch.testing.assert_close(narrow.log_prob(actions), expected)
    torch.testing.assert_close(narrow.entropy(), full.entropy()[..., :2].sum(-1))
    assert torch.equal(kl_divergence(narrow, narrow), torch.zeros(5, 2, 4))


def test_choices_that_an_agent_lacks_are_never_taken() -> None:
    narrow = make_categorical(0, num_choices=5, num_used=2)
    noise = torch.randn(5, 2, 4, 5) * 10
    assert narrow.sample(noise).max() <= 1
    assert torch.isfinite(narrow.entropy()).all()
    torch.testing.assert_close(narrow.parameters().sum(-1), torch.full((5, 2), 4.0))


def test_beliefs_hold_all_means_and_then_all_standard_deviations() -> None:
    p = make_gaussian(0)
    parameters = p.parameters()
    assert parameters.shape == (5, 2, 2 * 4 * 3)
    assert torch.equal(parameters[..., :12], p.mean.flatten(-2))
    assert torch.equal(parameters[..., 12:], p.std.flatten(-2))


def test_actions_that_did_not_run_are_left_out() -> None:
    per_action = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    sums = executed(per_action, torch.tensor([0, 2, 3])).sum(-1)
    assert torch.equal(sums, torch.tensor([0.0, 3.0, 7.0]))
