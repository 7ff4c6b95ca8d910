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
    """Twenty updates lift the returns of a random policy."""
    done = subprocess.run(
        [
            *(sys.executable, "experiments/mappo.py", "--id", "short", "with", "quickstart"),
            *("seed=1", "stop_success_rate=null", "total_timesteps=20000"),
            *("checkpoint_every=10000", "num_eval_episodes=4"),
        ],
        env={**os.environ, "MARL_RUNS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "short"
    records = read_records(run / "metrics.jsonl")
    key = "rollout/return_mean"
    rollouts = [r.metrics for r in records if {key, "update/entropy"} <= set(r.metrics)]
    assert len(rollouts) == 20  # staggered: in every rollout of 64 some episodes of 200 end
    returns = [m[key] for m in rollouts if m["rollout/episode_length_mean"] == 200]
    assert 12 <= len(returns) < 20  # whole ones; the first episodes were cut
    assert sum(returns[-2:]) / 2 > sum(returns[:2]) / 2 + 2.0
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["num_episodes"] == 4
    assert evaluation["return_mean"] > sum(returns[:2]) / 2 + 2.0
    assert (run / "video.mp4").stat().st_size > 10_000
    assert (run / "checkpoint_20480" / "manifest.json").exists()
    assert "success rate" in done.stdout
