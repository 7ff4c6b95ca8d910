"""Workers, launchers and servers that die, freeze and come back: nothing is lost or repeated."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.tracking.read import read_view
from experiments.tracking.spool import read_events
from marlcore.config_errors import ConfigError
from sweeps import ledger
from sweeps.ledger import Owner, Unit
from tests.sweeps.postgres import running_postgres
from tests.sweeps.toy import open_toy

ROOT = Path(__file__).resolve().parents[2]


class Toy:
    """A toy study in a folder, and workers of it in processes of their own."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.changes = folder, changes
        self.name = f"toy-{folder.name}-{os.getpid()}"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, worker: int = 0, seconds: float = 0.0) -> subprocess.Popen[str]:
        toy = {"TOY": json.dumps(self.changes), "TOY_NAME": self.name}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweeps.toy", str(self.folder), str(worker), str(seconds)],
            cwd=ROOT,
            env={**os.environ, **toy},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def open(self) -> Any:
        return open_toy(self.folder, self.name, **self.changes)

    def begun(self) -> list[tuple[int, int]]:
        """(Trial, seed) of every unit that a worker began, in order."""
        path = self.folder / "done"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(trial), int(seed)) for _, trial, seed in map(str.split, lines)]

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.begun()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> list[str]:
        """Wait for all workers; what they said."""
        said = [process.communicate(timeout=120)[0] for process in self.processes]
        assert [process.returncode for process in self.processes] == [0] * len(said), said
        self.processes.clear()
        return said


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[Any]:
    made: list[Toy] = []

    def make(**changes: Any) -> Toy:
        made.append(Toy(tmp_path, **changes))
        return made[-1]

    yield make
    for toy in made:
        for process in toy.processes:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_eight_workers_run_each_of_forty_trials_once(kept: str, toys: Any) -> None:
    toy = toys(trials=40)
    for worker in range(8):
        toy.start(worker)
    toy.end()
    assert sorted(toy.begun()) == [(trial, 0) for trial in range(40)]
    study = toy.open()
    assert [trial.state.name for trial in study.optuna.trials] == ["COMPLETE"] * 40


def test_a_worker_that_froze_past_its_lease_is_refused(kept: str, toys: Any) -> None:
    toy = toys(trials=1, lease_s=1.0)
    worker = toy.start(seconds=0.5)
    toy.wait_for(1)
    worker.send_signal(signal.SIGSTOP)
    study = toy.open()
    deadline = time.monotonic() + 30
    while not isinstance(unit := study.claim(Owner.of_this_process()), Unit):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert unit.token == 2
    assert study.finish(unit, ledger.DONE, score=42.0)
    worker.send_signal(signal.SIGCONT)
    assert toy.end() == ["refused: (0, 'tuning', 0)\n"]
    assert study.optuna.trials[0].value == 42.0


def test_a_kill_in_the_middle_of_writing_leaves_a_study_that_goes_on(toys: Any) -> None:
    toy, generator = toys(trials=60), random.Random(0)
    for count in (1, 12, 24, 36, 48):
        worker = toy.start()
        toy.wait_for(count)
        time.sleep(generator.uniform(0, 0.05))
        worker.kill()
        worker.communicate()
        toy.processes.clear()
        with sqlite3.connect(toy.folder / "study.db") as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
        toy.open()
    toy.start()
    toy.end()
    assert {unit.state for unit in toy.open().ledger.units()} == {ledger.DONE}
    again = {key: n for key, n in Counter(toy.begun()).items() if n > 1}
    assert {trial for trial, _ in toy.begun()} == set(range(60))
    assert len(again) <= 5  # those that were worked on when the worker was killed


def test_a_file_that_is_no_database_is_named(toys: Any) -> None:
    toy = toys()
    (toy.folder / "study.db").write_text("this is no database, " * 100)
    with pytest.raises(ConfigError, match=r"study.db: file is not a database; move"):
        toy.open()


@pytest.mark.postgres
def test_a_server_that_is_killed_is_waited_for(
    postgres: object, toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_postgres() as server:
        monkeypatch.setenv("MARL_OPTUNA_URL", server.url)
        toy = toys(trials=12)
        toy.start(seconds=0.1)
        toy.start(1, seconds=0.1)
        toy.wait_for(4)
        server.stop("immediate")
        time.sleep(1.0)
        server.start()
        said = "".join(toy.end())
        assert "the database does not answer" in said
        assert "the database answers again" in said
        assert sorted(toy.begun()) == [(trial, 0) for trial in range(12)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:pass@host/base", r"is refused \(mysql\); give postgresql://"),
        ("postgresql://me:secret99@127.0.0.1:9/base", "refused.*start the server"),
        ("not a url", "is no URL"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_named_without_its_password(
    url: str, message: str, toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARL_OPTUNA_URL", url)
    with pytest.raises(ConfigError, match=message) as caught:
        toys().open()
    assert "secret99" not in str(caught.value)


SWEEP = """
experiment: acppo
with: [partition, total_timesteps=1600, logging.video=false, num_eval_episodes=1]
space:
  clip_epsilon: {low: 0.05, high: 0.4}
metric: rollout/return_mean
trials: 5
tuning_seeds: [0]
test_seeds: [9]
finalists: 1
lease_s: 5
"""


@pytest.mark.slow
def test_a_launcher_killed_ten_times_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Half of the times its workers and their runs are killed with it."""
    (tmp_path / "small.yaml").write_text(SWEEP)
    runs, generator = tmp_path / "runs", random.Random(1)
    environment = {**os.environ, "MARL_RUNS_DIR": str(runs)}
    command = [sys.executable, "sweeps/launch.py", str(tmp_path / "small.yaml"), "--workers", "2"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-2)

    for kill in range(10):
        launcher = start()
        time.sleep(generator.uniform(0.5, 5.0))
        victims = [launcher.pid, *(_processes_of(runs) if kill % 2 else [])]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        launcher.communicate()
    last = start()
    said, _ = last.communicate(timeout=200)
    assert last.returncode == 0, said
    assert "winner: trial" in said
    found = {path.name: read_view(path) for path in runs.glob("small-t*")}
    baseline_or_best = {name for name in found if name.endswith("-s9")}
    expected = {f"small-t{trial:04d}-s0" for trial in range(5)}
    assert found.keys() == expected | baseline_or_best
    assert 1 <= len(baseline_or_best) <= 2
    for name, one in found.items():
        assert one.status == "COMPLETED", name
        ends = [e["status"] for e in read_events(runs / name) if e["event"] == "end"]
        assert ends.count("COMPLETED") == 1, (name, ends)
        assert one.env_steps == 1600


def _processes_of(runs: Path) -> list[int]:
    """Workers and runs of a runs directory."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"MARL_RUNS_DIR={runs}".encode() in environment and b"-m" in words:
            found.append(int(path.name))
    return found
