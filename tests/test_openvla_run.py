"""Two OpenVLA agents on the real simulator with cameras, from the command line to the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marlcore import metrics
from marlcore.recording import read_records

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["max_episode_steps=16", "num_steps_per_rollout=8", "total_timesteps=128"]


def script(runs: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"experiments/{name}.py", *words],
        cwd=ROOT,
        env={**os.environ, "MARL_RUNS_DIR": str(runs)},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.slow
def test_openvla_tiny_trains_evaluates_films_and_exports(tmp_path: Path) -> None:
    few = [*SHORT, "num_eval_episodes=1"]
    trained = script(tmp_path, "acppo", "--id", "vla", "with", "openvla_tiny", *few)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "3 new pictures a decision" in trained.stdout
    run = tmp_path / "vla"
    assert (run / "video.mp4").stat().st_size > 10_000
    records = list(read_records(run / "metrics.jsonl"))
    assert [record.step for record in records] == [64, 128, 128]
    for record in records:
        for key in record.metrics:
            metrics.meaning(key)
    checkpoint = run / "checkpoint_128"
    assert sum(path.stat().st_size for path in checkpoint.iterdir()) < 3e6  # without the backbone
    evaluated = script(tmp_path, "evaluate", "vla", "--episodes", "1", "--json", "--no-video")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["num_episodes"] == 1
    exported = script(tmp_path, "export", "vla", str(tmp_path / "out"), "--merge")
    assert exported.returncode == 0, exported.stderr
    assert "proprio_projector_extended--128_checkpoint.pt" in exported.stdout
    again = ["with", "openvla_tiny", f"pretrained_checkpoint={tmp_path / 'out'}", *few]
    begun = script(tmp_path, "mappo", *again, "logging.video=false")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert "fresh at the start of a run: adapters, log_std, critics\n" in begun.stdout


def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    env = ["env.kind=fake", "env.image_size=56", "env.history_length=2", "policy.kind=openvla"]
    run = ["pretrained_checkpoint=tiny", "num_envs=2", "num_steps_per_rollout=8", "video=false"]
    words = [*env, *run, "total_timesteps=16", "num_eval_episodes=1", "max_episode_steps=8"]
    trained = script(tmp_path, "mappo", "--id", "one", "with", *words)
    assert trained.returncode == 0, trained.stderr
    before = (tmp_path / "one" / "config.json").read_text()
    other = ["total_timesteps=32", "policy.pretrained_checkpoint=/nowhere"]
    refused = script(tmp_path, "mappo", "with", "resume=one", *other)
    assert refused.returncode == 2
    assert "there is no folder /nowhere" in refused.stderr
    assert (tmp_path / "one" / "config.json").read_text() == before
    assert script(tmp_path, "mappo", "with", "resume=one", other[0]).returncode == 0
    assert '"total_timesteps": 32' in (tmp_path / "one" / "config.json").read_text()


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_gpu_runs_it_in_bfloat16_with_first_ratios_of_one(compiled: bool) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    from experiments._build import build_trainer, make_environments
    from marlcore.recording import MemoryRecorder
    from tests.policies.openvla.helpers import vla_config

    algorithm = {"num_epochs": 1, "num_minibatches": 1}
    config = vla_config("acppo", algorithm=algorithm, policy={"compile": compiled})
    env = make_environments(config, seed=0, num_envs=config.training.num_envs)
    recorder = MemoryRecorder()
    device = torch.device("cuda", 0)
    trainer = build_trainer(config, env=env, device=device, recorder=recorder, store=None)
    trainer.train()
    env.close()
    _, first = recorder.records[0]
    assert first["update/ratio_min"] == pytest.approx(1, abs=1e-4)
    assert first["update/ratio_max"] == pytest.approx(1, abs=1e-4)
