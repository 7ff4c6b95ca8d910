"""The cluster of the tests does what a cluster does; else what follows would prove nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm_cluster.cluster import Cluster

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]


def batch(cluster: Cluster, command: str, *options: str) -> str:
    words = ("sbatch", "--parsable", "-o", os.devnull, *options, "--wrap", command)
    return cluster.run(*words).stdout.strip()


def test_two_tasks_on_each_of_two_nodes_see_their_own_machine(cluster: Cluster) -> None:
    command = "echo $(hostname) $(getent hosts n1 n2 | cut -c1-9)"
    done = cluster.run("srun", "-N2", "--ntasks-per-node=2", "bash", "-c", command)
    both = "127.0.1.1 127.0.1.2"
    assert sorted(done.stdout.splitlines()) == [f"{n} {both}" for n in ("n1", "n1", "n2", "n2")]


def test_accounting_remembers_a_job_that_failed(cluster: Cluster) -> None:
    job_id = batch(cluster, "exit 3")
    cluster.wait(job_id, "FAILED")
    words = ("sacct", "-n", "-X", "-P", "-o", "State,ExitCode", "-j", job_id)
    deadline = time.monotonic() + 20
    while cluster.run(*words).stdout.strip() != "FAILED|3:0":
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.slurm_cluster"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    root = Path(line.split("=")[1].strip()).parent
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while left := [p for p in Path("/proc").glob("[0-9]*") if str(root) in _words_of(p)]:
        assert time.monotonic() < deadline, [_words_of(p) for p in left]
        time.sleep(0.2)
    subprocess.run(["rm", "-rf", str(root)], check=True)


def _words_of(process: Path) -> str:
    try:
        environment = (process / "environ").read_bytes()
        return (process / "cmdline").read_text() + environment.decode(errors="replace")
    except OSError:
        return ""
