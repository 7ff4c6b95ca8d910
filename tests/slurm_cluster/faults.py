"""What may happen to a job of two processes on two nodes, done to real ones.

    python -m tests.slurm_cluster.faults               prints the table of docs/CLUSTER.md
    python -m tests.slurm_cluster.faults node_lost     one row

Every scenario disturbs a run that is otherwise the same as `UNDISTURBED`, and says what the job
saw, how its attempts ended and whether its metrics are those of the run that was left alone.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.tracking.reproduction import differences
from tests.slurm_cluster.cluster import running_cluster, why_not
from tests.slurm_cluster.desk import SMALL, TWO_NODES, Desk, hold_nodes

UNDISTURBED = "undisturbed"
WORDS = (
    *("with", "partition", "total_timesteps=64000", "num_envs=8", "num_eval_episodes=100"),
    *("checkpoint_every=3200", "evaluate_every=16000", "logging.video=false"),
)


SLOW_WORDS = (
    *("with", "env.kind=pettingzoo", "env.factory=tests.faulty_env:slow", "num_workers=0"),
    *("num_envs=1", "num_steps_per_rollout=50", "num_minibatches=1", "total_timesteps=3400"),
    *("num_eval_episodes=2", "checkpoint_every=500", "logging.video=false"),
)
"""With SLOW_S=0.02 it takes more than half a minute on any machine."""


@dataclass(frozen=True)
class Outcome:
    """What a scenario led to."""

    fault: str
    saw: str
    """What the processes noticed."""
    ends: list[str]
    """How each attempt ended; DEAD if it could not say so."""
    is_identical: bool | None
    """Whether the metrics are those of the run that was left alone; None: it did not go on."""


def submit(desk: Desk, run: str, *options: str) -> str:
    return desk.submit(*WORDS, "--id", run, *TWO_NODES, *options, resources=SMALL)


def undisturbed(desk: Desk, words: tuple[str, ...]) -> str:
    """The run that those with these words are compared with."""
    run = UNDISTURBED + ("-slow" if words == SLOW_WORDS else "")
    if not (desk.runs / run).exists():
        desk.submit(*words, "--id", run, *TWO_NODES)
        desk.wait_for_end(run)
    return run


def _outcome(desk: Desk, run: str, fault: str, saw: str, words: tuple[str, ...] = WORDS) -> Outcome:
    ends = desk.statuses(run)
    attempt = desk.view(run).attempt
    ends = ["DEAD"] * (attempt - len(ends)) + ends
    if desk.view(run).status != "COMPLETED":
        return Outcome(fault, saw, ends, None)
    found = differences(desk.series(undisturbed(desk, words)), desk.series(run))
    return Outcome(fault, saw, ends, not found)


def preempted(desk: Desk) -> Outcome:
    submit(desk, "preempted", "--partition", "low")
    desk.wait_for_steps("preempted")
    hold_nodes(desk, "high", 2)
    desk.wait_for_end("preempted")
    return _outcome(desk, "preempted", "a job of a higher partition takes the nodes", "SIGUSR2")


def timed_out(desk: Desk) -> Outcome:
    desk.runs.mkdir(parents=True, exist_ok=True)
    preset = desk.runs / "minute.yaml"
    text = "time: 1\ncpus_per_task: 1\nsignal_delay_s: 20\nenvironment: {SLOW_S: 0.02}\n"
    preset.write_text(text)
    desk.submit(*SLOW_WORDS, "--id", "timed-out", "--preset", str(preset), resources=TWO_NODES)
    desk.wait_for_end("timed-out")
    saw = "SIGUSR2, or its clock"
    return _outcome(desk, "timed-out", "the time limit comes (1 minute)", saw, SLOW_WORDS)


def node_lost(desk: Desk) -> Outcome:
    submit(desk, "node-lost")
    desk.wait_for_steps("node-lost")
    time.sleep(3)
    desk.cluster.kill_node("n2")
    time.sleep(17)  # SlurmdTimeout
    desk.cluster.start_node("n2")
    desk.wait_for_end("node-lost")
    saw = "a broken connection" if desk.statuses("node-lost")[:-1] else "nothing"
    return _outcome(desk, "node-lost", "the second node is lost, and comes back", saw)


def first_node_lost(desk: Desk) -> Outcome:
    submit(desk, "first-node-lost")
    desk.wait_for_steps("first-node-lost")
    time.sleep(3)
    desk.cluster.kill_node("n1")
    time.sleep(17)
    desk.cluster.start_node("n1")
    desk.wait_for_end("first-node-lost")
    return _outcome(desk, "first-node-lost", "the first node is lost, and comes back", "nothing")


def told_to_stop(desk: Desk) -> Outcome:
    """To the second process alone."""
    submit(desk, "told-to-stop")
    desk.wait_for_steps("told-to-stop")
    os.kill(desk.process("told-to-stop", 1), signal.SIGTERM)
    desk.wait_for_end("told-to-stop")
    return _outcome(desk, "told-to-stop", "the second process alone gets SIGTERM", "SIGTERM")


def requeued(desk: Desk) -> Outcome:
    submit(desk, "requeued")
    desk.wait_for_steps("requeued")
    desk.marl("jobs", "requeue", "requeued")
    desk.wait_for_end("requeued")
    return _outcome(desk, "requeued", "`marl jobs requeue RUN`", "SIGTERM")


def cancelled_and_resumed(desk: Desk) -> Outcome:
    job_id = submit(desk, "cancelled")
    desk.wait_for_steps("cancelled")
    desk.marl("jobs", "cancel", "cancelled")
    desk.cluster.wait(job_id, "FAILED", "COMPLETED", "CANCELLED")
    desk.marl("jobs", "resume", "cancelled")
    desk.wait_for_end("cancelled")
    what = "`marl jobs cancel RUN`, then `marl jobs resume RUN`"
    return _outcome(desk, "cancelled", what, "SIGINT")


def controller_killed(desk: Desk) -> Outcome:
    submit(desk, "controller-killed")
    desk.wait_for_steps("controller-killed")
    desk.cluster.stop_controller()
    time.sleep(5)
    desk.cluster.start_controller()
    desk.wait_for_end("controller-killed")
    return _outcome(desk, "controller-killed", "slurmctld is killed and started again", "nothing")


def process_killed(desk: Desk) -> Outcome:
    job_id = submit(desk, "process-killed")
    desk.wait_for_steps("process-killed")
    os.kill(desk.process("process-killed", 1), signal.SIGKILL)
    desk.cluster.wait(job_id, "FAILED")
    saw = "a broken connection"
    return _outcome(desk, "process-killed", "the second process is killed (out of memory)", saw)


def first_process_killed(desk: Desk) -> Outcome:
    job_id = submit(desk, "first-process-killed")
    desk.wait_for_steps("first-process-killed")
    os.kill(desk.process("first-process-killed", 0), signal.SIGKILL)
    desk.cluster.wait(job_id, "FAILED")
    return _outcome(desk, "first-process-killed", "the first process is killed", "nothing")


SCENARIOS: dict[str, Callable[[Desk], Outcome]] = {
    function.__name__: function
    for function in (
        preempted,
        timed_out,
        node_lost,
        first_node_lost,
        told_to_stop,
        requeued,
        cancelled_and_resumed,
        controller_killed,
        process_killed,
        first_process_killed,
    )
}


def main() -> None:
    """Do all of it."""
    if reason := why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="marl-") as place, running_cluster() as cluster:
        desk = Desk(cluster, Path(place) / "runs")
        print("| fault | what the job saw | attempts | same metrics |\n| --- | --- | --- | --- |")
        for scenario in [SCENARIOS[name] for name in sys.argv[1:]] or SCENARIOS.values():
            o = scenario(desk)
            same = {True: "yes", False: "**no**", None: "did not go on"}[o.is_identical]
            print(f"| {o.fault} | {o.saw} | {', '.join(o.ends)} | {same} |", flush=True)


if __name__ == "__main__":
    main()
