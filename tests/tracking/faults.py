"""What may happen to a run's surroundings, done to real runs with real servers.

    python -m tests.tracking.faults      prints the table of docs/RECORDS.md

Every scenario trains until it is stopped, and says how many points the run recorded and how many
MongoDB has in the end, and how many of them twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo

from experiments.tracking import server
from experiments.tracking.read import read_series, read_view
from marlcore.durable import read_lines
from tests.tracking.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
OUTAGE_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """What a scenario led to."""

    fault: str
    status: str
    exit_code: int
    written: int
    """Points in the run's directory."""
    found: int
    """Of these in MongoDB, with the same step and value."""
    doubled: int
    """Points in MongoDB beyond those."""
    output: str


class Run:
    """A real training in a process of its own."""

    def __init__(self, runs: Path, *words: str, **environment: str) -> None:
        self.runs, self.directory = runs, runs / "r1"
        script = str(ROOT / "experiments" / "acppo.py")
        settings = ["partition", "num_threads=1", *words]
        if not any("total_timesteps" in word for word in words):
            settings.append("training.total_timesteps=100000000")  # until it is stopped
        settings += ["evaluate_every=null"] if not any("evaluate" in w for w in words) else []
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MARL_", "WANDB_"))}
        self.environment = {**kept, "MARL_RUNS_DIR": str(runs), **environment}
        descriptor, self._log = tempfile.mkstemp(prefix="marl-run-")
        weakref.finalize(self, os.unlink, self._log)
        self.process = subprocess.Popen(
            [sys.executable, script, "--id", "r1", "with", *settings],
            env=self.environment,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
        os.close(descriptor)

    def wait_for_records(self, count: int, *, timeout_s: float = 120.0) -> None:
        """Wait until so many records are there."""
        deadline = time.monotonic() + timeout_s
        while self.num_records() < count:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.2)

    def num_records(self) -> int:
        path = self.directory / "metrics.jsonl"
        return len(read_lines(path)[0]) if path.exists() else 0

    def stop(self, number: int = signal.SIGTERM, *, timeout_s: float = 120.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def output(self) -> str:
        return Path(self._log).read_text(errors="replace")

    def marl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "experiments.cli", *words]
        return subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=300
        )

    def outcome(self, fault: str, database_of: Path | None = None) -> Outcome:
        """Compare what the run recorded with what MongoDB has."""
        written = points_of_spool(self.directory)
        found, doubled = 0, 0
        running = server.start(database_of or self.runs)
        with pymongo.MongoClient(running.uri("admin")) as client:
            there = points_of_mongo(client.sacred)
        found = sum(point in there for point in written)
        doubled = sum(there.values()) - found
        status, code = read_view(self.directory).status, self.process.returncode
        return Outcome(fault, status, code, len(written), found, doubled, self.output())


def points_of_spool(run_dir: Path) -> set[tuple[str, int, str]]:
    """(Metric, env steps, value) of all points."""
    return {
        (name, step, repr(float(value)))
        for name, series in read_series(run_dir).items()
        for step, value in zip(series.steps, series.values, strict=True)
    }


def points_of_mongo(database: Any) -> dict[tuple[str, int, str], int]:
    """How often each point stands there."""
    found: dict[tuple[str, int, str], int] = {}
    for metric in database.metrics.find():
        for step, value in zip(metric["steps"], metric["values"], strict=True):
            point = (metric["name"], step, repr(float(value)))
            found[point] = found.get(point, 0) + 1
    return found


@contextmanager
def runs_directory() -> Iterator[Path]:
    """A runs directory whose server is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="marl-fault-") as place:
        try:
            yield Path(place)
        finally:
            server.stop(Path(place))


def kill_server(runs: Path) -> None:
    os.kill(server.start(runs).pid, signal.SIGKILL)


def absent_at_start() -> Outcome:
    with runs_directory() as runs:
        run = Run(runs)
        run.wait_for_records(5)
        server.start(runs)
        time.sleep(12)
        run.stop()
        return run.outcome("server absent at start, up later")


def killed_for_a_minute() -> Outcome:
    with runs_directory() as runs:
        server.start(runs)
        run = Run(runs)
        run.wait_for_records(5)
        time.sleep(7)
        kill_server(runs)
        time.sleep(OUTAGE_S)
        server.start(runs)
        time.sleep(12)
        run.stop()
        return run.outcome(f"server killed for {OUTAGE_S:.0f} s in mid-run")


def killed_three_times() -> Outcome:
    with runs_directory() as runs:
        server.start(runs)
        run = Run(runs)
        run.wait_for_records(5)
        for _ in range(3):
            time.sleep(8)
            kill_server(runs)
            server.start(runs)
        time.sleep(8)
        run.stop()
        return run.outcome("three kill-and-restarts of the server")


def slow_for_a_minute() -> Outcome:
    with runs_directory() as runs:
        settings = server.start(runs)
        proxy = Proxy(settings.port)
        uri = settings.uri().replace(f":{settings.port}/", f":{proxy.port}/")
        run = Run(runs, MARL_MONGO_URI=uri.replace("replicaSet=rs0", "directConnection=true"))
        run.wait_for_records(5)
        proxy.delay_s = 2.0
        before = run.num_records()
        time.sleep(OUTAGE_S)
        gained = run.num_records() - before
        proxy.delay_s = 0.0
        time.sleep(12)
        run.stop()
        outcome = run.outcome(f"server slow for {OUTAGE_S:.0f} s (2 s an answer)")
        proxy.close()
        assert gained > 3, f"training stood still: {gained} records"
        return outcome


def never_back() -> Outcome:
    with runs_directory() as runs:
        server.start(runs)
        run = Run(runs)
        run.wait_for_records(5)
        time.sleep(7)
        kill_server(runs)
        time.sleep(3)
        began = time.monotonic()
        run.stop()
        assert time.monotonic() - began < 60, "the end of the run waited for the server"
        server.start(runs)
        synced = run.marl("sync")
        assert synced.returncode == 0, synced.stderr
        return run.outcome("server killed, not back before the run's end; marl sync")


def replicator_killed() -> Outcome:
    with runs_directory() as runs:
        run = Run(runs)
        run.wait_for_records(40)
        run.stop()
        server.start(runs)
        for patience_s in (0.9, 1.1, 1.3, 1.5, 1.7, 2.0, 2.5):
            sync = subprocess.Popen(
                [sys.executable, "-m", "experiments.cli", "sync", "--again"],
                env=run.environment,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(patience_s)
            sync.kill()
            sync.wait()
        assert run.marl("sync", "--again").returncode == 0
        return run.outcome("replicator killed half-way seven times, then repeated")


def run_killed() -> Outcome:
    with runs_directory() as runs:
        server.start(runs)
        run = Run(runs)
        run.wait_for_records(20)
        run.stop(signal.SIGKILL)
        assert run.marl("sync").returncode == 0
        return run.outcome("run killed by kill -9; marl sync")


def two_ranks() -> Outcome:
    with runs_directory() as runs:
        server.start(runs)
        run = Run(runs, "training.num_gpus=2", "training.device=cpu")
        run.wait_for_records(10)
        run.stop()
        assert read_view(run.directory).attempt == 1
        return run.outcome("two ranks, one record")


def rank_killed() -> Outcome:
    with runs_directory() as runs:
        server.start(runs)
        run = Run(runs, "training.num_gpus=2", "training.device=cpu")
        run.wait_for_records(10)
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text()
        os.kill(int(children.split()[1]), signal.SIGKILL)
        run.process.wait(90)
        assert run.marl("sync").returncode == 0
        return run.outcome("the second of two ranks killed; marl sync")


SCENARIOS: dict[str, Callable[[], Outcome]] = {
    function.__name__: function
    for function in (
        killed_for_a_minute,
        slow_for_a_minute,
        killed_three_times,
        absent_at_start,
        never_back,
        replicator_killed,
        run_killed,
        two_ranks,
        rank_killed,
    )
}


def run_all(num_at_once: int = 3) -> dict[str, Outcome | BaseException]:
    """Do all scenarios, some side by side."""

    def attempt(function: Callable[[], Outcome]) -> Outcome | BaseException:
        try:
            return function()
        except BaseException as error:
            return error

    with ThreadPoolExecutor(num_at_once) as pool:
        futures = {name: pool.submit(attempt, function) for name, function in SCENARIOS.items()}
        return {name: future.result() for name, future in futures.items()}


def main() -> None:
    print("| fault | status | points written | found | doubled |\n| --- | --- | --- | --- | --- |")
    for name, outcome in run_all().items():
        if isinstance(outcome, BaseException):
            print(f"| {name} | {outcome!r} | | | |")
        else:
            o = outcome
            print(f"| {o.fault} | {o.status} | {o.written:,} | {o.found:,} | {o.doubled} |")


if __name__ == "__main__":
    main()
