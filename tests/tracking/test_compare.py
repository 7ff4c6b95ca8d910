"""Comparisons: groups and labels, curves, final scores, intervals; what is refused or warned of."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.tracking.compare import (
    Comparison,
    Run,
    bootstrap,
    compare,
    finite_points,
)
from experiments.tracking.groups import NOT_COMPUTED, group_configs, resolve_key
from experiments.tracking.scores import final_score
from experiments.tracking.view import COMPLETED, FAILED, RunView, Series
from marlcore.config_errors import ConfigError, parse_config
from marlcore.statistics import bootstrap_interval, interquartile_mean

SUCCESS, RETURN = "rollout/success_rate", "rollout/return_mean"


def config(name: str = "mappo", seed: int = 0, **sections: Any) -> dict[str, Any]:
    algorithm = {"name": name, **sections.pop("algorithm", {})}
    values = {"seed": seed, "algorithm": algorithm, **sections}
    return parse_config(values).model_dump(mode="json")


def run(
    id: str,
    values: list[float],
    *,
    seed: int = 0,
    name: str = "mappo",
    step: int = 100,
    metric: str = SUCCESS,
    status: str = COMPLETED,
    **sections: Any,
) -> Run:
    """A run with a point every `step` env steps; it was to take as many as it took."""
    steps = [step * (i + 1) for i in range(len(values))]
    sections = {"training": {"total_timesteps": step * 10}, **sections}
    view = RunView(id, name, status, config(name, seed, **sections))
    return view, {metric: Series(steps, [float(s) for s in steps], values)}


def labels(comparison: Comparison) -> list[str]:
    return [group.label for group in comparison.groups]


def ramp(top: float, count: int = 10) -> list[float]:
    return [top * (i + 1) / count for i in range(count)]


def test_runs_that_differ_in_their_seeds_alone_are_one_group() -> None:
    result = compare([run("a", ramp(1), seed=0), run("b", ramp(1), seed=1)])
    assert labels(result) == ["mappo"]
    assert [member.seed for member in result.groups[0].members] == [0, 1]
    assert result.groups[0].num_seeds == 2
    assert result.pairs == ()


def test_where_it_ran_makes_no_group() -> None:
    other = {"num_workers": 3, "device": "cpu", "num_threads": 2, "total_timesteps": 1000}
    more = {"training": other, "logging": {"video": False}, "algorithm": {"microbatch_size": 5}}
    result = compare([run("a", ramp(1)), run("b", ramp(1), seed=1, **more)])
    assert labels(result) == ["mappo"]


def test_length_and_checkpoint_make_groups_though_they_may_change_on_resume() -> None:
    assert "training.num_workers" in NOT_COMPUTED and "logging." in NOT_COMPUTED
    kept = {"training.total_timesteps", "policy.pretrained_checkpoint"}
    assert not kept & set(NOT_COMPUTED)
    longer = run("b", ramp(1), training={"total_timesteps": 2000})
    assert labels(compare([run("a", ramp(1)), longer])) == [
        "total_timesteps=1000",
        "total_timesteps=2000",
    ]


def test_two_algorithms_are_labelled_by_their_names_alone() -> None:
    result = compare([run("a", ramp(1), name="acppo"), run("m", ramp(1), name="mappo")])
    assert labels(result) == ["acppo", "mappo"]
    assert result.groups[0].settings == {"algorithm.name": "acppo"}


def test_a_key_of_one_algorithm_counts_where_that_algorithm_has_two_groups() -> None:
    runs = [
        run("a", ramp(1), name="acppo", algorithm={"gamma_prime": 0.9}),
        run("b", ramp(1), name="acppo", algorithm={"gamma_prime": 0.99}),
        run("c", ramp(1), name="mappo"),
    ]
    assert labels(compare(runs)) == ["acppo gamma_prime=0.9", "acppo gamma_prime=0.99", "mappo"]


def test_a_shared_key_follows_the_algorithm() -> None:
    runs = [
        run("a", ramp(1), name="acppo", algorithm={"clip_epsilon": 0.1}),
        run("b", ramp(1), name="mappo"),
    ]
    assert labels(compare(runs)) == ["acppo clip_epsilon=0.1", "mappo clip_epsilon=0.2"]


def test_a_last_part_that_two_keys_have_is_written_whole() -> None:
    configs = [config(policy={"kind": kind}) for kind in ("mlp", "tiny")]
    assert [part.label for part in group_configs(configs)] == [
        "policy.kind=mlp",
        "policy.kind=tiny",
    ]


def test_a_key_that_an_older_run_lacks_tells_groups_apart() -> None:
    parts = group_configs([{"env": {"x": 1}}, {"env": {"x": 1}, "training": {"new": True}}])
    assert [part.label for part in parts] == ["new unset", "new=true"]


def test_one_and_one_point_zero_are_the_same_setting() -> None:
    assert len(group_configs([{"a": {"x": 1}}, {"a": {"x": 1.0}}])) == 1


def test_labels_are_unique_even_where_shortened_values_are_not() -> None:
    parts = group_configs([{"a": {"x": ["y" * 90, end]}} for end in "pq"])
    assert len({part.label for part in parts}) == 2


def test_by_makes_groups_of_the_named_keys_alone() -> None:
    runs = [
        run("a", ramp(1), name="acppo", algorithm={"clip_epsilon": 0.1}),
        run("b", ramp(1), name="mappo", algorithm={"clip_epsilon": 0.1}),
        run("c", ramp(1), name="mappo", algorithm={"clip_epsilon": 0.3}),
    ]
    result = compare(runs, by=["clip_epsilon"])
    assert labels(result) == ["clip_epsilon=0.1", "clip_epsilon=0.3"]
    assert [member.run for member in result.groups[0].members] == ["a", "b"]
    assert result.warnings == ()  # a and b share a seed, but not a configuration
    assert labels(compare(runs, by=["algorithm.name"])) == ["acppo", "mappo"]
    assert labels(compare(runs, by=["seed"])) == ["seed=0"]


def test_by_a_key_that_no_run_has_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean algorithm\.clip_epsilon"):
        compare([run("a", ramp(1))], by=["clip_epsilom"])
    with pytest.raises(ConfigError, match=r"fits env\.kind, policy\.kind"):
        resolve_key("kind", ["env.kind", "policy.kind"])


def test_the_final_score_is_the_mean_of_the_last_tenth() -> None:
    # 20 points at 100..2000: in (1800, 2000] are 1900 and 2000, so (19 + 20) / 2.
    series = Series([100 * i for i in range(1, 21)], [0.0] * 20, [float(i) for i in range(1, 21)])
    assert final_score(*finite_points(series)) == 19.5


def test_the_score_of_a_group_is_the_interquartile_mean_of_its_runs() -> None:
    # Last points 0, 4, 5, 9; the middle half is 4 and 5: (4 + 5) / 2.
    runs = [run(str(i), ramp(top), seed=i) for i, top in enumerate([0.0, 4.0, 5.0, 9.0])]
    group = compare(runs).groups[0]
    assert [member.score for member in group.members] == [0, 4, 5, 9]
    assert group.score.value == pytest.approx(4.5)
    scores = np.array([[0.0], [4.0], [5.0], [9.0]])
    expected = bootstrap_interval(scores, seed=0)
    assert (group.score.low, group.score.high) == pytest.approx(expected)


def test_probability_of_improvement_counts_pairs_of_runs() -> None:
    # 1 and 3 against 2 and 3: 1>2 no, 1>3 no, 3>2 yes, 3=3 half: 1.5 / 4.
    runs = [run(f"a{i}", [x] * 10, seed=i, name="acppo") for i, x in enumerate([1.0, 3.0])]
    runs += [run(f"m{i}", [x] * 10, seed=i, name="mappo") for i, x in enumerate([2.0, 3.0])]
    (pair,) = compare(runs).pairs
    assert (pair.a, pair.b, pair.probability.value) == ("acppo", "mappo", 0.375)
    assert pair.probability.low == 0 and pair.probability.high == 1


def test_a_group_wholly_above_another_is_better_for_certain() -> None:
    runs = [run(f"a{i}", [5.0 + i] * 10, seed=i, name="acppo") for i in range(4)]
    runs += [run(f"m{i}", [1.0 + i / 9] * 10, seed=i, name="mappo") for i in range(4)]
    (pair,) = compare(runs).pairs
    assert pair.probability.text() == "1 [1, 1]"


def test_curves_join_points_of_runs_that_record_at_different_steps() -> None:
    # a: 100, 200, .. 1000; b: 250, 500, 750, 1000. At 300 b is at 1/5 of the way from 250 to 500.
    a, b = run("a", [0.0] * 10), run("b", [10.0, 20.0, 20.0, 20.0], seed=1, step=250)
    b[0].config["training"]["total_timesteps"] = 1000  # type: ignore[index]
    group = compare([a, b], num_points=10).groups[0]  # grid 100, 200, .. 1000 and 250
    assert group.steps == (250, 300, 400, 500, 600, 700, 800, 900, 1000)
    # Of two runs the IQM is the mean: (0 + 12) / 2 at 300.
    assert group.values[:3] == pytest.approx((5.0, 6.0, 8.0))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), num_runs=st.integers(2, 12))
def test_many_columns_at_once_equal_the_bootstrap_of_each(seed: int, num_runs: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(num_runs, 3))
    value, low, high = bootstrap(scores, seed=seed)
    assert low is not None and high is not None
    for column in range(3):
        own = scores[:, column : column + 1]
        assert value[column] == pytest.approx(interquartile_mean(own))
        assert (low[column], high[column]) == pytest.approx(bootstrap_interval(own, seed=seed))


def test_batches_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(3, 7))
    whole = bootstrap(scores, seed=1)
    monkeypatch.setattr("experiments.tracking.compare._BATCH", 2000 * 3 * 2)
    for a, b in zip(whole, bootstrap(scores, seed=1), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_numbers() -> None:
    tops = np.random.default_rng(0).normal(size=9).tolist()
    runs = [run(str(i), ramp(top), seed=i) for i, top in enumerate(tops)]
    first = compare(runs, seed=1)
    assert first == compare(runs, seed=1)
    assert first.groups[0].low != compare(runs, seed=2).groups[0].low


def test_one_seed_has_no_interval() -> None:
    result = compare([run("a", ramp(1), name="acppo"), run("b", ramp(1), name="mappo")])
    for group in result.groups:
        assert (group.score.low, group.score.high, group.low, group.high) == (None,) * 4
        assert group.score.text() == "1 (one seed: no interval)"
        assert group.size == "1 seed"
    assert result.pairs[0].probability.low is None


def test_a_seed_twice_counts_twice_and_is_warned_of() -> None:
    result = compare([run("a", ramp(1)), run("b", ramp(3)), run("c", ramp(2), seed=1)])
    group = result.groups[0]
    assert (len(group.members), group.num_seeds, group.size) == (3, 2, "3 runs, 2 seeds")
    assert result.warnings == ("a, b: the same configuration and seed, so not independent",)


def test_a_run_named_twice_counts_once() -> None:
    one = run("a", ramp(1))
    assert len(compare([one, one]).groups[0].members) == 1


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    values = [1.0, math.nan, 3.0, math.inf, 5.0, 6.0, 7.0, -math.inf, 9.0, 10.0]
    result = compare([run("a", values)], num_points=10)
    assert result.warnings == ("a: 3 of 10 values are not finite and are left out",)
    group = result.groups[0]
    assert group.values == pytest.approx(tuple(range(1, 11)))  # joined across the gaps
    assert group.score.value == 10


def test_a_run_that_diverged_is_named() -> None:
    (_, early) = compare([run("a", [1.0] * 5 + [math.nan] * 5)]).warnings
    assert "reaches 500 of 1,000 env steps" in early


def test_a_run_that_ended_early_is_named_and_its_curve_stops() -> None:
    runs = [run("a", ramp(1)), run("b", ramp(1)[:4], seed=1, status=FAILED)]
    result = compare(runs)
    (warning,) = result.warnings
    assert warning.startswith("b (FAILED) ended early: rollout/success_rate reaches 400 of 1,000 ")
    group = result.groups[0]
    assert group.steps[-1] == 400
    assert [member.steps[-1] for member in group.members] == [1000, 400]


def test_runs_that_share_no_range_have_scores_but_no_curve() -> None:
    late = run("b", [2.0], seed=1, step=900)
    late[0].config["training"]["total_timesteps"] = 1000  # type: ignore[index]
    early = run("a", [1.0, 1.0])
    result = compare([early, late])
    assert result.groups[0].steps == () and result.groups[0].low == ()
    assert any("has no curve" in warning for warning in result.warnings)
    assert result.groups[0].score.value == 1.5
    json.dumps(result.to_json(), allow_nan=False)


def test_one_point_is_a_curve_and_a_score() -> None:
    group = compare([run("a", [0.5], metric="eval/return_mean")], metric="eval/return_mean")
    assert group.groups[0].steps == (100,)
    assert group.groups[0].score.value == 0.5


def test_of_two_values_at_one_step_the_later_counts() -> None:
    steps, values = finite_points(Series([2, 1, 2], [0.0] * 3, [5.0, 6.0, 7.0]))
    assert steps.tolist() == [1, 2] and values.tolist() == [6, 7]


def test_success_is_compared_where_every_run_has_it_and_returns_elsewhere() -> None:
    both = run("a", ramp(1))
    both[1][RETURN] = both[1][SUCCESS]  # type: ignore[index]
    assert compare([both]).metric == SUCCESS
    assert compare([both, run("b", ramp(1), seed=1, metric=RETURN)]).metric == RETURN
    assert compare([both]).meaning.startswith("share of these episodes")


def test_a_metric_that_a_run_lacks_is_refused_with_that_run_and_the_nearest() -> None:
    runs = [run("a", ramp(1)), run("b", ramp(1), metric=RETURN), run("c", [math.nan])]
    with pytest.raises(ConfigError, match=r"success_rate: 2 of 3 runs have no value .*\(b, c\)"):
        compare(runs, metric=SUCCESS)
    with pytest.raises(ConfigError, match="did you mean rollout/success_rate"):
        compare([run("a", ramp(1))], metric="rollout/sucess_rate")
    with pytest.raises(ConfigError, match="give a metric that every run has"):
        compare([run("a", [])])


def test_no_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="no run to compare"):
        compare([])


def test_json_is_plain_and_strict() -> None:
    runs = [run("\u00fc<b>", ramp(1), seed=0), run("b", ramp(2), seed=1)]
    runs.append(run("c", ramp(1), name="acppo"))
    runs[0][0].config["note"] = math.nan  # type: ignore[index]
    runs[1][0].config["note"] = math.nan  # type: ignore[index]
    result = compare(runs)
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text) == result.to_json()
    assert result.to_json()["groups"][0]["num_seeds"] == 2
    assert result.to_json()["groups"][0]["members"][0]["run"] == "\u00fc<b>"


def test_ten_runs_of_ten_thousand_points_take_seconds() -> None:
    generator = np.random.default_rng(0)
    runs = [run(str(i), generator.normal(size=10_000).tolist(), seed=i) for i in range(10)]
    started = time.monotonic()
    group = compare(runs).groups[0]
    assert time.monotonic() - started < 10  # 0.4 s on two cores
    assert 200 <= len(group.steps) <= 202
