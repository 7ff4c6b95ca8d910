"""The batch script, word for word: `MARL_RENEW=1 pytest tests/slurm` renews tests/golden/slurm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from slurm import resources
from slurm.resources import Resources
from slurm.script import batch_script, workers_script

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "slurm"
RUNS = Path("/shared/runs")
ODD = Resources(
    partition="gpu",
    account="me",
    gpus_per_node=2,
    memory_gib=1.5,
    environment={"NCCL_IB_DISABLE": 1, "NOTE": "it's $HOME"},
    setup=("module load cuda/12.4",),
    srun=("--cpu-bind=none",),
    sbatch={"exclusive": True, "nice": 7, "gres": "tmpdisk:100"},
)


def script_of(names: list[str], wanted: Resources, parallel: int | None = None) -> str:
    return batch_script(
        [RUNS / name for name in names],
        code=RUNS / ".frozen" / "code-1",
        python=RUNS / ".frozen" / "environment-1" / "bin" / "python",
        resources=wanted,
        parallel=parallel,
    )


SCRIPTS = {
    "h100x8": script_of(["r1"], resources.load("h100x8", {"nodes": 2})),
    "array": script_of(["r-s0", "r-s1", "r-s2"], resources.load("cpu", {}), parallel=2),
    "odd": script_of(["r 1"], ODD),
}


SCRIPTS["workers"] = workers_script(
    RUNS / "sweeps" / "wide",
    "sweeps.worker",
    "array",
    runs=RUNS,
    code=RUNS / ".frozen" / "code-1",
    python=RUNS / ".frozen" / "environment-1" / "bin" / "python",
    resources=resources.load("cpu", {}),
    num=16,
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_what_it_was(name: str) -> None:
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("MARL_RENEW"):
        path.write_text(SCRIPTS[name])
    assert SCRIPTS[name] == path.read_text(), "MARL_RENEW=1 renews it, if the change is meant"


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_it(name: str) -> None:
    subprocess.run(["bash", "-n"], input=SCRIPTS[name], text=True, check=True)


def test_an_element_of_an_array_takes_its_own_run() -> None:
    lines = SCRIPTS["array"].split("# command")[0] + '\necho "$run"\n'
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash"], input=lines, text=True, env=environment, capture_output=True, check=True
    )
    assert done.stdout.strip() == "/shared/runs/r-s1"


def test_values_of_variables_are_not_expanded() -> None:
    lines = SCRIPTS["odd"].split("# command")[0].replace("module load", "true")
    done = subprocess.run(
        ["bash"], input=lines + '\necho "$NOTE:$run"\n', text=True, capture_output=True, check=True
    )
    assert done.stdout.strip() == "it's $HOME:/shared/runs/r 1"
