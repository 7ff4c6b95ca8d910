"""Exports: round trips, what cannot be written, the structure that marl-eval reads."""

from __future__ import annotations

import csv
import io
import json
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.tracking.compare import Run
from experiments.tracking.export import COLUMNS, FORMATS, export, marl_eval
from experiments.tracking.view import COMPLETED, RunView, Series
from marlcore.config_errors import ConfigError, parse_config

SUCCESS, RETURN = "rollout/success_rate", "rollout/return_mean"


def series(values: list[float], step: int = 100) -> Series:
    steps = [step * (i + 1) for i in range(len(values))]
    return Series(steps, [1.75e9 + i / 3 for i in range(len(values))], values)


def run(id: str, metrics: dict[str, list[float]], *, seed: int | None = 0, **sections: Any) -> Run:
    sections = {"algorithm": {"name": "acppo"}, **sections}
    config = parse_config({"seed": seed or 0, **sections}).model_dump(mode="json")
    if seed is None:
        del config["seed"]
    name = config["algorithm"]["name"]
    view = RunView(id, name, COMPLETED, config)
    return view, {metric: series(values) for metric, values in metrics.items()}


ODD = [0.1, math.nan, math.inf, -math.inf, 1e-300, -0.0, 1 / 3]
RUNS = [
    run('\u00fc,"\n', {SUCCESS: ODD, RETURN: [1.0]}, seed=3),
    run("b", {RETURN: [2.0, 3.0]}, seed=None),
    run("c", {}),
]


def rows_of(runs: list[Run]) -> list[tuple[Any, ...]]:
    """The table that is meant; repr so that NaN is itself."""
    return [
        (v.id, v.name, v.config.get("seed"), step, t, metric, repr(value))
        for v, all_series in runs
        for metric, s in all_series.items()
        for step, t, value in zip(s.steps, s.times, s.values, strict=True)
    ]


def read_csv(text: str) -> list[tuple[Any, ...]]:
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert tuple(head) == COLUMNS
    return [
        (r, n, int(s) if s else None, int(step), float(t), m, repr(float(value)))
        for r, n, s, step, t, m, value in rows
    ]


def test_csv_reads_back_as_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    assert export(RUNS, path, "csv") == []
    assert read_csv(path.read_bytes().decode("utf-8")) == rows_of(RUNS)


def test_csv_writes_what_is_not_finite_as_words(tmp_path: Path) -> None:
    export(RUNS, tmp_path / "t.csv", "csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        values = [row["value"] for row in csv.DictReader(file)]
    assert values[1:4] == ["nan", "inf", "-inf"]


def test_parquet_reads_back_as_what_was_written(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    export(RUNS, tmp_path / "t.parquet", "parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert table["value"].null_count == 0 and table["seed"].null_count == 2
    read = [(*row.values(),) for row in table.to_pylist()]
    assert [(*row[:-1], repr(row[-1])) for row in read] == rows_of(RUNS)


def test_a_parquet_file_has_a_row_group_for_each_run(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    export(RUNS[:2], tmp_path / "t.parquet", "parquet")
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups == 2


def test_without_pyarrow_the_way_to_get_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_text("old")
    with pytest.raises(ConfigError, match="pip install 'pyarrow"):
        export(RUNS, tmp_path / "t.parquet", "parquet")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_runs_are_taken_one_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    def generate() -> Iterator[Run]:
        for i in range(3):
            written = sum(path.stat().st_size for path in tmp_path.iterdir())
            alive.append(f"{i}: {written > 0}")
            yield run(f"r{i}", {RETURN: [0.5] * 10_000})

    export(generate(), tmp_path / "t.csv", "csv")
    assert alive == ["0: False", "1: True", "2: True"]


def test_a_million_points_need_little_memory(tmp_path: Path) -> None:
    values = [0.5] * 10_000

    def generate() -> Iterator[Run]:
        for i in range(10):
            yield run(f"r{i}", {f"update/m{j}": values for j in range(10)}, seed=i)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    export(generate(), tmp_path / "t.csv", "csv")
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 200
    with (tmp_path / "t.csv").open("rb") as file:
        assert sum(1 for _ in file) == 1_000_001


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old")

    def generate() -> Iterator[Run]:
        yield RUNS[0]
        raise ConfigError("the second run is damaged")

    with pytest.raises(ConfigError, match="damaged"):
        export(generate(), path, "csv")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    export(RUNS, path, "csv")
    assert path.read_text(encoding="utf-8").startswith("run,name")
    assert list(tmp_path.iterdir()) == [path]


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    export(RUNS, "-", "csv")
    assert read_csv(capsys.readouterr().out) == rows_of(RUNS)
    export(RUNS[:1], Path("-"), "marl-eval")
    assert "peg_in_hole" in json.loads(capsys.readouterr().out)
    with pytest.raises(ConfigError, match="parquet goes to a file"):
        export(RUNS, "-", "parquet")


@pytest.mark.parametrize("format", FORMATS)
def test_no_run_is_refused_and_the_old_file_stays(format: str, tmp_path: Path) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    (tmp_path / "t").write_text("old")
    with pytest.raises(ConfigError, match="no run to export"):
        export([], tmp_path / "t", format)
    assert (tmp_path / "t").read_text() == "old"


def test_bad_formats_and_places_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'parket' is refused; give csv, .* mean parquet\?"):
        export(RUNS, tmp_path / "t", "parket")
    with pytest.raises(ConfigError, match="there is no directory"):
        export(RUNS, tmp_path / "no" / "t.csv", "csv")
    for place in (tmp_path, Path("/dev/null")):
        with pytest.raises(ConfigError, match="is no file"):
            export(RUNS, place, "csv")


EVAL = {
    "eval/return_mean": [1.0, 2.0],
    "eval/success_rate": [0.0, 0.5],
    SUCCESS: [0.1, 0.2],
}


def test_marl_eval_has_the_structure_that_its_logger_writes() -> None:
    document, warnings = marl_eval([run("a", EVAL, seed=4)])
    steps = document["peg_in_hole"]["TwoArmPegInHole"]["acppo"]["seed_4"]
    assert steps == {
        "step_0": {
            "step_count": 100,
            "elapsed_time": 0.0,
            "return": [1.0],
            "success_rate": [0.0],
        },
        "step_1": {
            "step_count": 200,
            "elapsed_time": pytest.approx(1 / 3, abs=1e-6),
            "return": [2.0],
            "success_rate": [0.5],
        },
        # Of steps 100 and 200 only 200 is in the last tenth, (180, 200].
        "absolute_metrics": {"return": [2.0], "success_rate": [0.5]},
    }
    assert list(steps)[-1] == "absolute_metrics" and warnings == []


def test_training_stands_in_for_evaluations_only_where_a_run_has_none() -> None:
    document, _ = marl_eval([run("a", EVAL), run("b", {SUCCESS: [0.3, 0.4]}, seed=1)])
    runs = document["peg_in_hole"]["TwoArmPegInHole"]["acppo"]
    for key, values in (("seed_0", [0.1, 0.2]), ("seed_1", [0.3, 0.4])):
        assert [runs[key][f"step_{i}"]["success_rate"] for i in (0, 1)] == [[x] for x in values]
        assert "return" not in runs[key]["step_0"]


def test_every_step_of_marl_eval_has_every_metric_and_is_finite() -> None:
    metrics = {SUCCESS: [0.1, math.nan, 0.3], RETURN: [1.0, 2.0, 3.0], "rollout/x": [math.nan] * 3}
    document, warnings = marl_eval([run("a", metrics)])
    steps = document["peg_in_hole"]["TwoArmPegInHole"]["acppo"]["seed_0"]
    assert [steps[key]["step_count"] for key in ("step_0", "step_1")] == [100, 300]
    assert set(steps) == {"step_0", "step_1", "absolute_metrics"}
    assert warnings == ["a: 1 steps without all metrics are left out"]
    json.dumps(document, allow_nan=False)


def test_algorithms_tasks_and_settings_have_their_own_places() -> None:
    values = {RETURN: [1.0]}
    games = [{"env": {"kind": "game", "game": game}} for game in ("climbing", "penalty")]
    runs = [
        run("a", values, **games[0]),
        run("b", values, **games[1]),
        run("c", values, algorithm={"name": "mappo", "clip_epsilon": 0.1}, **games[0]),
        run("d", values, algorithm={"name": "mappo", "clip_epsilon": 0.3}, **games[0]),
    ]
    document, warnings = marl_eval(runs)
    assert list(document) == ["game"]
    tasks = document["game"]
    assert {task: list(algorithms) for task, algorithms in tasks.items()} == {
        "climbing": ["acppo clip_epsilon=0.2", "mappo clip_epsilon=0.1", "mappo clip_epsilon=0.3"],
        "penalty": ["acppo clip_epsilon=0.2"],
    }
    assert warnings == ["game: marl-eval needs the same algorithms in every task"]


def test_one_algorithm_keeps_its_name_where_another_setting_differs() -> None:
    runs = [run(str(x), {RETURN: [1.0]}, policy={"hidden_sizes": [x, x]}) for x in (8, 16)]
    runs += [run("e", {RETURN: [1.0]}, env={"kind": "peg_in_hole", "reward": "sparse"})]
    document, _ = marl_eval(runs)
    assert {task: list(found) for task, found in document["peg_in_hole"].items()} == {
        "TwoArmPegInHole reward=staged": [
            "acppo hidden_sizes=[8; 8]",  # marl-eval takes no commas
            "acppo hidden_sizes=[16; 16]",
        ],
        "TwoArmPegInHole reward=sparse": ["acppo hidden_sizes=[128; 128]"],
    }


def test_a_seed_that_is_taken_goes_by_the_id_of_the_run() -> None:
    document, _ = marl_eval([run(id, {RETURN: [1.0]}, seed=2) for id in ("a", "b")])
    assert list(document["peg_in_hole"]["TwoArmPegInHole"]["acppo"]) == ["seed_2", "b"]


def test_runs_that_marl_eval_will_refuse_are_warned_of() -> None:
    runs = [run("a", {RETURN: [1.0, 2.0]}), run("b", {RETURN: [1.0]}, seed=1)]
    runs.append(run("c", {RETURN: [1.0]}, algorithm={"name": "mappo"}))
    _, warnings = marl_eval(runs)
    assert warnings == [
        "peg_in_hole: marl-eval needs the same seeds of every algorithm and task",
        "peg_in_hole: marl-eval needs as many steps in every run; they have 1 to 2",
    ]


def test_runs_without_a_common_metric_are_refused() -> None:
    with pytest.raises(ConfigError, match="share no rollout/ metric"):
        marl_eval([run("a", {RETURN: [1.0]}), run("b", {SUCCESS: [1.0]})])
    apart = run("a", {RETURN: [1.0, math.nan], SUCCESS: [math.nan, 1.0]})
    with pytest.raises(ConfigError, match="a: no step has all of"):
        marl_eval([apart])
