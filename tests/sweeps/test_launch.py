"""A real small sweep from the command line: ACPPO on sum-coordination, its runs, its report."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.tracking.read import read_series
from sweeps import launch, report
from sweeps.curves import score

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """
experiment: acppo
with: [sum_coordination, total_timesteps=2400, logging.video=false, num_eval_episodes=1]
space:
  gamma_prime: {low: 0.5, high: 0.999, scale: log_complement}
  clip_epsilon: {low: 0.05, high: 0.4}
metric: rollout/return_mean
trials: 3
tuning_seeds: [0, 1]
test_seeds: [7]
finalists: 1
"""


@dataclass
class User:
    """Somebody at a command line."""

    folder: Path

    def call(self, *words: str, code: int = 0) -> str:
        environment = {**os.environ, "MARL_RUNS_DIR": str(self.runs), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, text=True, capture_output=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def sweep(self) -> str:
        return str(self.folder / "small.yaml")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    one = User(tmp_path_factory.mktemp("sweep"))
    Path(one.sweep).write_text(SWEEP)
    return one


@pytest.fixture(scope="module")
def said(user: User) -> str:
    """What the launch said."""
    return user.call("sweeps/launch.py", user.sweep, "--workers", "2")


def test_a_launch_ends_with_a_winner_and_the_line_that_repeats_it(user: User, said: str) -> None:
    assert "winner: trial" in said
    assert "on fresh seeds" in said
    line = next(x for x in said.splitlines() if x.startswith("  python experiments/acppo.py with"))
    report = json.loads(user.call("sweeps/report.py", "small", "--json"))
    assert report["command"] == line.strip()
    user.call("experiments/acppo.py", "--id", "again", *shlex.split(line)[2:])
    again = read_series(user.runs / "again")["rollout/return_mean"]
    winner = next(t for t in report["trials"] if t["trial"] == report["winner"])
    (test,) = [run["score"] for run in winner["runs"] if run["role"] == "test"]
    assert score(again) == test


def test_every_unit_is_a_recorded_run(user: User, said: str) -> None:
    runs = json.loads(user.call("-m", "experiments.cli", "runs", "study=small", "--all", "--json"))
    assert {one["status"] for one in runs} == {"COMPLETED"}
    tuning = {(one["trial"], one["config"]["seed"]) for one in runs if one["role"] == "tuning"}
    assert tuning == {(trial, seed) for trial in range(3) for seed in (0, 1)}
    assert {one["config"]["seed"] for one in runs if one["role"] == "test"} == {7}
    assert all("sweep:small" in one["tags"] for one in runs)
    few = user.call("-m", "experiments.cli", "runs", "study=small", "trial=2", "role=tuning")
    assert few.count("small-t0002-s") == 2
    shown = user.call("-m", "experiments.cli", "show", "small-t0001-s1")
    assert "study small, trial 1, a tuning seed" in shown
    assert "algorithm.clip_epsilon" in shown


def test_the_same_launch_again_repeats_nothing(user: User, said: str) -> None:
    before = sorted(path.name for path in user.runs.iterdir())
    again = user.call("sweeps/launch.py", user.sweep, "--workers", "2")
    assert said.splitlines()[-3:] == again.splitlines()[-3:]
    assert sorted(path.name for path in user.runs.iterdir()) == before


def test_the_report_is_a_page_and_pictures(user: User, said: str) -> None:
    folder = user.runs / "sweeps" / "small"
    text = user.call("sweeps/report.py", "small")
    assert f"optuna-dashboard sqlite:///{folder}/study.db" in text
    page = (folder / "report.html").read_text()
    for part in ("Study small", 'id="history"', 'id="slice"', 'id="parallel"', "winner: trial"):
        assert part in page
    assert "<script src=" not in page  # it needs no network
    for name in ("history", "slice", "parallel"):
        assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def dashboard(user: User, said: str) -> Iterator[str]:
    """optuna-dashboard, as the report says."""
    storage = f"sqlite:///{user.runs}/sweeps/small/study.db"
    program = Path(sys.executable).with_name("optuna-dashboard")
    process = subprocess.Popen(
        [program, storage, "--port", "18763"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    yield "http://127.0.0.1:18763"
    process.kill()
    process.communicate()


def test_optuna_dashboard_opens_on_the_storage(dashboard: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{dashboard}/api/studies", timeout=5) as answer:
                studies = json.load(answer)["study_summaries"]
                break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert [one["study_name"] for one in studies] == ["small"]


def test_another_sweep_of_that_name_is_refused(user: User, said: str) -> None:
    words = ("sweeps/launch.py", user.sweep, "with", "entropy_coef=0.1")
    message = user.call(*words, code=2)
    assert "study small has begun with another sweep: with was" in message
    assert "--study NAME" in message


def test_another_database_is_no_new_study(
    user: User, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MARL_RUNS_DIR", str(user.runs))
    monkeypatch.setenv("MARL_OPTUNA_URL", "postgresql://me:secret@127.0.0.1:1/sweeps")
    for program, words in ((report, ["small"]), (launch, [user.sweep])):
        assert program.main(words) == 2
        message = capsys.readouterr().err
        assert "study small was begun in sqlite" in message
        assert "unset MARL_OPTUNA_URL" in message
        assert "secret" not in message
    line = report.dashboard(user.runs / "sweeps" / "small")
    assert line.startswith("optuna-dashboard postgresql+psycopg://me@127.0.0.1:1/sweeps ")
    assert "PGPASSWORD" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("acpo",), "did you mean sweeps/acppo.yaml?"),
        (("acppo", "mappo"), "one sweep at a time"),
        (("acppo", "--trials", "0"), "--trials: trials: 0 is refused"),
        (("acppo", "--workers", "0"), "--workers 0 is refused"),
        (("acppo", "--study", "a/b"), "--study 'a/b' is refused"),
        (("acppo", "with", "gamma=2"), "algorithm.gamma: 2 is refused"),
        (("acppo", "--worker", "2"), "did you mean --workers?"),
        (("acppo", "--slurm", "h101"), "there is no"),
    ],
)
def test_bad_words_are_refused_and_nothing_is_made(
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))
    assert launch.main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "there is no study 'smal'" in User(tmp_path).call("sweeps/report.py", "smal", code=2)
