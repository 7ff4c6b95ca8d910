"""Workers of a sweep as a real Slurm array."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.tracking.view import RunView
from tests.slurm_cluster.cluster import Cluster
from tests.slurm_cluster.desk import ROOT, Desk

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]
SWEEP = """
experiment: acppo
with: [partition, total_timesteps=STEPS, logging.video=false, num_eval_episodes=1]
space:
  clip_epsilon: {low: 0.05, high: 0.4}
metric: rollout/return_mean
trials: 3
tuning_seeds: [0]
test_seeds: [9]
finalists: 1
lease_s: 4
"""
PRESET = "cpus_per_task: 1\ntime: 10\nsignal_delay_s: 20\n"
TWO_PROCESSES = "tasks_per_node: 2\n"


class Sweeper:
    """A user of the cluster who sweeps."""

    def __init__(self, desk: Desk, folder: Path, *, steps: int, preset: str = PRESET) -> None:
        self.desk, self.name = desk, f"s{secrets.token_hex(3)}"
        self.sweep, self.preset = folder / f"{self.name}.yaml", folder / "small.yaml"
        self.sweep.write_text(SWEEP.replace("STEPS", str(steps)))
        self.preset.write_text(preset)

    def launch(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "sweeps/launch.py", str(self.sweep), "--workers", "2"]
        return subprocess.Popen(
            [*command, "--slurm", str(self.preset), *words],
            cwd=ROOT,
            env={**self.desk.environment, **os.environ, **self.desk.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def report(self) -> dict[str, Any]:
        done = self.desk.call("sweeps/report.py", self.name, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def runs(self) -> dict[str, RunView]:
        return {p.name: self.desk.view(p.name) for p in self.desk.runs.glob(f"{self.name}-t*")}

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float = 200.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.3)

    def logs(self) -> str:
        paths = (self.desk.runs / "sweeps" / self.name / "logs").glob("*")
        return "\n".join(path.read_text(errors="replace") for path in paths)

    def check(self) -> None:
        """Each unit has one run, which is complete."""
        report = self.report()
        assert report["is_complete"], report
        found = self.runs()
        tests = {name for name in found if name.endswith("-s9")}
        assert found.keys() - tests == {f"{self.name}-t{n:04d}-s0" for n in range(3)}
        assert {one.status for one in found.values()} == {"COMPLETED"}, self.logs()


@pytest.fixture
def desk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(cluster, tmp_path_factory.mktemp("sweeps") / "runs")


@pytest.mark.postgres
def test_an_array_needs_no_launcher_and_survives_warnings_and_kills(
    desk: Desk, tmp_path: Path, postgres: Any
) -> None:
    desk.environment["MARL_OPTUNA_URL"] = postgres.url
    user = Sweeper(desk, tmp_path, steps=4_800)
    launcher = user.launch()
    said, _ = launcher.communicate(timeout=120)  # it does not wait for the workers
    assert launcher.returncode == 0, said
    job_id = said.split("Slurm job ")[1].split(":")[0]
    user.wait_for(lambda: len([1 for one in user.runs().values() if one.env_steps]) >= 2)
    again, _ = user.launch().communicate(timeout=120)
    assert "2 workers wait or run already" in again
    assert "Slurm job" not in again
    desk.cluster.run("scancel", "--batch", "--signal=USR2", f"{job_id}_0")  # a time limit is near
    os.kill(_worker(desk, user.name, f"{job_id}_1"), signal.SIGKILL)
    user.wait_for(lambda: len(user.runs()) > 3)  # the tests have begun
    user.wait_for(lambda: user.report()["is_complete"])
    user.check()
    desk.cluster.wait(f"{job_id}_0", "COMPLETED")
    job = desk.cluster.run("scontrol", "show", "job", f"{job_id}_0").stdout
    assert "Restarts=1" in job  # it was queued again
    assert postgres.password not in user.logs()


def test_a_launcher_serves_an_sqlite_file_and_may_be_killed(desk: Desk, tmp_path: Path) -> None:
    user = Sweeper(desk, tmp_path, steps=1600, preset=PRESET + TWO_PROCESSES)
    launcher = user.launch("--serve", "127.0.0.1")
    user.wait_for(lambda: any(one.env_steps for one in user.runs().values()))
    launcher.kill()
    before, _ = launcher.communicate()
    assert "Slurm job" in before
    launcher = user.launch("--serve", "127.0.0.1")
    said, _ = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, said + user.logs()
    assert "2 workers wait or run already" in said
    assert "winner: trial" in said
    user.check()
    one = next(iter(user.runs()))
    (start,) = [e for e in desk.events(one) if e["event"] == "start"][:1]
    assert start["provenance"]["environment"]["SLURM_NTASKS"] == "2"


def _worker(desk: Desk, study: str, job: str) -> int:
    """The process of an element's worker."""
    array, _, task = job.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            environment = set((path / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if words[1:3] == [b"-m", b"sweeps.worker"] and wanted <= environment:
            return int(path.name)
    raise AssertionError(f"no worker {job} of {study}")
