"""Sweep files: those of the project, what the command line changes, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from marlcore.config_errors import ConfigError
from sweeps.definition import Sweep, define, names, read_file
from tests.sweeps.toy import SWEEP, toy


@pytest.mark.parametrize("name", names())
def test_the_projects_sweeps_are_good_and_begin_with_a_baseline(name: str) -> None:
    one = read_file(name, changes={})
    assert one.name == name
    assert one.baseline() is not None
    assert one.sweep == read_file(f"sweeps/{name}.yaml", changes={}).sweep
    words = one.words(one.space.params(dict(_flat(one))), 3)
    assert words[-1] == "seed=3"
    assert len({word.partition("=")[0].rpartition(".")[2] for word in words}) == len(words)


def _flat(one: Any) -> dict[str, Any]:
    from experiments.tracking.view import flat

    return flat(one.base.model_dump(mode="json"))


def test_pruning_is_off_unless_it_is_asked_for() -> None:
    assert (
        Sweep.model_validate_json(
            '{"experiment": "acppo", "space": {}, "metric": "eval/return_mean"}'
        ).pruner.kind
        == "none"
    )


def test_the_command_line_goes_over_the_file() -> None:
    one = read_file(
        "acppo", changes={"trials": 7}, words=["total_timesteps=999", "entropy_coef=0.1"]
    )
    assert one.sweep.trials == 7
    assert one.sweep.settings == (
        "sum_coordination",
        "logging.video=false",
        "total_timesteps=999",
        "entropy_coef=0.1",
    )


def test_a_named_config_takes_the_place_of_the_files_settings() -> None:
    one = read_file("acppo", changes={}, words=["quickstart", "total_timesteps=60000"], name="arms")
    assert one.sweep.settings == ("quickstart", "total_timesteps=60000")
    assert one.base.env.kind == "peg_in_hole"
    assert one.baseline() is None  # gamma_prime is null there


def test_a_value_of_a_searched_key_is_the_baselines() -> None:
    one = toy(**{"with": ["partition", "gamma_prime=0.9"]})
    assert one.base.algorithm.gamma_prime == 0.9  # type: ignore[union-attr]
    params = {"1 - gamma_prime": 0.3, "clip_epsilon": 0.1}
    assert one.words(params, 0) == [
        "partition",
        "algorithm.gamma_prime=0.7",
        "algorithm.clip_epsilon=0.1",
        "seed=0",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trails": 4}, "trails: no such key; did you mean trials"),
        ({"trials": 0}, "trials: 0 is refused; configurations that are tried"),
        ({"trials": "many"}, "trials: 'many' is refused"),
        ({"experiment": "acpo"}, "no training script; did you mean experiments/acppo.py"),
        ({"metric": "rollout/return"}, "metric: there is no .*did you mean rollout/return_m"),
        ({"direction": "up"}, "direction: 'up' is refused; maximize or minimize"),
        ({"sampler": "tpi"}, "sampler: 'tpi' is refused; one of tpe, gp"),
        ({"sampler": "random", "num_startup_trials": 3}, "no effect with sampler=random"),
        ({"pruner": {"kind": "medium"}}, "pruner.kind: 'medium' is refused; one of none, median"),
        ({"pruner": {"kind": "median", "bye": "seed"}}, "pruner.bye: no such key; did you mean by"),
        ({"pruner": {"kind": "wilcoxon"}}, "pruner: kind=wilcoxon compares seeds"),
        (
            {"tuning_seeds": [1, 2, 3], "pruner": {"kind": "wilcoxon", "by": "seed"}},
            "wilcoxon with p_threshold=0.1 cannot prune before the last of 3 .*; give 5 or more",
        ),
        ({"pruner": {"kind": "median", "percentile": 5}}, "percentile has no effect with kind=me"),
        ({"pruner": {"by": "seed"}}, "by has no effect with kind=none"),
        ({"tuning_seeds": []}, "tuning_seeds: .* is refused; seeds of each trial"),
        ({"tuning_seeds": [1, 1]}, "tuning_seeds names a seed twice"),
        (
            {"tuning_seeds": [1, 2], "test_seeds": [2]},
            "seed 2 is in tuning_seeds and in test_seeds",
        ),
        ({"tuning_seeds": [-1]}, "tuning_seeds"),
        ({"test_seeds": [], "finalists": 2}, "finalists has no effect without test_seeds"),
        ({"with": ["partitoin"]}, "with: 'partitoin' is neither .* did you mean partition"),
        ({"with": ["partition", "seed=3"]}, "with: seed=3: seeds are tuning_seeds and test_seeds"),
        ({"with": ["training.num_gpus=2"]}, "with: training.num_gpus is of one machine"),
        ({"space": {}}, "space is empty"),
        ({"space": [1]}, "space: .* is refused; keys that are searched"),
        ({"lease_s": 0}, "lease_s: 0 is refused"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        define({**SWEEP, **changes}, name="toy", place="my.yaml")
    assert all(line.startswith("my.yaml: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize("missing", ["experiment", "space", "metric"])
def test_what_is_missing_is_named(missing: str) -> None:
    values = {name: value for name, value in SWEEP.items() if name != missing}
    with pytest.raises(ConfigError, match=f"my.yaml: {missing} is missing; "):
        define(values, name="toy", place="my.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiment: [", "is no YAML"),
        ("- acppo", "does not hold keys and values"),
        ("experiment: acppo\nexperiment: mappo", "experiment stands there twice"),
        ("trials: 2026-11-26", "put such values in quotes"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
        ("", "experiment is missing"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_file(str(path), changes={})
    assert str(path) in str(caught.value)


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "experiment: acppo\nwith: [partition]\nmetric: rollout/return_mean\n"
        "space: {actor_lr: {low: 1e-5, high: 1e-2, scale: log}}\n"
    )
    (axis,) = read_file(str(path), changes={}).space.axes
    assert (axis.dimension.low, axis.dimension.high) == (1e-5, 1e-2)
