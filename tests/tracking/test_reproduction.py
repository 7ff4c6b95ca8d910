"""A run made again from its record."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.tracking import reproduction
from experiments.tracking.provenance import collect, config_hash, git, packages
from experiments.tracking.read import read_view
from experiments.tracking.reproduction import differences, words_of
from experiments.tracking.store import Store
from experiments.tracking.view import Series
from marlcore.config_errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def in_git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    in_git(root, "init", "-q")
    (root / "a.py").write_text("a = 1\n")
    (root / "b.bin").write_bytes(bytes(range(256)))
    (root / "gone.py").write_text("x\n")
    in_git(root, "add", "-A")
    in_git(root, "commit", "-qm", "first")
    return root


def test_a_clean_tree_has_a_commit_and_no_more(repository: Path, tmp_path: Path) -> None:
    found = git(repository, Store(tmp_path))
    assert found is not None
    assert len(found["commit"]) == 40
    assert (found["dirty"], found["diff"], found["untracked"]) == (False, None, {})


def test_a_dirty_tree_is_put_together_again(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "a.py").write_text("a = 2\nb = '\u00e9'\n")
    (repository / "b.bin").write_bytes(bytes(range(255, -1, -1)))
    (repository / "gone.py").unlink()
    (repository / "new folder").mkdir()
    (repository / "new folder" / "n\u00e9w.py").write_text("n = 1\n")
    (repository / "large.csv").write_text("1,2\n")
    store = Store(tmp_path / "runs")
    found = git(repository, store)
    assert found is not None and found["dirty"]
    assert found["untracked_left_out"] == ["large.csv"]
    before = {p.name: p.read_bytes() for p in repository.rglob("*.*") if ".git" not in p.parts}
    in_git(repository, "stash", "-u")
    monkeypatch.setattr(reproduction, "ROOT", repository)
    source = reproduction.source_of("r1", {"git": found}, store)
    folder = tmp_path / "again"
    with reproduction.checked_out(source, folder):
        again = {p.name: p.read_bytes() for p in folder.rglob("*.*") if p.name != ".git"}
    del before["large.csv"]
    assert again == before
    assert not folder.exists()


def test_changes_that_held_a_secret_are_not_made_up(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary-token")
    (repository / "a.py").write_text("token = 'canary-token'\n")
    store = Store(tmp_path / "runs")
    found = git(repository, store)
    assert found is not None
    assert b"canary" not in store.get(found["diff"])
    with pytest.raises(ConfigError, match="held a secret"):
        reproduction.source_of("r1", {"git": found}, store)


def test_a_commit_that_is_not_here_is_named(tmp_path: Path) -> None:
    source = reproduction.Source("0" * 40, b"", {}, None, {})
    with (
        pytest.raises(ConfigError, match="no commit 000000000000; fetch it"),
        reproduction.checked_out(source, tmp_path / "x"),
    ):
        pass


def test_content_that_was_changed_is_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = store.put(b"content")
    assert store.get(name) == b"content"
    store.names()[name].write_bytes(b"other")
    with pytest.raises(FileNotFoundError, match="was changed"):
        store.get(name)


def started(*argv: str) -> dict[str, object]:
    return {"event": "start", "provenance": {"argv": ["experiments/acppo.py", *argv]}}


def test_the_words_of_all_attempts_are_put_together() -> None:
    events = [
        started("--id=r1", "-c", "a comment", "with", "partition", "seed=3", "num_envs=4"),
        {"event": "end"},
        started("with", "resume=r1", "total_timesteps=9"),
    ]
    assert words_of(events) == ["partition", "seed=3", "num_envs=4", "total_timesteps=9"]


def series(*values: float, start: int = 1) -> Series:
    return Series(list(range(start, start + len(values))), [0.0] * len(values), list(values))


@pytest.mark.parametrize(
    ("first", "second", "step"),
    [
        (series(1, 2, 3), series(1, 2, 3), None),
        (series(1, math.nan), series(1, math.nan), None),
        (series(1, 2, 3), series(1, 2.0000000000000004, 3), 2),
        (series(1, 2, 3), series(1, 2), 3),
        (series(1, 2), series(1, 2, 3), 3),
        (series(1, 2), series(1, 2, start=2), 1),
    ],
)
def test_the_first_difference_is_found(first: Series, second: Series, step: int | None) -> None:
    found = differences({"a": first}, {"a": second})
    assert [difference.step for difference in found] == ([] if step is None else [step])
    assert not differences({"time/x": first}, {"time/x": second})


def test_the_hash_of_a_configuration_does_not_depend_on_order() -> None:
    assert config_hash({"a": 1, "b": {"c": 2}}) == config_hash({"b": {"c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_provenance_holds_the_machine_and_allowed_variables_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("MY_PRIVATE_THING", "nobody's business")
    found = collect({"seed": 3}, ["acppo.py", "with", "seed=3"], Store(tmp_path))
    text = json.dumps(found)
    assert found["environment"]["SLURM_JOB_ID"] == "12"
    assert "nobody's business" not in text
    assert found["packages"]["numpy"] == packages()["numpy"]
    assert {"hostname", "cpu", "cores", "gpus", "cuda", "driver"} <= set(found["machine"])
    assert Store(tmp_path).get(found["lock"]) == (ROOT / "requirements.lock").read_bytes()


@pytest.mark.slow
def test_a_run_of_this_repository_is_reproduced_bit_for_bit(tmp_path: Path) -> None:
    environment = {**os.environ, "MARL_RUNS_DIR": str(tmp_path)}
    words = ["partition", "training.total_timesteps=2400", "seed=3", "logging.video=false"]
    train = [sys.executable, "experiments/acppo.py", "--id", "r1", "with", *words]
    subprocess.run(train, cwd=ROOT, env=environment, check=True, capture_output=True)
    again = subprocess.run(
        [sys.executable, "-m", "experiments.cli", "reproduce", "r1", "--these-packages"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "IDENTICAL: 3" in again.stdout
    (other,) = [p.parent for p in tmp_path.glob("*/config.json") if p.parent.name != "r1"]
    metrics = other / "metrics.jsonl"
    first = read_view(tmp_path / "r1")
    assert read_view(other).config == first.config
    metrics.write_text(
        "".join(
            line.partition(', "crc32"')[0].replace(
                '"update/num_epochs": 8.0', '"update/num_epochs": 7.0'
            )
            + "}\n"
            for line in metrics.read_text().splitlines()
        )
    )
    found = differences(reproduction_series(tmp_path / "r1"), reproduction_series(other))
    assert [difference.metric for difference in found] == ["update/num_epochs"]
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True)
    assert "marl-reproduce" not in listed.stdout


def reproduction_series(run_dir: Path) -> dict[str, Series]:
    from experiments.tracking.read import read_series

    return read_series(run_dir)
