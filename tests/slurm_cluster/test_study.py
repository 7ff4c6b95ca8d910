"""A study's runs as jobs of a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm_cluster.cluster import Cluster
from tests.slurm_cluster.desk import Desk

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]
STUDY = """
with: [total_timesteps=1600, num_eval_episodes=1, video=false]
algorithms:
  MAPPO: {script: mappo}
  ACPPO: {script: acppo}
environments:
  partition: [partition]
seeds: [0]
metric: rollout/return_mean
"""
PRESET = "cpus_per_task: 1\ntime: 10\nsignal_delay_s: 20\n"
NAMES = ("pair-MAPPO-partition-s0", "pair-ACPPO-partition-s0")


def test_a_study_is_submitted_once_and_reported(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("study")
    desk = Desk(cluster, folder / "runs")
    (folder / "pair.yaml").write_text(STUDY)
    (folder / "small.yaml").write_text(PRESET)
    words = ("experiments/study.py", str(folder / "pair.yaml"))
    done = desk.call(*words, "--slurm", str(folder / "small.yaml"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("submitted") >= 2
    again = desk.call(*words, "--slurm", str(folder / "small.yaml"))
    assert again.returncode == 0 and "submitted" not in again.stdout  # they wait, run or are done
    assert [desk.wait_for_end(name).study for name in NAMES] == ["pair", "pair"]
    report = desk.call(*words, "--report")
    assert report.returncode == 0, report.stderr
    assert "P(MAPPO above ACPPO)" in report.stdout
