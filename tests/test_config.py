"""The schema, its keys, and the strict conversion of a dict."""

from __future__ import annotations

from typing import Any

import pytest

from marlcore import config_keys
from marlcore.config import (
    ACPPOConfig,
    ExperimentConfig,
    GameConfig,
    MAPPOConfig,
    MLPConfig,
    PegInHoleConfig,
    TinyConfig,
)
from marlcore.config_errors import ConfigError, parse_config


def parse(**sections: Any) -> ExperimentConfig:
    return parse_config({"algorithm": {"name": "acppo"}, **sections})


def refusal(**sections: Any) -> str:
    with pytest.raises(ConfigError) as error:
        parse(**sections)
    return str(error.value)


def test_an_empty_section_is_its_defaults() -> None:
    assert parse(env={}, policy={}).env == PegInHoleConfig()
    assert parse(policy={}).policy == MLPConfig()


def test_the_algorithm_has_no_default() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.name: must be given"):
        parse_config({"algorithm": {}})


def test_a_dumped_config_parses_to_itself() -> None:
    config = parse(env={"kind": "game", "game": "climbing"}, policy={"hidden_sizes": [4]})
    assert parse_config(config.model_dump(mode="json")) == config


def test_lists_become_tuples_and_integers_become_floats() -> None:
    config = parse(policy={"hidden_sizes": [3, 4]}, training={"worker_timeout_s": 5})
    assert isinstance(config.policy, MLPConfig)
    assert config.policy.hidden_sizes == (3, 4)
    assert isinstance(config.training.worker_timeout_s, float)


@pytest.mark.parametrize(
    ("section", "values", "parts"),
    [
        ("algorithm", {"clip_epsilon": 2.5}, ["2.5", "a number > 0 and < 1", "default 0.2"]),
        ("algorithm", {"gamma_prime": True}, ["true", "from 0 to 1 or null", "default 0.99"]),
        ("algorithm", {"gamma": [0, 97]}, ["write 0.97"]),
        ("algorithm", {"gamma": "0,97"}, ["write 0.97"]),
        ("algorithm", {"gamma": float("nan")}, ["nan", "from 0 to 1"]),
        ("algorithm", {"gamma": float("inf")}, ["inf", "from 0 to 1"]),
        ("algorithm", {"num_epochs": 1e6}, ["an integer", "write 1000000"]),
        ("algorithm", {"num_epochs": "8"}, ["'8'", "an integer"]),
        ("policy", {"hidden_sizes": 64}, ["a list", "write [64]"]),
        ("policy", {"hidden_sizes": [64, 0]}, ["[64, 0]", "each an integer >= 1"]),
        ("policy", {"hidden_sizes": []}, ["not empty"]),
        ("policy", {"activation": "tahn"}, ["one of tanh, relu", "did you mean tanh?"]),
        ("env", {"cameras": "front,side"}, ["write ['front','side']"]),
        ("env", {"kind": "gmae"}, ["env.kind", "one of fake, game", "did you mean game?"]),
        ("training", {"device": "gpu"}, ["'gpu'", "auto, cpu, cuda or cuda:1"]),
        ("training", {"num_envs": None}, ["null", "an integer >= 1"]),
        ("logging", {"video": "yes"}, ["'yes'", "true or false"]),
    ],
)
def test_a_refused_value_is_named_with_what_is_allowed(
    section: str, values: dict[str, Any], parts: list[str]
) -> None:
    base = {"name": "acppo"} if section == "algorithm" else {}
    message = refusal(**{section: {**base, **values}})
    assert message.startswith(f"{section}.{next(iter(values))}: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 3}, "sed: no such key; did you mean seed?"),
        ({"trainig": {}}, "trainig: no such key; did you mean training?"),
        (
            {"training": {"num_env_groups": 3}},
            "training.num_env_groups 3 is more than training.num_envs 2: every group needs "
            "environments and workers of its own",
        ),
        (
            {"training": {"num_env": 3}},
            "training.num_env: no such key; did you mean training.num_envs?",
        ),
        (
            {"env": {"reward_weights": {"sucess": 1}}},
            "env.reward_weights.sucess: no such key; did you mean env.reward_weights.success?",
        ),
        (
            {"env": {"game": "climbing"}},
            "env.game belongs to env.kind=game, this run has env.kind=peg_in_hole",
        ),
        (
            {"algorithm": {"name": "mappo", "gamma_prime": 0.9}},
            "algorithm.gamma_prime belongs to algorithm.name=acppo, "
            "this run has algorithm.name=mappo",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_or_its_owner(
    values: dict[str, Any], message: str
) -> None:
    assert refusal(**values) == message


def test_every_fault_has_a_line() -> None:
    message = refusal(seed="abc", training={"num_envs": 0, "num_enfs": 1})
    assert len(message.splitlines()) == 3


def test_a_missing_key_of_a_variant_is_named() -> None:
    assert refusal(env={"kind": "game"}).startswith("env.game: must be given; one of partition")


def test_a_section_that_is_no_dict_is_refused() -> None:
    assert "is a section" in refusal(training=3)
    assert "is a section" in refusal(env=[])


def test_the_reason_of_a_validator_is_the_message() -> None:
    message = refusal(training={"num_envs": 3, "num_steps_per_rollout": 5})
    assert message.startswith("15 rows do not split into 8 minibatches")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            {"final_log_std": 0},
            "policy.final_log_std 0.0 is above policy.initial_log_std -0.7; give a lower number",
        ),
        (
            {"kind": "openvla", "pretrained_checkpoint": "tiny", "min_log_std": -2}
            | {"final_log_std": -3},
            "policy.final_log_std -3.0 is below policy.min_log_std -2.0; give a higher number",
        ),
    ],
)
def test_noise_falls_and_not_below_its_floor(policy: dict[str, Any], message: str) -> None:
    assert refusal(policy=policy).startswith(message)


def test_names_of_keyword_arguments_are_identifiers() -> None:
    env = {"kind": "pettingzoo", "factory": "a:b", "factory_kwargs": {"py/object": 1}}
    assert "env.factory_kwargs" in refusal(env=env)


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x"])
def test_what_is_not_plain_data_is_refused(value: object) -> None:
    assert "plain data" in refusal(seed=value)


def test_a_long_value_is_shortened() -> None:
    assert len(refusal(seed="x" * 10_000)) < 200


def test_every_key_of_the_schema_has_a_meaning() -> None:
    for key in config_keys.all_keys():
        assert key.meaning, key.name
        assert key.allowed, key.name


def test_the_groups_hold_every_key_once() -> None:
    grouped = [key.name for _, keys in config_keys.groups() for key in keys]
    assert set(grouped) == config_keys.names()
    shared = [key for key in grouped if grouped.count(key) > 1]
    assert all(config_keys.variants_with(key) for key in shared)


def test_keys_that_all_variants_share_stand_with_the_section() -> None:
    groups = {section.name: keys for section, keys in config_keys.groups() if not section.variant}
    assert "env.max_episode_steps" in {key.name for key in groups["env"]}
    assert "env.image_size" not in {key.name for key in groups["env"]}


def test_the_defaults_of_the_keys_are_those_of_the_models() -> None:
    for model, tag in (
        (ACPPOConfig(), ("algorithm.name", "acppo")),
        (MAPPOConfig(), ("algorithm.name", "mappo")),
        (TinyConfig(kind="tiny"), ("policy.kind", "tiny")),
        (GameConfig(kind="game", game="climbing"), ("env.kind", "game")),
    ):
        values = model.model_dump(mode="json")
        for key in config_keys.all_keys():
            if key.variant == tag and key.default != config_keys.REQUIRED:
                assert values[key.bare] == key.default, key.name


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("gamma_prim", "algorithm.gamma_prime"),
        ("CLIP_EPSILON", "algorithm.clip_epsilon"),
        ("algorithm.clip_epsilom", "algorithm.clip_epsilon"),
        ("training.gamma", "algorithm.gamma"),
        ("zzzzzz", None),
        ("", None),
    ],
)
def test_the_nearest_key_is_found(text: str, near: str | None) -> None:
    assert config_keys.nearest(text) == near
