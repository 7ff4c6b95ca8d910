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
    is_array = len(run_dirs) > 1
    name = f"%{'A_%a' if is_array else 'j'}"
    return _make_sbatch_string(
        _command(),
        run_dirs[0],
        **_options(run_dirs[0].name, resources),
        setup=_setup(run_dirs, code=code, python=python, resources=resources),
        map_count=len(run_dirs) if is_array else None,
        array_parallelism=parallel or len(run_dirs),
        stderr_to_stdout=True,
        use_srun=False,
        additional_parameters={
            "requeue": True,
            "output": str(run_dirs[0] / LOGS / f"{name}.batch.log"),
            **resources.sbatch,
        },
    )


def workers_script(
    folder: Path,
    module: str,
    *words: str,
    runs: Path,
    code: Path,
    python: Path,
    resources: Resources,
    num: int,
) -> str:
    """The script for an array of workers, `python -m MODULE FOLDER LOG WORDS` each.

    The batch process becomes the worker, which is warned in person and starts processes by srun.

    Args:
        folder: of what they work on.
        module: of the worker.
        words: what it is told besides.
        runs: directory of all runs.
        code: frozen.
        python: interpreter of the frozen environment.
        resources: of one worker.
        num: of workers.
    """
    log = str(folder / LOGS / "%A_%a.log")
    own = '"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}.log"'
    return _make_sbatch_string(
        f'exec "$python" -m {module} {shlex.quote(str(folder))} '
        f"{shlex.quote(str(folder / LOGS))}/{own} {shlex.join(words)}",
        folder,
        **_options(f"sweep-{folder.name}", resources),
        setup=_environment(runs, code=code, python=python, resources=resources),
        map_count=num,
        array_parallelism=num,
        stderr_to_stdout=True,
        use_srun=False,
        additional_parameters={
            "requeue": True,
            "output": log,
            "signal": f"B:USR2@{resources.signal_delay_s}",
            **resources.sbatch,
        },
    )


def _options(name: str, resources: Resources) -> dict[str, Any]:
    r = resources
    gpus = f"{r.gpu_type}:{r.gpus_per_node}" if r.gpu_type else r.gpus_per_node
    return {
        "job_name": name,
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


def _setup(
    run_dirs: Sequence[Path], *, code: Path, python: Path, resources: Resources
) -> list[str]:
    names = " ".join(shlex.quote(path.name) for path in run_dirs)
    srun = shlex.join(resources.srun)
    return [
        *_environment(run_dirs[0].parent, code=code, python=python, resources=resources),
        f"runs=({names})",
        'run="$MARL_RUNS_DIR/${runs[${SLURM_ARRAY_TASK_ID:-0}]}"',
        f'logs="$run/{LOGS}/$SLURM_JOB_ID"',
        f"srun_options=({srun})",
    ]


def _environment(runs: Path, *, code: Path, python: Path, resources: Resources) -> list[str]:
    return [
        *(f"export {k}={shlex.quote(str(v))}" for k, v in resources.environment.items()),
        f"export MARL_RUNS_DIR={shlex.quote(str(runs))}",
        *resources.setup,
        "# The code as it was when it was submitted; PYTHONSAFEPATH keeps this folder's out.",
        f"export PYTHONPATH={shlex.quote(str(code))} PYTHONSAFEPATH=1",
        f"python={shlex.quote(str(python))}",
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
