"""Dimensions: what Optuna sees of them, what the configuration gets, what is refused."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import acppo
from experiments._experiment import resolve_command
from marlcore.config_errors import ConfigError
from sweeps.space import Space, read_space


def space_of(**values: Any) -> Space:
    def resolve(words: list[str]) -> Any:
        return resolve_command(acppo.SCRIPT, ["with", "partition", *words])

    return read_space(values, place="my.yaml", resolve=resolve)


def test_optuna_sees_the_complement_on_a_logarithmic_scale() -> None:
    space = space_of(gamma_prime={"low": 0.9, "high": 0.999, "scale": "log_complement"})
    assert space.distributions == {
        "1 - gamma_prime": optuna.distributions.FloatDistribution(0.001, 0.1, log=True)
    }
    assert space.settings({"1 - gamma_prime": 0.012344}) == {"algorithm.gamma_prime": 0.98766}


def test_keys_of_integers_are_searched_as_integers() -> None:
    space = space_of(num_epochs={"low": 1, "high": 15}, actor_lr={"low": 1e-5, "high": 1})
    kinds = [type(one).__name__ for one in space.distributions.values()]
    assert kinds == ["IntDistribution", "FloatDistribution"]


def test_names_are_as_short_as_they_are_unique() -> None:
    space = space_of(
        clip_epsilon={"low": 0.1, "high": 0.3}, belief={"choices": ["estimate", "oracle"]}
    )
    assert list(space.distributions) == ["clip_epsilon", "belief"]
    assert space.words({"clip_epsilon": 0.12344, "belief": "oracle"}) == [
        "algorithm.clip_epsilon=0.1234",
        "algorithm.belief=oracle",
    ]


@given(st.floats(0.001, 0.5))
def test_what_was_sampled_and_its_value_are_the_same_but_for_rounding(sampled: float) -> None:
    space = space_of(gamma_prime={"low": 0.5, "high": 0.999, "scale": "log_complement"})
    value = space.settings({"1 - gamma_prime": sampled})["algorithm.gamma_prime"]
    assert 0.5 <= value <= 0.999
    back = space.params({"algorithm.gamma_prime": value})["1 - gamma_prime"]
    assert back == pytest.approx(sampled, rel=6e-4)


def test_what_lies_outside_is_no_baseline() -> None:
    space = space_of(gamma_prime={"low": 0.5, "high": 0.9})
    with pytest.raises(ConfigError, match="does not lie in"):
        space.params({"algorithm.gamma_prime": 0.99})
    with pytest.raises(ConfigError, match="does not lie in"):
        space.params({"algorithm.gamma_prime": None})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "space is empty"),
        ({"gamma_prim": {"low": 0, "high": 1}}, "did you mean algorithm.gamma_prime"),
        ({"gamma_prime": 0.9}, "give {low: .., high: ..}"),
        ({"gamma_prime": {"low": 0.9}}, "give low and high, or choices"),
        ({"gamma_prime": {"low": 0.9, "high": 0.5}}, "low=0.9 is not below high=0.5"),
        ({"gamma_prime": {"low": 0.9, "high": 1.5}}, "algorithm.gamma_prime=1.5: .* from 0 to 1"),
        ({"gamma_prime": {"low": 0.9, "high": 1, "scale": "log_complement"}}, "needs high < 1"),
        ({"actor_lr": {"low": 0, "high": 1, "scale": "log"}}, "needs low > 0"),
        ({"gamma_prime": {"low": 0.9, "high": 0.99, "scale": "lg"}}, "scale: 'lg' is refused"),
        ({"gamma_prime": {"low": 0.9, "hi": 0.99}}, "hi: no such key; did you mean high"),
        ({"gamma_prime": {"low": "a", "high": 0.99}}, "low: 'a' is refused; the smallest value"),
        ({"belief": {"low": 0, "high": 1}}, "is no number .* give choices"),
        ({"belief": {"choices": ["estimate", "guess"]}}, "algorithm.belief=guess"),
        ({"belief": {"choices": ["estimate", "estimate"]}}, "stands there twice"),
        ({"belief": {"choices": ["estimate"]}}, "at least two"),
        ({"num_epochs": {"low": 1, "high": 2.5}}, "give integers"),
        ({"num_epochs": {"low": 0, "high": 4}}, "algorithm.num_epochs=0"),
        ({"seed": {"low": 0, "high": 4}}, "the seed is no dimension"),
        ({"belief_lr": {"low": 1e-4, "high": 1e-2}}, "belief_lr"),
        (
            {
                "gamma_prime": {"low": 0.5, "high": 0.9},
                "algorithm.gamma_prime": {"low": 0.5, "high": 0.9},
            },
            "twice",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        space_of(**values)
    assert str(caught.value).startswith("my.yaml: ")
