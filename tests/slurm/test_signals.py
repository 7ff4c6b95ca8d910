"""A job of two processes told to stop in every phase: it saves, and ends as one left alone.

Each phase has a configuration that spends most of its time there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import _rundir, acppo
from experiments._experiment import resolve_command
from experiments.tracking.read import read_series, read_view
from experiments.tracking.reproduction import differences, num_compared
from slurm import record
from slurm.resources import Resources

ROOT = Path(__file__).resolve().parents[2]
COMMON = ("partition", "total_timesteps=6400", "num_envs=4", "logging.video=false")
PHASES = {
    "roll-out": (*COMMON, "num_epochs=1", "num_minibatches=1"),
    "update": (*COMMON, "num_epochs=16"),
    "evaluation": (*COMMON, "evaluate_every=1600", "num_eval_episodes=2500"),
    "checkpoint": (*COMMON, "checkpoint_every=1"),
}


class Job:
    """Two processes of one run, started as a launcher does it."""

    def __init__(self, runs: Path, name: str, words: tuple[str, ...]) -> None:
        self.run_dir = runs / name
        command = ["with", *words]
        config = resolve_command(acppo.SCRIPT, command).model_dump(mode="json")
        if not self.run_dir.exists():
            _rundir.create("acppo", config, name)
            place = {"code": ROOT, "python": Path(sys.executable)}
            record.create(self.run_dir, ["acppo", *command], resources=Resources(), **place)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.log = runs / f"{name}.log"
        with self.log.open("a") as log:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, "-m", "slurm.job", str(self.run_dir)],
                    env={**kept, **common, "RANK": rank, "LOCAL_RANK": rank},
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
                for rank in ("0", "1")
            ]

    def wait(self) -> list[int]:
        """Exit codes."""
        try:
            return [process.wait(200) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def wait_for_records(self, count: int) -> None:
        path = self.run_dir / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not path.exists() or path.read_bytes().count(b"\n") < count:
            assert self.processes[0].poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def wait_for_start(self) -> None:
        deadline = time.monotonic() + 120
        while self.log.read_text().count("process ") < 2:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def _runs_dir(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARL_RUNS_DIR", str(runs))


def left_alone(runs: Path, phase: str) -> Path:
    """The run that nobody stopped."""
    name = f"alone-{phase}"
    if not (runs / name).exists():
        assert Job(runs, name, PHASES[phase]).wait() == [0, 0]
    return runs / name


CASES = [
    ("roll-out", signal.SIGTERM, (0,)),
    ("update", signal.SIGUSR2, (0, 1)),
    ("evaluation", signal.SIGUSR2, (0, 1)),
    ("checkpoint", signal.SIGUSR2, (1,)),
    ("checkpoint", signal.SIGINT, (0, 1)),
]
CODES = {signal.SIGTERM: 143, signal.SIGUSR2: 140, signal.SIGINT: 130}


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "number", "ranks"), CASES)
def test_a_job_that_is_told_to_stop_saves_and_goes_on(
    runs: Path, phase: str, number: signal.Signals, ranks: tuple[int, ...]
) -> None:
    expected = left_alone(runs, phase)
    name = f"{phase}-{number.name}-{len(ranks)}"
    job = Job(runs, name, PHASES[phase])
    job.wait_for_records(1)
    time.sleep(0.15)
    for rank in ranks:
        job.processes[rank].send_signal(number)
    assert job.wait() == [CODES[number], 0], job.log.read_text()
    one = read_view(job.run_dir)
    assert one.status == ("INTERRUPTED" if number == signal.SIGINT else "PREEMPTED")
    assert one.env_steps is not None and one.env_steps < 6400
    assert (job.run_dir / f"checkpoint_{one.env_steps}").is_dir()
    assert Job(runs, name, PHASES[phase]).wait() == [0, 0], job.log.read_text()
    again = read_view(job.run_dir)
    assert (again.status, again.attempt) == ("COMPLETED", 2)
    assert differences(read_series(expected), read_series(job.run_dir)) == []
    assert num_compared(read_series(expected))[1] > 50


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_while_it_starts_begins_anew(runs: Path) -> None:
    expected = left_alone(runs, "roll-out")
    job = Job(runs, "start-up", PHASES["roll-out"])
    job.wait_for_start()
    for process in job.processes:
        process.send_signal(signal.SIGUSR2)
    assert job.wait() == [140, 0], job.log.read_text()
    assert read_view(job.run_dir).status == "PREEMPTED"
    assert Job(runs, "start-up", PHASES["roll-out"]).wait() == [0, 0]
    assert differences(read_series(expected), read_series(job.run_dir)) == []


@pytest.mark.slow
def test_a_job_that_is_interrupted_twice_ends_at_once(runs: Path) -> None:
    job = Job(runs, "twice", (*COMMON, "num_epochs=3000"))
    job.wait_for_start()
    time.sleep(4)
    for _ in range(2):
        for process in job.processes:
            process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    began = time.monotonic()
    assert job.wait()[0] == 130
    assert time.monotonic() - began < 20
    assert read_view(job.run_dir).status == "INTERRUPTED"


@pytest.mark.slow
def test_a_second_copy_of_a_job_does_not_write(runs: Path) -> None:
    words = [word for word in COMMON if not word.startswith("total")]
    first = Job(runs, "copy", (*words, "total_timesteps=100000000"))
    first.wait_for_records(3)
    code = "import sys, slurm.job as job; job._LEASE_S = 2.0; sys.exit(job.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(first.run_dir)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"is being written by process {first.processes[0].pid}" in done.stderr
    assert "waiting for process" in done.stdout
    for process in first.processes:
        process.send_signal(signal.SIGTERM)
    assert first.wait() == [143, 0]
    assert read_view(first.run_dir).attempt == 1
