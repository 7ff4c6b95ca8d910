from __future__ import annotations

import torch

from marlcore.rng import NoiseSource, make_generator


def test_purposes_of_one_seed_are_different_streams() -> None:
    draws = [
        torch.randn(4, generator=make_generator(0, purpose))
        for purpose in ("initialisation", "actions", "minibatches", "evaluation")
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_a_seed_repeats_itself() -> None:
    first = NoiseSource(make_generator(3, "actions")).normal(2, 5)
    second = NoiseSource(make_generator(3, "actions")).normal(2, 5)
    assert torch.equal(first, second)


def test_gumbel_noise_is_finite_and_has_the_mean_it_should() -> None:
    noise = NoiseSource(make_generator(0, "actions")).gumbel(1000, 100)
    assert torch.isfinite(noise).all()
    assert abs(noise.mean().item() - 0.57722) < 0.01  # Euler's constant
