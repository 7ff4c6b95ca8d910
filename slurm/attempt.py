"""What the batch script does before and after the processes of an attempt.

    python -m slurm.attempt begin RUN_DIRECTORY         is there something to do, on these nodes?
    python -m slurm.attempt end RUN_DIRECTORY CODE      record a death, or queue the run again

Slurm itself queues a job again whose node was lost or that it preempted; all that happens here can
happen twice without harm.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from experiments.tracking import view
from experiments.tracking.read import read_view
from experiments.tracking.spool import note_death
from marlcore.config_errors import ConfigError
from slurm import cluster, record
from slurm.script import NOTHING_TO_DO

_FAILURES_OF_A_NODE = 2
"""So often may a node be lost under a job before the job avoids it."""
_LOST = re.compile(r"missing step on node|node failure", re.IGNORECASE)
"""What srun says when a node does not answer any more."""
_AGAIN = (view.PREEMPTED, view.TIMEOUT)
"""Statuses after which a run goes on by itself."""
_TOLD_TO_STOP = (128 + signal.SIGUSR2, 128 + signal.SIGTERM)
"""Exit codes of processes that a signal ended before they listened to it, or at their end."""
_TOLD = (
    "Terminated",
    "User defined signal 2",
    *(f"Exited with exit code {code}" for code in _TOLD_TO_STOP),
)
"""What srun says of those."""
_BEGINS = "marl: an attempt begins\n"
"""A line of ours in srun's log."""


def begin(run_dir: Path) -> int:
    """Whether the attempt is to start: 0, or NOTHING_TO_DO."""
    if _job_id() not in record.read(run_dir).job_ids:  # it was faster than who submitted it
        record.add_submission(run_dir, _job_id())
    job, one = record.read(run_dir), read_view(run_dir)
    is_complete = one.status == view.COMPLETED and one.attempt > job.attempts_before
    if is_complete or job.is_cancelled:
        what = "was cancelled" if job.is_cancelled else "is complete"
        print(f"run {job.id} {what}: nothing to do")
        return NOTHING_TO_DO
    counts, hosts = record.add_lost(run_dir, _lost_nodes(job)), _hosts()
    record.begin_attempt(run_dir, hosts)
    bad = {node for node in hosts if counts.get(node, 0) >= _FAILURES_OF_A_NODE}
    if bad:
        print(f"{', '.join(sorted(bad))} failed {_FAILURES_OF_A_NODE} times under this job")
        record.end_attempt(run_dir)
        _avoid(_job_id(), bad)
        return NOTHING_TO_DO
    with _srun_log(job).open("a", encoding="utf-8") as log:
        log.write(_BEGINS)
    return 0


def end(run_dir: Path, code: int) -> int:
    """Do what the end of an attempt asks for; returns the exit code of the job."""
    job, one = record.read(run_dir), read_view(run_dir)
    said = _said(job)
    has_ended = one.status in (view.FAILED, view.INTERRUPTED, view.COMPLETED)
    # One that dies by itself ends the others by a signal, whose code may be what srun ends with.
    was_told = code in _TOLD_TO_STOP and not deaths(said)
    if one.status in _AGAIN or (was_told and not has_ended):
        return _again(job, one, code)
    if code and one.status != view.COMPLETED:
        note_death(run_dir, _first_death(said, code))
        if _LOST.search(said):
            _wait_for_slurm()
            return _again(job, one, code)
        record.end_attempt(run_dir)
        print(f"run {job.id} has failed (exit code {code}); it is not queued again")
    return code


def _wait_for_slurm() -> None:
    """Give Slurm the time to notice that a node is lost: it queues the job again by itself.

    It ends this process then, before the attempt is marked as ended: the node counts as lost.
    """
    seconds = int((cluster.configuration().get("SlurmdTimeout", "").split() or ["300"])[0])
    print(f"a node does not answer; Slurm notices within {seconds} s and queues the job again")
    sys.stdout.flush()
    time.sleep(seconds + 60)


def _again(job: record.Job, one: view.RunView, code: int) -> int:
    record.end_attempt(job.run_dir)
    attempts = one.attempt - job.attempts_before
    way_out = f"go on with it by: marl jobs resume {job.id}"
    if record.read(job.run_dir).is_cancelled:
        print(f"run {job.id} was cancelled: it is not queued again")
    elif attempts >= job.resources.max_attempts:
        print(
            f"run {job.id} is {one.status} after {attempts} attempts, and max_attempts is "
            f"{job.resources.max_attempts}; {way_out}"
        )
    else:
        print(f"run {job.id} is {one.status} after attempt {attempts}: queued again", flush=True)
        try:
            cluster.call("scontrol", "requeue", _job_id())
        except ConfigError as error:
            print(f"{error}; {way_out}")
    return code


def _srun_log(job: record.Job) -> Path:
    return job.logs / f"{os.environ['SLURM_JOB_ID']}.srun.log"


def _said(job: record.Job) -> str:
    """What srun said in this attempt; a job that is queued again goes on in the same file."""
    try:
        said = _srun_log(job).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return said.rpartition(_BEGINS)[2]


def deaths(said: str) -> list[str]:
    """Processes that died by themselves: `srun: error: n2: task 3: Killed` and the like."""
    found = re.findall(r"error: (\S+): tasks? (\S+): (.+)", said)
    return [f"process {ranks} on {host}: {how}" for host, ranks, how in found if how not in _TOLD]


def _first_death(said: str, code: int) -> str:
    lost = next((line for line in said.splitlines() if _LOST.search(line)), None)
    if lost is not None:
        return lost.partition("error: ")[2] or lost
    return next(iter(deaths(said)), f"srun ended with exit code {code}")


def _lost_nodes(job: record.Job) -> list[str]:
    """Nodes of the attempt before that did not survive it: down, or started again since then.

    An attempt that came to its end on its nodes has lost none.
    """
    if not job.attempts or job.attempts[-1]["has_ended"]:
        return []
    before, lost = job.attempts[-1], []
    for node in before["nodes"]:
        try:
            facts = cluster.facts("node", node)[0]
            started = datetime.fromisoformat(facts.get("SlurmdStartTime", "")).timestamp()
        except (ConfigError, IndexError, ValueError):  # it never answered since Slurm was started
            started = math.inf
        if started > before["time"] or re.search(r"DOWN|\*", facts.get("State", "DOWN")):
            lost.append(node)
    return lost


def _hosts() -> list[str]:
    return cluster.call(
        "scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")
    ).split()


def _avoid(job_id: str, nodes: set[str]) -> None:
    """Queue the job again, on other nodes.

    A job that is queued again may not start before cred_expire (two minutes unless it is set) has
    gone by, so there is time to change its request. It is not held meanwhile: should the change not
    come about, the job starts where it likes and comes here again, and is not left on hold.
    """
    excluded = ",".join(sorted(nodes))
    change = f"scontrol update JobId={job_id} ExcNodeList={excluded}"
    steps = (
        f"scontrol requeue {job_id}; for try in 1 2 3 4 5; do {change} && break; sleep 0.5; done"
    )
    subprocess.run(["bash", "-c", f"trap '' TERM; {steps}"], check=False)


def _job_id() -> str:
    """As Slurm's commands take it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def main(argv: Sequence[str]) -> int:
    """Do what the batch script asks."""
    if argv[0] == "begin":
        return begin(Path(argv[1]))
    return end(Path(argv[1]), int(argv[2]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
