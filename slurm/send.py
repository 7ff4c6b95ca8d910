"""Runs handed to Slurm, or started here the same way."""

from __future__ import annotations

import os
from collections.abc import Sequence

from experiments import _launch
from experiments.tracking.read import read_view
from slurm import cluster, record
from slurm.script import batch_script

SCRIPT = "submission.sh"


def submit(
    jobs: Sequence[record.Job],
    *,
    parallel: int | None = None,
    dependency: str | None = None,
    chain: int = 1,
) -> None:
    """Hand runs to Slurm, several as an array, and say so; the script is kept with the first."""
    script = jobs[0].run_dir / SCRIPT
    script.write_text(script_of(jobs, parallel), encoding="utf-8")
    before = [read_view(job.run_dir).attempt for job in jobs]  # the job may start at once
    for _ in range(chain):
        options = [f"--dependency={dependency}"] if dependency else []
        job_id = cluster.submit(script, *options)
        for index, job in enumerate(jobs):
            own = f"{job_id}_{index}" if len(jobs) > 1 else job_id
            facts = {"dependency": dependency, "attempts_before": before[index]}
            record.add_submission(job.run_dir, own, **facts)
            print(f"run {job.id}: Slurm job {own}" + (f", {dependency}" if dependency else ""))
        dependency = f"afterany:{job_id}"
    some = jobs[0].id if len(jobs) == 1 else ""
    print(f"marl jobs {'status ' + some if some else ''}".rstrip() + " shows what becomes of it")


def run_here(job: record.Job, num_processes: int) -> int:
    """Start the processes of a job on this machine and wait; returns the exit code."""
    environment = {
        **{name: str(value) for name, value in job.resources.environment.items()},
        "MARL_RUNS_DIR": str(job.run_dir.parent),
        "PYTHONPATH": str(job.code),
        "PYTHONSAFEPATH": "1",
    }
    os.environ.update(environment)
    command = [str(job.python), "-m", "slurm.job", str(job.run_dir)]
    return _launch.launch(num_processes, command, job.run_dir)


def script_of(jobs: Sequence[record.Job], parallel: int | None) -> str:
    """The batch script of these runs."""
    first = jobs[0]
    return batch_script(
        [job.run_dir for job in jobs],
        code=first.code,
        python=first.python,
        resources=first.resources,
        parallel=parallel,
    )
