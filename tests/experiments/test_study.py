"""Studies: refused files, what is missing, whole runs, and a launcher that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.studies.definition import FOLDER, Part, names, read_study
from experiments.studies.report import solved_at
from experiments.tracking.read import read_series, read_view
from experiments.tracking.view import Series
from marlcore.config_errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
about: Two agents must choose differently.
with: [total_timesteps=1600, num_eval_episodes=4]
algorithms:
  MAPPO: {script: mappo}
  ACPPO, one step: {script: acppo, with: [ablation=belief_only, num_eval_episodes=3]}
environments:
  shared weights: [partition, share_policy=true]
seeds: [0, 1]
metric: rollout/return_mean
solved: 0.1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "pair.yaml"
    file.write_text(STUDY)
    return file


def study(path: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "experiments/study.py", str(path), *words],
        cwd=ROOT,
        env={**os.environ, "MARL_RUNS_DIR": str(path.parent / "runs"), "COLUMNS": "200"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", names())
def test_the_projects_own_studies_are_accepted(name: str) -> None:
    found = read_study(name)
    file = found.file
    count = len(file.algorithms) * len(file.environments) * len(file.seeds)
    assert len({unit.name for unit in found.units}) == len(found.units) == count
    assert FOLDER.joinpath(f"{name}.yaml").is_file()


def test_what_stands_nearer_to_the_run_wins(path: Path) -> None:
    first, second = read_study(str(path)).units[:2]
    assert first.config["training"]["num_eval_episodes"] == 4
    assert second.config["training"]["num_eval_episodes"] == 4  # `with` of the file is for all
    (third, *_) = read_study(str(path), words=["num_eval_episodes=2"]).units
    assert third.config["training"]["num_eval_episodes"] == 2
    assert second.name == "pair-ACPPO_one_step-shared_weights-s0"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: rollout/return_mean", "metric: rollout/return", "did you mean rollout/return"),
        ("script: mappo", "script: mapo", "did you mean experiments/mappo.py"),
        ("share_policy=true", "share_polcy=true", "MAPPO, shared weights: share_polcy: no such"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "names a seed twice"),
        ("seeds: [0, 1]", "seeds: []", "seeds"),
        ("solved: 0.1", "slved: 0.1", "slved: no such key; did you mean solved"),
        ("share_policy=true", "seed=3", "its seeds are those of the key seeds"),
        ("ACPPO, one step", "MAPPO_", "would have one name"),
    ],
)
def test_a_bad_file_is_refused(path: Path, old: str, new: str, message: str) -> None:
    path.write_text(STUDY.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_study(str(path))


def test_a_wrong_command_line_is_refused(path: Path) -> None:
    assert "did you mean studies/games.yaml?" in study(Path("game"), code=2)
    assert "give a number from 1" in study(path, "--workers", "0", code=2)
    assert "write `with`" in study(path, "seed=1", code=2)
    assert "--seed: invalid int value: 'x'" in study(path, "--seed", "x", code=2)
    assert "there is nothing to report yet" in study(path, "--report")


def test_the_command_line_names_a_part(path: Path) -> None:
    words = ["--algorithm", "ACPPO, one step", "--seed", "1", "with", "num_eval_episodes=2"]
    lines = study(path, "--dry-run", *words).splitlines()
    assert [line.split()[0] for line in lines if "pair-" in line] == ["ACPPO,"]
    assert "1 of 1 runs are missing" in lines


def test_a_part_of_a_study_is_runs_of_the_whole(path: Path) -> None:
    whole = {unit.name: unit.config for unit in read_study(str(path)).units}
    part = read_study(str(path), part=Part(algorithms=["MAPPO"], seeds=[1]))
    assert {unit.name: unit.config for unit in part.units} == {
        (name := "pair-MAPPO-shared_weights-s1"): whole[name]
    }
    both = read_study(str(path), part=Part(seeds=[1, 0], environments=["shared weights"]))
    assert [unit.name for unit in both.units] == list(whole)  # in the file's order


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(algorithms=["IPPO"]), "--algorithm .IPPO.: the study has no such algorithm; it has"),
        (Part(environments=["shared"]), "--environment .shared.: .* it has .shared weights."),
        (Part(seeds=[0, 2]), "--seed 2: the study has no such seed; it has 0, 1$"),
    ],
)
def test_a_part_that_is_not_there_is_refused(path: Path, part: Part, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_study(str(path), part=part)


def test_solved_is_when_the_newest_points_first_are_on_average() -> None:
    values = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    steps = [100 * i for i in range(1, 10)]
    series = {
        "rollout/success_rate": Series(steps, [0.0] * 9, values),
        "time/elapsed_s": Series(steps, [0.0] * 9, [2.0 * i for i in range(1, 10)]),
    }
    assert solved_at(series, "rollout/success_rate", 0.8) == (600, 12.0)
    assert solved_at(series, "rollout/success_rate", 1.0) == (800, 16.0)
    assert solved_at(series, "rollout/success_rate", 1.1) is None


def test_a_study_runs_what_is_missing_and_reports(path: Path) -> None:
    runs = path.parent / "runs"
    assert "4 of 4 runs are missing" in study(path, "--dry-run")
    said = study(path, "--workers", "2")
    assert said.count("complete after") == 4
    assert "P(MAPPO above ACPPO, one step)" in said
    for suffix in (".md", ".html", ".json", "-shared_weights.png"):
        assert (runs / f"pair{suffix}").stat().st_size > 100
    page = (runs / "pair.html").read_text()
    assert "shared weights" in page and "Probability of improvement" in page
    views = [read_view(runs / f"pair-{a}-shared_weights-s{s}") for a in ("MAPPO",) for s in (0, 1)]
    assert [(v.study, v.tags, v.config["seed"]) for v in views] == [
        ("pair", ("study:pair",), 0),
        ("pair", ("study:pair",), 1),
    ]
    # the report of a part leaves that of the whole alone
    report = (runs / "pair.md").read_bytes()
    study(path, "--algorithm", "MAPPO", "--report")
    assert "ACPPO" not in (runs / "pair-part.md").read_text()
    assert (runs / "pair.md").read_bytes() == report
    # nothing to do, and one run that has become another by a change of the file
    assert "begins" not in study(path)
    path.write_text(STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]").replace("1600", "2400"))
    plan = study(path, "--dry-run")
    assert "6 of 6 runs are missing" in plan and "pair-MAPPO-shared_weights-s0-2" in plan


def test_a_killed_study_goes_on_with_its_runs(path: Path) -> None:
    path.write_text(STUDY.replace("1600", "60000").replace("seeds: [0, 1]", "seeds: [0]"))
    runs = path.parent / "runs"
    first = runs / "pair-MAPPO-shared_weights-s0"
    process = subprocess.Popen(
        [sys.executable, "experiments/study.py", str(path)],
        cwd=ROOT,
        env={**os.environ, "MARL_RUNS_DIR": str(runs)},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not read_series(first) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while read_view(first).status == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert read_view(first).status == "PREEMPTED"  # told by the system, it saved and ended
    before = read_view(first).env_steps or 0
    said = study(path, "with", "num_workers=0")  # what changes no result makes no other run
    assert "seed 0: goes on" in said
    assert (read_view(first).status, read_view(first).attempt) == ("COMPLETED", 2)
    steps = read_series(first)["rollout/return_mean"].steps
    assert 0 < before < 60_000 and steps == sorted(set(steps)) and steps[-1] == 60_000
    assert np.isfinite(json.loads((first / "evaluation.json").read_text())["return_mean"])


def test_a_run_that_fails_is_told_and_the_others_go_on(path: Path) -> None:
    missing = "env.factory=tests.factories:no_such_factory"
    broken = STUDY.replace(
        "shared weights: [partition, share_policy=true]",
        f"good: [partition]\n  bad: [env.kind=pettingzoo, {missing}]",
    )
    path.write_text(broken.replace("seeds: [0, 1]", "seeds: [0]"))
    said = study(path, code=1)
    assert "bad, seed 0: ended with code" in said and "no_such_factory" in said
    assert said.count("complete after") == 2
    assert "MAPPO" in (path.parent / "runs" / "pair.md").read_text()
