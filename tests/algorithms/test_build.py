"""From a configuration to an algorithm: what is derived."""

from __future__ import annotations

import pytest

from marlcore.algorithms import build_algorithm
from marlcore.config import ACPPOConfig


@pytest.mark.parametrize("num_agents", [1, 2, 4])
def test_microsteps_multiply_to_a_decision(num_agents: int) -> None:
    config = ACPPOConfig(gamma=0.98, gae_lambda=0.9, gamma_prime=None, lambda_prime=None)
    found = build_algorithm(config, num_agents=num_agents).resolved()
    assert found["gamma_prime"] ** num_agents == pytest.approx(0.98)
    assert found["decision_discount"] == pytest.approx(0.98)
    assert found["lambda_prime"] ** num_agents == pytest.approx(0.9)


def test_what_is_given_is_taken() -> None:
    config = ACPPOConfig(gamma_prime=0.97, lambda_prime=0.8)
    found = build_algorithm(config, num_agents=2).resolved()
    assert found == {
        "gamma_prime": 0.97,
        "decision_discount": pytest.approx(0.97**2),
        "lambda_prime": 0.8,
    }
