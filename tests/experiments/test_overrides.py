"""From words to a configuration, or to a refusal that helps."""

from __future__ import annotations

from typing import Any

import pytest

from experiments import _ignored, _named, acppo, ippo, mappo
from experiments._overrides import Resolved, resolve_resumed, resolve_words
from experiments._script import Script
from experiments._words import read_value, read_words
from marlcore import config_keys
from marlcore.config import ACPPOConfig, GameConfig, MLPConfig, PegInHoleConfig, PettingZooConfig
from marlcore.config_errors import ConfigError

SCRIPTS = (mappo.SCRIPT, acppo.SCRIPT, ippo.SCRIPT)


def resolve(*words: str, script: Script = acppo.SCRIPT) -> Resolved:
    return resolve_words(words, base=script.base, named=script.named)


def refusal(*words: str, script: Script = acppo.SCRIPT) -> str:
    with pytest.raises(ConfigError) as error:
        resolve(*words, script=script)
    return str(error.value)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_named_config_is_valid(script: Script) -> None:
    for name in script.named:
        assert resolve(name, script=script).config.algorithm.name == script.name
        assert _named.MEANINGS[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_named_config_sets_what_would_be_ignored(script: Script) -> None:
    for name, values in script.named.items():
        given = {f"{section}.{key}" for section, keys in values.items() for key in keys}
        assert _ignored.faults(resolve(name, script=script).config, given) == [], name


def test_a_bare_name_is_its_only_key() -> None:
    config = resolve("gamma_prime=0.97", "total_timesteps=5000", "seed=3").config
    assert isinstance(config.algorithm, ACPPOConfig)
    assert config.algorithm.gamma_prime == 0.97
    assert (config.training.total_timesteps, config.seed) == (5000, 3)


def test_an_ambiguous_name_names_both_keys() -> None:
    assert refusal("kind=game") == "kind is ambiguous: write env.kind or policy.kind"


def test_words_stand_over_named_configs_in_any_order() -> None:
    assert resolve("actor_lr=0.1", "quickstart").config.algorithm.actor_lr == 0.1


def test_a_later_named_config_stands_over_an_earlier_one() -> None:
    first = resolve("two_arm", "quickstart").config.env
    second = resolve("quickstart", "two_arm").config.env
    assert isinstance(first, PegInHoleConfig)
    assert isinstance(second, PegInHoleConfig)
    assert (first.reward, second.reward) == ("staged", "dense")


def test_another_kind_brings_its_defaults_and_keeps_common_keys() -> None:
    config = resolve("quickstart", "env.kind=game", "game=climbing", "policy.kind=tiny").config
    assert config.env == GameConfig(kind="game", game="climbing", max_episode_steps=200)
    assert config.policy.model_dump() == {"kind": "tiny"}


def test_a_key_of_another_kind_names_its_kind() -> None:
    assert refusal("env.game=climbing") == (
        "env.game belongs to env.kind=game, this run has env.kind=peg_in_hole"
    )


def test_a_section_may_be_given_as_a_dict() -> None:
    env = resolve("env={'kind': 'game', 'game': 'penalty'}", "max_episode_steps=7").config.env
    assert env == GameConfig(kind="game", game="penalty", max_episode_steps=7)


def test_an_entry_of_a_dict_may_be_given_alone() -> None:
    env = resolve("simple_spread", "env.factory_kwargs.N=2").config.env
    assert isinstance(env, PettingZooConfig)
    assert env.factory_kwargs == {"N": 2, "max_cycles": 25}
    whole = resolve("simple_spread", "factory_kwargs={'N': 5}").config.env
    assert isinstance(whole, PettingZooConfig)
    assert whole.factory_kwargs == {"N": 5}


def test_the_config_of_a_script_is_not_changed_by_resolving() -> None:
    before = repr(acppo.SCRIPT.named)
    resolve("simple_spread", "env.factory_kwargs.N=2")
    assert repr(acppo.SCRIPT.named) == before


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("0.97", 0.97),
        ("1e-3", 0.001),
        ("3", 3),
        ("1_000", 1000),
        ("[64,64]", [64, 64]),
        ("(64,64)", (64, 64)),
        ("{'N': 3}", {"N": 3}),
        ('{"N": true}', {"N": True}),
        ("'5'", "5"),
        ("abc", "abc"),
        ("a:b", "a:b"),
        ("[1,", "[1,"),
        ("1j", "1j"),
        ("b'x'", "b'x'"),
        ("{1: 2}", "{1: 2}"),
        ("__import__('os')", "__import__('os')"),
        ("[" * 5000, "[" * 5000),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_value_is_a_literal_of_plain_data_or_text(text: str, value: object) -> None:
    assert read_value(text) == value


def test_a_number_is_text_where_text_is_wanted() -> None:
    assert resolve("wandb=offline", "wandb_project=123").config.logging.wandb_project == "123"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["gamma_prim=0.9"], ["gamma_prim: no such key; did you mean algorithm.gamma_prime?"]),
        (["quikstart"], ["neither a named config nor key=value", "did you mean quickstart?"]),
        (["gamma_prime"], ["did you mean algorithm.gamma_prime=VALUE?"]),
        (["zzzzzzzz"], ["the named configs are", "quickstart"]),
        (["=5"], ["no key before '='"]),
        (["seed="], ["seed= has no value"]),
        (["seed=1", "seed=1"], ["seed is given twice"]),
        (["gamma_prime=0.9", "algorithm.gamma_prime=0.8"], ["given twice: 0.9 and 0.8"]),
        (["quickstart", "quickstart"], ["quickstart is given twice"]),
        (["env=3"], ["env is a section"]),
        (["seed=\u00e9\u4e2d"], ["\u00e9\u4e2d", "an integer"]),
        (["s\u00e9ed=3"], ["did you mean seed?"]),
        (["seed=\udcff"], ["not valid UTF-8"]),
        (["algorithm.name=mappo"], ["this script trains acppo; use experiments/mappo.py"]),
        (["seed=" + "9" * 5000], ["seed: '999", "an integer from 0"]),
        (["env.factory_kwargs.N=1"], ["env.factory_kwargs belongs to env.kind=pettingzoo"]),
    ],
)
def test_a_bad_word_is_refused_with_what_helps(words: list[str], parts: list[str]) -> None:
    message = refusal(*words)
    for part in parts:
        assert part in message


def test_all_bad_words_are_named_at_once() -> None:
    assert len(refusal("quikstart", "=5", "kind=3").splitlines()) == 3


def test_reward_shaping_is_the_dense_or_the_sparse_reward() -> None:
    for text, reward in (("true", "dense"), ("false", "sparse")):
        env = resolve("quickstart", f"reward_shaping={text}").config.env
        assert isinstance(env, PegInHoleConfig)
        assert env.reward == reward


def test_reward_shaping_may_agree_with_the_reward_but_not_contradict_it() -> None:
    assert resolve("reward_shaping=true", "env.reward=dense").given == {"env.reward"}
    assert "given twice: 'dense' and 'sparse'" in refusal("reward_shaping=true", "reward=sparse")
    assert "env.reward=dense" in refusal("reward_shaping=yes")


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        (["gamma=0.9"], "gamma_prime=null"),
        (["gae_lambda=0.9"], "algorithm.lambda_prime"),
        (["ablation=belief_only", "gamma_prime=0.9"], "algorithm.gamma and"),
        (["ablation=belief_only", "lambda_prime=0.9"], "algorithm.gae_lambda"),
        (["ablation=gae_only", "belief=oracle"], "algorithm.ablation=none"),
        (["ablation=gae_only", "belief_lr=0.1"], "algorithm.ablation=none"),
        (["belief_lr=0.1"], "algorithm.belief=learned"),
        (["ratio_level=action"], "env.num_actions_chunk above 1"),
        (["chunk_gamma=0.9"], "env.num_actions_chunk above 1"),
        (["chunk_gamma=0.9", "num_actions_chunk=4", "executed_length=1"], "leave it out"),
        (["belief=oracle", "observations_shared=true"], "algorithm.belief=estimate"),
        (["image_size=64"], "env.cameras"),
        (["agent_id=true"], "policy.share_policy=true"),
        (["normalise_observations=false", "observation_clip=3"], "leave it out"),
        (["climbing", "learn_std=false"], "leave it out"),
        (["num_workers=0", "worker_timeout_s=3"], "training.num_workers"),
        (["stop_window=5"], "training.stop_success_rate"),
        (["wandb_project=x"], "logging.wandb=offline"),
        (["climbing", "policy.critic=light"], "policy.critic=state"),
    ],
)
def test_what_would_be_ignored_is_refused_with_a_way_out(words: list[str], way_out: str) -> None:
    message = refusal(*words)
    assert way_out in message
    assert "would be ignored" in message or "policy.critic=light" in message


@pytest.mark.parametrize(
    "words",
    [
        ["gamma=0.9", "gamma_prime=null"],
        ["gamma=0.9", "gae_lambda=0.9", "ablation=belief_only"],
        ["belief=learned", "belief_lr=0.1"],
        ["agent_id=false", "share_policy=true"],
        ["image_size=64", "env.cameras=['frontview']"],
        ["chunk_gamma=0.9", "ratio_level=action", "num_actions_chunk=4"],
        ["observations_shared=true"],
        ["quickstart", "stop_window=5"],
        ["policy.critic=light"],
        ["sum_coordination", "learn_std=false"],
    ],
)
def test_the_same_settings_are_taken_where_they_have_an_effect(words: list[str]) -> None:
    assert resolve(*words)


def test_the_critic_of_ippo_cannot_be_chosen() -> None:
    assert "own observation" in refusal("policy.critic=state", script=ippo.SCRIPT)


def test_every_rule_names_keys_that_exist() -> None:
    for rule in _ignored.IGNORED:
        assert set(rule.keys) <= config_keys.names()


def recorded() -> dict[str, Any]:
    return resolve("quickstart", "seed=5").config.model_dump(mode="json")


def resume(*words: str, script: Script = acppo.SCRIPT) -> Resolved:
    read = read_words(words, script.named)
    return resolve_resumed(read, recorded(), run_id="r1", base=script.base)


def test_resuming_takes_the_recorded_configuration() -> None:
    config = resume("resume=r1", "total_timesteps=9", "console=off", "device=cpu").config
    assert (config.seed, config.training.total_timesteps) == (5, 9)
    assert isinstance(config.policy, MLPConfig)


@pytest.mark.parametrize("word", ["seed=3", "quickstart", "num_envs=4", "gamma_prime=0.9"])
def test_resuming_refuses_what_changes_what_is_computed(word: str) -> None:
    with pytest.raises(ConfigError, match=r"it takes training\.total_timesteps"):
        resume("resume=r1", word)


def test_resuming_refuses_the_run_of_another_algorithm() -> None:
    with pytest.raises(ConfigError, match=r"use experiments/acppo\.py"):
        resume("resume=r1", script=mappo.SCRIPT)
