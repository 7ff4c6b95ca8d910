"""What becomes of submitted runs: where they stand, and how to stop or go on with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import _rundir
from experiments._experiment import check_resumed_words
from experiments.tracking import view
from experiments.tracking.read import read_view
from marlcore.config_errors import ConfigError
from slurm import cluster, record, resources, send
from slurm.cluster import JobState

FORGOTTEN = JobState("", "UNKNOWN", "Slurm has forgotten it")


@dataclass(frozen=True)
class Standing:
    """A run, and what Slurm says of its newest job."""

    job: record.Job
    run: view.RunView
    slurm: JobState | None
    """None: it was run without Slurm."""

    @property
    def is_active(self) -> bool:
        """Whether a job of it waits or runs."""
        return self.slurm is not None and self.slurm.is_active

    @property
    def seconds_left(self) -> float | None:
        """Until the run has all its env steps, at the speed of its last update."""
        speed = self.run.metrics.get("time/env_steps_per_s")
        total = self.run.config.get("training.total_timesteps")
        if self.run.status != view.RUNNING or not speed or total is None:
            return None
        left = (total - (self.run.env_steps or 0)) / speed
        return left if math.isfinite(left) else None


def standings(jobs: Sequence[record.Job]) -> list[Standing]:
    """Where these runs stand; Slurm is asked once for all of them."""
    known: Mapping[str, JobState] = {}
    if any(job.submissions for job in jobs):
        known = cluster.states([job_id for job in jobs for job_id in job.job_ids])
    return [Standing(job, read_view(job.run_dir), _newest(job, known)) for job in jobs]


def _newest(job: record.Job, known: Mapping[str, JobState]) -> JobState | None:
    """The job that runs or waits; else the last one."""
    if not job.submissions:
        return None
    found = [known[job_id] for job_id in job.job_ids if job_id in known]
    active = [one for one in found if one.is_active]
    running = [one for one in active if one.state != "PENDING"]
    return (running or active or found[-1:] or [FORGOTTEN])[0]


def cancel(job: record.Job) -> str:
    """Have the run not go on: what waits is removed, what runs saves and ends."""
    found = cluster.states(job.job_ids)
    record.set_cancelled(job.run_dir, True)
    active = [one for one in found.values() if one.is_active]
    for one in active:
        if one.state == "PENDING":
            cluster.call("scancel", one.id)
        else:
            cluster.call("scancel", "--signal=INT", one.id)
    if not active:
        return "no job of it runs or waits"
    return "; ".join(
        f"job {one.id} is removed" if one.state == "PENDING" else f"job {one.id} saves and ends"
        for one in active
    )


def requeue(job: record.Job) -> str:
    """Have a running job save, end and wait again; an ended one only wait again.

    Raises:
        ConfigError: Slurm has forgotten it, or it waits anyway.
    """
    standing = standings([job])[0]
    one = standing.slurm
    if one is None or one is FORGOTTEN:
        raise ConfigError(f"Slurm knows no job of run {job.id}; marl jobs resume {job.id}")
    if one.state == "PENDING":
        raise ConfigError(f"job {one.id} waits already ({one.reason})")
    record.set_cancelled(job.run_dir, False)
    if one.is_active:
        cluster.call("scancel", "--signal=TERM", one.id)  # PREEMPTED, which is queued again
        return f"job {one.id} saves, ends and is queued again"
    cluster.call("scontrol", "requeue", one.id)
    return f"job {one.id} is queued again"


def resume(
    job: record.Job, words: Sequence[str], *, preset: str | None, changes: Mapping[str, object]
) -> None:
    """Submit the run again: the same run, frozen code and packages, its next attempt.

    Raises:
        ConfigError: a job of it waits or runs, or there is nothing left to do.
    """
    standing = standings([job])[0]
    if standing.is_active:
        one = standing.slurm
        assert one is not None
        raise ConfigError(f"job {one.id} of run {job.id} is {one.state}; nothing was submitted")
    if standing.run.status == view.COMPLETED and not words:
        raise ConfigError(
            f"run {job.id} is complete; give it more to do: marl jobs resume {job.id} "
            "total_timesteps=N"
        )
    check_resumed_words(job.script, job.run_dir, words)
    kept = job.resources.model_dump(mode="json", exclude_defaults=True)
    wanted = resources.load(preset, dict(changes) if preset else {**kept, **changes})
    code, python = job.code, job.python
    for what in (code, python):
        if not what.exists():
            raise ConfigError(
                f"{what}, from which run {job.id} was submitted, is gone; go on with today's code "
                f"by marl resume {job.id}"
            )
    again = record.create(job.run_dir, job.argv, code=code, python=python, resources=wanted)
    record.set_words(job.run_dir, words)
    record.set_cancelled(job.run_dir, False)
    send.submit([again])


def log_of(job: record.Job, rank: int) -> Path:
    """The newest output of a process of the run.

    Raises:
        ConfigError: it has none.
    """
    found = sorted(job.logs.glob(f"*.rank{rank}.log"), key=lambda path: path.stat().st_mtime)
    if found:
        return found[-1]
    ranks = sorted({int(path.stem.rpartition("rank")[2]) for path in job.logs.glob("*.rank*.log")})
    if not ranks:
        raise ConfigError(
            f"run {job.id} has no output of processes yet; what the batch script said is in "
            f"{job.logs}"
        )
    raise ConfigError(f"run {job.id} has no process {rank}; it has {ranks[0]} to {ranks[-1]}")


def each(texts: Sequence[str], do: Callable[[record.Job], str]) -> None:
    """Do something to several runs and say what came of it; all are found before."""
    jobs = [record.find(text) for text in texts]
    for job in jobs:
        print(f"run {job.id}: {do(job)}")


def chosen(texts: Sequence[str]) -> list[record.Job]:
    """These runs, or all that were submitted."""
    return [record.read(_rundir.find_run(text)) for text in texts] if texts else record.all_jobs()
