"""slurm/submit.py where no Slurm is: refusals, dry runs, and the same job on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli
from experiments.tracking.read import read_view
from slurm import record, submit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs directory, and no Slurm on the path."""
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))
    git = shutil.which("git")
    (tmp_path / "bin").mkdir()
    if git is not None:
        (tmp_path / "bin" / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "are required: SCRIPT with WORD"),
        (["experiments/acpo.py"], "did you mean experiments/acppo.py?"),
        (["experiments/evaluate.py"], "is no training script; give one of experiments/acppo.py"),
        (["acppo", "with", "partitio"], "did you mean partition?"),
        (["acppo", "with", "partition", "gamma=2"], "algorithm.gamma: 2 is refused"),
        (["acppo", "print_config"], "is nothing for a cluster"),
        (["acppo", "with", "resume=x"], "marl jobs resume"),
        (["acppo", "with", "partition", "num_gpus=2"], "training.num_gpus is of one machine"),
        (["acppo", "with", "partition", "--nodez", "2"], "did you mean --nodes?"),
        (["acppo", "with", "partition", "--nodes", "two"], "invalid int value: 'two'"),
        (["acppo", "with", "partition", "--preset", "h100"], "did you mean h100x8?"),
        (["acppo", "with", "partition", "--seeds", "3-1"], "give seeds as 0-3 or 0,1,7"),
        (["acppo", "with", "partition", "--seeds", "1,1"], "names a seed twice"),
        (["acppo", "with", "partition", "--seeds", "0-5000"], "more than 1,000 runs"),
        (["acppo", "with", "seed=1", "--seeds", "0-1"], "seed= is given twice"),
        (["acppo", "with", "partition", "--parallel", "2"], "add --seeds"),
        (["acppo", "with", "partition", "--chain", "0"], "--chain 0 is refused"),
        (["acppo", "with", "partition", "--local", "2", "--nodes", "2"], "leave --nodes out"),
        (["acppo", "with", "partition", "--after", "none", "--dry-run"], "there is no sbatch here"),
        (["acppo", "with", "partition", "--id", "../x"], "--id '../x' is refused"),
        (["acppo", "with", "partition"], "there is no sbatch here; run this on a login node"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code = submit.main(words)
    said = capsys.readouterr()
    assert message in said.out + said.err
    assert code == (0 if "--dry-run" in words else 2)
    assert not runs.exists()


def test_a_dry_run_prints_the_script_and_makes_nothing(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiments/acppo.py", "--preset", "h100x8", "--nodes", "2", "--dry-run"]
    assert submit.main([*words, "with", "partition", "--seeds", "0-3", "--parallel", "2"]) == 0
    out = capsys.readouterr().out
    assert "#SBATCH --gpus-per-node=h100:8\n" in out
    assert "#SBATCH --nodes=2\n" in out
    assert "#SBATCH --array=0-3%2\n" in out
    assert not runs.exists()


def test_jobs_of_no_cluster(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["jobs"]) == 0
    assert "nothing was submitted" in capsys.readouterr().out
    assert cli.main(["jobs", "cancel", "x"]) == 2
    assert cli.main(["jobs", "tail", "x"]) == 2


@pytest.mark.slow
def test_the_same_job_runs_here_with_two_processes(tmp_path: Path) -> None:
    """And its record knows the words, the commit and both processes' share."""
    runs = tmp_path / "runs"
    words = ["experiments/acppo.py", "with", "partition", "total_timesteps=4800", "--local", "2"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MARL_"))}
    done = subprocess.run(
        [sys.executable, str(ROOT / "slurm" / "submit.py"), *words, "--id", "r1"],
        cwd=tmp_path,
        env={**kept, "MARL_RUNS_DIR": str(runs)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one = read_view(runs / "r1")
    assert (one.status, one.env_steps, one.attempt) == ("COMPLETED", 4800, 1)
    job = record.read(runs / "r1")
    assert job.argv == ("acppo", "with", "partition", "total_timesteps=4800")
    assert job.code.is_dir()
    assert "process 1 of 2" in done.stdout


def test_a_damaged_record_of_a_job_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "r1").mkdir(parents=True)
    (runs / "r1" / "config.json").write_text("{}")
    (runs / "r1" / "job.json").write_text("{bad")
    assert cli.main(["jobs"]) == 0
    assert "job.json is damaged" in capsys.readouterr().err
    assert cli.main(["jobs", "cancel", "r1"]) == 2
    assert "go on with the run here by marl resume r1" in capsys.readouterr().err
