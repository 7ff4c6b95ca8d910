"""A real, short training on robosuite's TwoArmPegInHole, whole: script, workers, record, video."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marlcore.recording import read_records


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_arms_learn_something_in_minutes(tmp_path: Path) -> None:
    """Returns of a random policy scatter by 2 around 19.5; fourteen updates lift them by 5."""
    done = subprocess.run(
        [
            sys.executable,
            "experiments/acppo.py",
            "--id",
            "short",
            "with",
            "quickstart",
            "stop_success_rate=null",
            "gamma_prime=0.99",
            "lambda_prime=0.95",
            "actor_lr=0.0007",
            "critic_lr=0.001",
            "num_steps_per_rollout=500",
            "num_minibatches=4",
            "total_timesteps=14000",
            "checkpoint_every=7000",
            "num_eval_episodes=4",
        ],
        env={**os.environ, "MARL_RUNS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "short"
    records = read_records(run / "metrics.jsonl")
    returns = [
        r["metrics"]["rollout/return_mean"] for r in records if "update/entropy" in r["metrics"]
    ]
    assert len(returns) == 14
    assert sum(returns[-2:]) / 2 > sum(returns[:2]) / 2 + 2.0
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["num_episodes"] == 4
    assert evaluation["return_mean"] > sum(returns[:2]) / 2 + 2.0
    assert (run / "video.mp4").stat().st_size > 10_000
    assert (run / "checkpoint_14000" / "manifest.json").exists()
    assert "success rate" in done.stdout
