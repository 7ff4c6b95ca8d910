"""The batch script of a job, by submitit; `--dry-run` prints it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import (
    _make_sbatch_string,  # pyright: ignore[reportPrivateUsage]  # public ways pickle what they send
)

from slurm.record import LOGS
from slurm.resources import Resources

NOTHING_TO_DO = 10
"""Exit code of `slurm.attempt begin` if the run is complete, or was cancelled."""


def batch_script(
    run_dirs: Sequence[Path],
    *,
    code: Path,
    python: Path,
    resources: Resources,
    parallel: int | None = None,
) -> str:
    """The script for a run, or for an array of runs.

    Args:
        run_dirs: absolute; an array's elements in their order.
        code: frozen.
        python: interpreter of the frozen environment.
        resources: what to ask for.
        parallel: how many elements of an array may run at once; None: all.
    """
    r = resources
    is_array = len(run_dirs) > 1
    name = f"%{'A_%a' if is_array else 'j'}"
    gpus = f"{r.gpu_type}:{r.gpus_per_node}" if r.gpu_type else r.gpus_per_node
    options: dict[str, Any] = {
        "job_name": run_dirs[0].name,
        "partition": r.partition,
        "account": r.account,
        "qos": r.qos,
        "constraint": r.constraint,
        "nodes": r.nodes,
        "ntasks_per_node": r.num_tasks_per_node,
        "cpus_per_task": r.cpus_per_task,
        "gpus_per_node": gpus or None,
        "mem": None if r.memory_gib is None else f"{round(r.memory_gib * 1024)}M",
        "time": r.time,
        "signal_delay_s": r.signal_delay_s,
        "wckey": None,
    }
    others = {"requeue": True, "output": str(run_dirs[0] / LOGS / f"{name}.batch.log")}
    return _make_sbatch_string(
        _command(),
        run_dirs[0],
        **options,
        setup=_setup(run_dirs, code=code, python=python, resources=r),
        map_count=len(run_dirs) if is_array else None,
        array_parallelism=parallel or len(run_dirs),
        stderr_to_stdout=True,
        use_srun=False,
        additional_parameters={**others, **r.sbatch},
    )


def _setup(
    run_dirs: Sequence[Path], *, code: Path, python: Path, resources: Resources
) -> list[str]:
    runs = run_dirs[0].parent
    names = " ".join(shlex.quote(path.name) for path in run_dirs)
    srun = shlex.join(resources.srun)
    return [
        *(f"export {k}={shlex.quote(str(v))}" for k, v in resources.environment.items()),
        f"export MARL_RUNS_DIR={shlex.quote(str(runs))}",
        "# The code as it was when the run was submitted; PYTHONSAFEPATH keeps this folder's out.",
        f"export PYTHONPATH={shlex.quote(str(code))} PYTHONSAFEPATH=1",
        f"python={shlex.quote(str(python))}",
        f"runs=({names})",
        'run="$MARL_RUNS_DIR/${runs[${SLURM_ARRAY_TASK_ID:-0}]}"',
        f'logs="$run/{LOGS}/$SLURM_JOB_ID"',
        f"srun_options=({srun})",
        *resources.setup,
    ]


def _command() -> str:
    return "\n".join(
        [
            '"$python" -m slurm.attempt begin "$run"; code=$?',
            f"[ $code = {NOTHING_TO_DO} ] && exit 0; [ $code = 0 ] || exit $code",
            "# A process that fails ends the others; srun itself speaks to logs/*.srun.log. Since",
            "# Slurm 22.05 it does not know how many cores a process has unless it is told.",
            "srun --unbuffered --kill-on-bad-exit=1 --wait=0 --open-mode=append \\",
            '    --cpus-per-task="$SLURM_CPUS_PER_TASK" --output="$logs.rank%t.log" \\',
            '    "${srun_options[@]}" "$python" -m slurm.job "$run" 2>>"$logs.srun.log"',
            'exec "$python" -m slurm.attempt end "$run" $?',
        ]
    )
