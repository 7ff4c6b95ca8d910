"""Runs sent to a real Slurm, and what disturbs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm_cluster import faults
from tests.slurm_cluster.cluster import Cluster
from tests.slurm_cluster.desk import ROOT, SMALL, TWO_NODES, Desk

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
SHORT = ("with", "partition", "total_timesteps=3200", "num_eval_episodes=10", "logging.video=false")
LONG = ("with", "partition", "total_timesteps=100000000", "logging.video=false")


@pytest.fixture(scope="session")
def desk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One runs directory for all tests: packages are frozen once."""
    return Desk(cluster, tmp_path_factory.mktemp("cluster") / "runs")


def test_a_run_shows_where_it_stands_from_its_submission_on(desk: Desk) -> None:
    began = time.monotonic()
    job_id = desk.submit(*SHORT, "--id", "held", "--sbatch", "hold")
    assert time.monotonic() - began < 60  # packages are frozen, the job is not waited for
    assert desk.view("held").status == "QUEUED"
    assert f"held  QUEUED  {job_id}" in desk.marl("jobs")
    assert "JobHeldUser" in desk.marl("jobs", "status", "held")
    assert "QUEUED" in desk.marl("runs")
    desk.cluster.run("scontrol", "release", job_id)
    one = desk.wait_for_end("held")
    desk.cluster.wait(job_id, "COMPLETED")
    assert (one.attempt, one.host) == (1, "n1")
    assert "COMPLETED" in desk.marl("jobs", "status", "held")
    assert "process 0 of 1 on n1" in desk.marl("jobs", "tail", "held")
    (start,) = [event for event in desk.events("held") if event["event"] == "start"]
    assert start["provenance"]["argv"] == ["acppo", *SHORT]
    assert start["provenance"]["git"]["commit"]
    assert start["provenance"]["environment"]["SLURM_JOB_ID"] == job_id


def test_a_dry_run_asks_slurm(desk: Desk) -> None:
    words = ("slurm/submit.py", "experiments/acppo.py", *SHORT, "--dry-run")
    done = desk.call(*words, "--nodes", "2")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodes=2" in done.stdout
    assert "to start at" in done.stdout.splitlines()[-1]
    refused = desk.call(*words, "--partition", "nowhere")
    assert refused.returncode == 2
    assert "invalid partition specified: nowhere" in refused.stderr


def test_what_slurm_refuses_leaves_nothing(desk: Desk) -> None:
    words = ("slurm/submit.py", "experiments/acppo.py", *SHORT, "--partition", "nowhere")
    done = desk.call(*words, "--id", "refused")
    assert done.returncode == 2
    assert done.stderr.startswith("error: sbatch refused: ")
    assert not (desk.runs / "refused").exists()
    done = desk.call(*words[:2], *SHORT, "--id", "refused", "--after", "nobody")
    assert done.returncode == 2
    assert "no run 'nobody'" in done.stderr
    assert not (desk.runs / "refused").exists()


def test_code_that_is_edited_after_the_submission_is_not_used(desk: Desk, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    shutil.copytree(ROOT / "slurm", clone / "slurm", dirs_exist_ok=True)
    own = Desk(desk.cluster, desk.runs, root=clone)
    job_id = own.submit(*SHORT, "--id", "edited", "--sbatch", "hold")
    for path in (clone / "experiments" / "_run.py", clone / "slurm" / "job.py"):
        path.write_text("raise RuntimeError('edited')\n")
    desk.cluster.run("scontrol", "release", job_id)
    assert own.wait_for_end("edited").attempt == 1


def test_an_array_of_four_seeds(desk: Desk) -> None:
    job_id = desk.submit(*SHORT, "--id", "array", "--seeds", "0-3", "--parallel", "2").split("_")[0]
    runs = [f"array-s{seed}" for seed in range(4)]
    for seed, run in enumerate(runs):
        one = desk.wait_for_end(run)
        assert (one.config["seed"], one.attempt) == (seed, 1)
        assert desk.job(run).job_ids == [f"{job_id}_{seed}"]
    values = {tuple(desk.series(run)["rollout/return_mean"].values) for run in runs}
    assert len(values) == 4


def test_two_vision_language_action_agents_on_two_nodes_with_two_processes_each(
    desk: Desk,
) -> None:
    words = (
        *("with", "policy.kind=openvla", "policy.pretrained_checkpoint=tiny", "env.kind=fake"),
        *("env.image_size=56", "env.num_actions_chunk=2", "env.max_episode_steps=8"),
        *("num_envs=1", "num_steps_per_rollout=4", "num_minibatches=1", "num_epochs=1"),
        *("total_timesteps=96", "num_eval_episodes=2", "logging.video=false"),
    )
    desk.submit(*words, "--id", "vla", *TWO_NODES, "--tasks-per-node", "2")
    one = desk.wait_for_end("vla", "COMPLETED")
    assert one.env_steps == 96
    said = desk.log("vla", ".log")
    for rank, node in enumerate(("n1", "n1", "n2", "n2")):
        assert f"process {rank} of 4 on {node}" in said


def test_a_run_waits_for_another_and_a_chain_goes_on_by_itself(desk: Desk) -> None:
    desk.submit(*SHORT, "--id", "first", "--chain", "2")
    desk.submit(*SHORT, "--id", "after", "--after", "first")
    assert len(desk.job("first").job_ids) == 2
    desk.wait_for_end("after")
    assert desk.view("first").status == "COMPLETED"
    assert desk.view("first").attempt == 1
    desk.cluster.wait(desk.job("first").job_ids[1], "COMPLETED")
    assert "nothing to do" in desk.log("first", "batch.log")


def test_an_error_in_another_process_is_the_one_that_is_recorded(desk: Desk) -> None:
    words = ("with", "env.kind=pettingzoo", "env.factory=tests.faulty_env:on_one_rank")
    job_id = desk.submit(*words, "num_workers=0", "--id", "failing", *TWO_NODES)
    desk.cluster.wait(job_id, "FAILED")
    one = desk.view("failing")
    assert (one.status, one.error) == ("FAILED", "RuntimeError: only here")
    assert "process 1 of 2 on n2 failed" in desk.marl("show", "failing")
    assert "RuntimeError: only here" in desk.marl("jobs", "tail", "failing", "--rank", "1")


def test_a_run_that_is_cancelled_in_the_queue_does_not_start(desk: Desk) -> None:
    job_id = desk.submit(*SHORT, "--id", "unwanted", "--sbatch", "hold")
    assert f"job {job_id} is removed" in desk.marl("jobs", "cancel", "unwanted")
    desk.cluster.wait(job_id, "CANCELLED")
    assert desk.view("unwanted").status == "INTERRUPTED"
    desk.marl("jobs", "resume", "unwanted")  # with the same options: held
    desk.cluster.run("scontrol", "release", desk.job("unwanted").job_ids[-1])
    assert desk.wait_for_end("unwanted").attempt == 1


def test_a_run_that_was_started_too_often_is_not_queued_again(desk: Desk) -> None:
    job_id = desk.submit(*LONG, "--id", "often", "--max-attempts", "1")
    desk.wait_for_steps("often")
    desk.cluster.run("scancel", "--signal=TERM", job_id)
    desk.cluster.wait(job_id, "FAILED")
    assert desk.view("often").status == "PREEMPTED"
    assert "max_attempts is 1; go on with it by: marl jobs resume often" in desk.log(
        "often", "batch.log"
    )
    refused = desk.call("-m", "experiments.cli", "jobs", "resume", "often", "seed=9")
    assert (refused.returncode, "it changes what was computed" in refused.stderr) == (2, True)
    desk.marl("jobs", "resume", "often", "total_timesteps=" + str(desk.view("often").env_steps * 2))
    one = desk.wait_for_end("often")
    assert one.attempt == 2


EXPECTED = {
    "preempted": ["PREEMPTED", "COMPLETED"],
    "timed_out": ["TIMEOUT", "COMPLETED"],
    "node_lost": ["FAILED", "COMPLETED"],
    "first_node_lost": ["DEAD", "COMPLETED"],
    "requeued": ["PREEMPTED", "COMPLETED"],
    "cancelled_and_resumed": ["INTERRUPTED", "COMPLETED"],
}
"""The others are done by `python -m tests.slurm_cluster.faults` alone: they take minutes."""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_disturbed_run_ends_as_the_undisturbed_one(desk: Desk, name: str) -> None:
    """Bit for bit, and Slurm's state is that of the run: no stale error stays behind."""
    outcome = faults.SCENARIOS[name](desk)
    assert list(dict.fromkeys(outcome.ends)) == EXPECTED[name]  # the time may end twice
    assert outcome.is_identical
    run = name.replace("_and_resumed", "").replace("_", "-")
    desk.cluster.wait(desk.job(run).job_ids[-1], "COMPLETED")
    assert desk.view(run).error is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "death"),
    [
        ("process_killed", "process 1 on n2: Killed"),
        ("first_process_killed", "process 0 on n1: Killed"),
    ],
)
def test_a_killed_process_is_a_failure_that_is_told(desk: Desk, name: str, death: str) -> None:
    outcome = faults.SCENARIOS[name](desk)
    run = name.replace("_", "-")
    assert (outcome.ends, outcome.is_identical) == (["FAILED"], None)
    assert desk.deaths(run) == [death]
    assert desk.view(run).error
    assert "it is not queued again" in desk.log(run, "batch.log")


@pytest.mark.slow
def test_a_node_that_fails_twice_is_avoided(desk: Desk) -> None:
    desk.cluster.run("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    job_id = desk.submit(*LONG, "--id", "bad-node")
    for attempt in (1, 2):
        desk.wait_for(
            "bad-node", lambda one, a=attempt: one.attempt == a and one.status == "RUNNING"
        )
        desk.cluster.kill_node("n1")
        desk.cluster.wait(job_id, "PENDING", "NODE_FAIL")
        desk.cluster.start_node("n1")
    said = "n1 failed 2 times under this job"
    desk.wait_for("bad-node", lambda _: said in desk.log("bad-node", "batch.log"))
    desk.cluster.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    job = desk.wait_for("bad-node", lambda one: one.attempt == 3)
    assert job.host == "n2"
    desk.cluster.run("scancel", job_id)
    assert SMALL and sys.executable
