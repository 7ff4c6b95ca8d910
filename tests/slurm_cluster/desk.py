"""Submits runs to the cluster of the tests, as a user does, and looks at what becomes of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.tracking.read import read_series, read_view
from experiments.tracking.spool import read_events
from experiments.tracking.view import RunView, Series
from marlcore.durable import read_lines
from slurm import record
from tests.slurm_cluster.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--cpus-per-task", "1", "--time", "10", "--signal-delay-s", "20")
"""Resources of most jobs here."""
TWO_NODES = ("--nodes", "2")


class Desk:
    """A user of the cluster."""

    def __init__(self, cluster: Cluster, runs: Path, root: Path = ROOT) -> None:
        self.cluster, self.runs, self.root = cluster, runs, root
        self.environment = {**cluster.environment, "MARL_RUNS_DIR": str(runs)}

    def call(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def submit(self, *words: str, script: str = "acppo", resources: tuple[str, ...] = SMALL) -> str:
        """Submit; returns the id of the run's newest job."""
        done = self.call("slurm/submit.py", f"experiments/{script}.py", *words, *resources)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split("Slurm job ")[1].split()[0].rstrip(",")

    def marl(self, *words: str) -> str:
        done = self.call("-m", "experiments.cli", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def view(self, run: str) -> RunView:
        return read_view(self.runs / run)

    def job(self, run: str) -> record.Job:
        return record.read(self.runs / run)

    def wait_for(
        self, run: str, is_so: Callable[[RunView], bool], *, timeout_s: float = 200.0
    ) -> RunView:
        """Wait until a run is as it should be."""
        deadline = time.monotonic() + timeout_s
        while not is_so(one := self.view(run)):
            assert time.monotonic() < deadline, f"{one.status} {one.error}\n{self.logs(run)}"
            time.sleep(0.2)
        return one

    def wait_for_steps(self, run: str, attempt: int = 1) -> RunView:
        """Wait until an attempt of it has recorded something."""

        def is_so(one: RunView) -> bool:
            return one.attempt >= attempt and self.records(run) > before

        before = self.records(run) if attempt > 1 else 0
        return self.wait_for(run, is_so)

    def wait_for_end(self, run: str, status: str = "COMPLETED") -> RunView:
        return self.wait_for(run, lambda one: one.status == status)

    def records(self, run: str) -> int:
        path = self.runs / run / "metrics.jsonl"
        return len(read_lines(path)[0]) if path.exists() else 0

    def series(self, run: str) -> dict[str, Series]:
        return read_series(self.runs / run)

    def statuses(self, run: str) -> list[str]:
        """How each attempt ended."""
        events = read_events(self.runs / run)
        return [str(event["status"]) for event in events if event["event"] == "end"]

    def deaths(self, run: str) -> list[str]:
        events = read_events(self.runs / run)
        return [str(event["what"]) for event in events if event["event"] == "death"]

    def events(self, run: str) -> list[dict[str, Any]]:
        return read_events(self.runs / run)

    def log(self, run: str, name: str) -> str:
        """Logs of a run whose names end so, one after the other."""
        paths = sorted((self.runs / run / "logs").glob(f"*{name}"))
        return "".join(path.read_text(errors="replace") for path in paths)

    def logs(self, run: str) -> str:
        paths = sorted((self.runs / run / "logs").glob("*"))
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')}" for path in paths)

    def process(self, run: str, rank: int) -> int:
        """The process id of one rank."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                environment = (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            is_of_run = words[1:4] == [b"-m", b"slurm.job", str(self.runs / run).encode()]
            if is_of_run and f"SLURM_PROCID={rank}".encode() in environment:
                return int(path.name)
        raise AssertionError(f"no process {rank} of {run}\n{self.logs(run)}")


def hold_nodes(desk: Desk, partition: str, seconds: int) -> str:
    """A job that takes both nodes for itself."""
    words = ("--parsable", "-p", partition, "-N2", "--ntasks-per-node=1", "-c4", "-o", os.devnull)
    return desk.cluster.run("sbatch", *words, "--wrap", f"sleep {seconds}").stdout.strip()
