"""Workers of a study as a Slurm array: submitted, and left alone.

Each element is one worker, with the resources of a preset; it ends when nothing is left to do. One
that is preempted, or warned of its time limit, saves, gives back what it works on and is queued
again.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from experiments import _rundir
from experiments.tracking import spool
from marlcore.config_errors import ConfigError
from slurm import cluster, freeze, resources
from slurm.record import LOGS
from slurm.script import workers_script

SCRIPT = "submission.sh"


def submit(folder: Path, preset: str, num_workers: int, *, kind: str) -> str:
    """Hand an array of workers to Slurm; returns the job's id.

    Args:
        kind: worker.ARRAY or worker.SERVED.
        folder: of the study, absolute.
        preset: of slurm/presets, or a file.
        num_workers: elements of the array.

    Raises:
        ConfigError: Slurm, or the preset, refuses.
    """
    if not cluster.is_here():
        cluster.call("sbatch", "--version")  # refuses
    runs = _rundir.runs_dir().resolve()
    code, python = freeze.freeze_code(runs), freeze.freeze_environment(runs)
    (folder / LOGS).mkdir(exist_ok=True)
    script = folder / SCRIPT
    text = script_of(folder, preset, num_workers, kind=kind, code=code, python=python)
    script.write_text(text, encoding="utf-8")
    job_id = cluster.submit(script)

    def add(job: dict[str, Any]) -> None:
        job.update(code=str(code), python=str(python))
        job["submissions"] = [*job.get("submissions", []), {"job_id": job_id, "time": time.time()}]

    spool.update_json(folder / spool.JOB, add)
    return job_id


def script_of(
    folder: Path,
    preset: str,
    num_workers: int,
    *,
    kind: str,
    code: Path | None = None,
    python: Path | None = None,
) -> str:
    """The batch script; without frozen code and packages, names that stand for them."""
    runs = _rundir.runs_dir().resolve()
    frozen = runs / spool.FROZEN
    return workers_script(
        folder,
        "sweeps.worker",
        kind,
        runs=runs,
        code=code or frozen / "code-<hash>",
        python=python or frozen / "environment-<hash>" / "bin" / "python",
        resources=resources.load(preset, {}),
        num=num_workers,
    )


def count_workers(folder: Path) -> int:
    """Workers of this study that wait or run.

    Raises:
        ConfigError: Slurm does not answer.
    """
    job: dict[str, Any] = spool.read_json(folder / spool.JOB, {})
    ids = [str(one["job_id"]) for one in job.get("submissions", [])]
    if not ids:
        return 0
    words = ("squeue", "--noheader", "--array", "--format=%F", f"--jobs={','.join(ids)}")
    try:
        return len(cluster.call(*words).split())
    except ConfigError as error:
        if "Invalid job id" in str(error):  # all of them are gone
            return 0
        raise


def queue_again(told: str) -> None:
    """If this worker is an element of an array that was warned, have Slurm start it again later.

    Slurm itself queues a job again that it preempts; a job that was cancelled stays away.
    """
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if job and task and told == signal.SIGUSR2.name:
        cluster.call("scontrol", "requeue", f"{job}_{task}")
