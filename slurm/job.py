"""One process of a job: goes on with the run, or begins it.

    python -m slurm.job RUN_DIRECTORY

srun starts as many as there are tasks; --local does the same with torchrun's variables. Signals
are caught from the first moment on, for importing and starting can take minutes.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from experiments import _stop
from experiments._arguments import read_arguments
from experiments._experiment import commandline
from experiments.tracking.view import DEAD_AFTER_S
from marlcore.config_errors import ConfigError
from marlcore.rendezvous import place
from slurm import cluster, record

_LEASE_S = DEAD_AFTER_S + 30
"""A process of the attempt before that was killed with its node seems to live so long."""


def main(argv: Sequence[str]) -> int:
    """Run the job's run; returns its exit code."""
    run_dir = Path(argv[0])
    with _stop.install():
        job = record.read(run_dir)
        _stop.set_time_limit(_time_limit(), warned_s=job.resources.signal_delay_s)
        job_id = os.environ.get("SLURM_JOB_ID")
        where = f"Slurm job {job_id}" if job_id else "no scheduler"
        print(f"run {job.id}: {place()}, {where}, {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)
        script = importlib.import_module(f"experiments.{job.script}").SCRIPT
        words = [*_options(job), "with", f"resume={run_dir}", *job.words]
        code = commandline(script, words, wait_s=_LEASE_S)
    # srun ends all processes when one fails: the first one, which records, ends in its own time.
    return 0 if code > 128 and place().rank > 0 else code


def _options(job: record.Job) -> list[str]:
    """What the command line gave besides settings, which config.json has."""
    given = read_arguments(job.argv[1:]).options
    return [f"{k}={v}" if v else k for k, v in given.items() if k not in ("--id", "--help")]


def _time_limit() -> float:
    """When Slurm ends the job, in seconds since 1970; infinite where there is no limit.

    The first process asks; all of them stop when it does.
    """
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    if told.isdecimal():
        return float(told)
    if "SLURM_JOB_ID" not in os.environ or place().rank > 0:
        return float("inf")
    try:
        ends = cluster.facts("job", os.environ["SLURM_JOB_ID"])[0].get("EndTime", "")
        return datetime.fromisoformat(ends).timestamp()
    except (ConfigError, ValueError, IndexError) as error:
        print(f"note: the time limit is not known ({error})", flush=True)
        return float("inf")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
