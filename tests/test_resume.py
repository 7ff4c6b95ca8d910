"""A run killed and resumed equals the run left alone, bit for bit (invariant e)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import _stop
from marlcore.checkpoint import CheckpointStore, load_checkpoint
from marlcore.recording import MemoryRecorder, read_records
from marlcore.trainer import Trainer
from tests.factories import CPU, learning_metrics, make_config, make_trainer

CASES: dict[str, dict[str, Any]] = {
    "mappo": {"name": "mappo", "algorithm": {"normalise_values": True}},
    "acppo": {"name": "acppo"},
    "learned": {"name": "acppo", "algorithm": {"belief": "learned"}},
    "ippo, shared": {"name": "ippo", "policy": {"share_policy": True}},
    "chunks and history": {"env": {"num_actions_chunk": 3, "history_length": 2}},
    "a game": {"env": {"kind": "game", "game": "sum_coordination"}},
    "images": {
        "name": "acppo",
        "env": {"kind": "fake", "image_size": 40, "history_length": 2},
        "policy": {"kind": "cnn"},
    },
    "openvla": {
        "env": {"kind": "fake", "image_size": 56, "history_length": 2, "num_actions_chunk": 2},
        "policy": {
            "kind": "openvla",
            "pretrained_checkpoint": "tiny",
            "share_policy": False,
            "critic": "hidden",
        },
        "training": {"num_steps_per_rollout": 4, "total_timesteps": 128, "checkpoint_every": 32},
    },
    "discrete actions": {"env": {"kind": "game", "game": "partition"}},
}


@pytest.mark.parametrize("case", CASES)
def test_four_updates_equal_two_saved_loaded_and_two(case: str, tmp_path: Path) -> None:
    config = make_config(**CASES[case])
    alone, stopped, resumed = MemoryRecorder(), MemoryRecorder(), MemoryRecorder()
    with make_trainer(config, alone) as trainer:
        trainer.train()
        expected = trainer.policy.state_dict()
    num_updates = len(alone.records)
    half = alone.records[num_updates // 2 - 1][0]
    training = config.training.model_copy(update={"total_timesteps": half})
    with make_trainer(
        config.model_copy(update={"training": training}), stopped, CheckpointStore(tmp_path, keep=9)
    ) as trainer:
        trainer.train()
    with make_trainer(config, resumed) as trainer:
        trainer.restore(load_checkpoint(tmp_path / f"checkpoint_{half}", CPU))
        trainer.train()
        actual = trainer.policy.state_dict()
    assert learning_metrics(stopped) + learning_metrics(resumed) == learning_metrics(alone)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name


def test_an_evaluation_that_a_signal_stops_is_done_by_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(training={"evaluate_every": 128, "num_eval_episodes": 3})
    alone, stopped, resumed = MemoryRecorder(), MemoryRecorder(), MemoryRecorder()
    with make_trainer(config, alone) as trainer:
        trainer.train()
    asked = iter([False] * 5)  # the sixth decision of the evaluation is not made
    with monkeypatch.context() as patch:
        patch.setattr(_stop, "should_stop", lambda: next(asked, True))
        with make_trainer(config, stopped, CheckpointStore(tmp_path, keep=9)) as trainer:
            trainer.stop_requested = lambda: "SIGUSR2" if is_due(trainer) else None
            assert trainer.train().reason == "SIGUSR2"
    assert not any("eval/return_mean" in metrics for _, metrics in stopped.records)
    state = load_checkpoint(tmp_path / "checkpoint_128", CPU)
    assert state.progress["evaluation_is_due"] is True
    with make_trainer(config, resumed) as trainer:
        trainer.restore(state)
        trainer.train()
    assert learning_metrics(stopped) + learning_metrics(resumed) == learning_metrics(alone)


def is_due(trainer: Trainer) -> bool:
    return trainer.progress.evaluation_is_due


def test_a_checkpoint_of_another_policy_is_refused_with_what_differs(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    with make_trainer(make_config(), store=store) as trainer:
        trainer.train()
    wider = make_config(policy={"hidden_sizes": [32]})
    with (
        make_trainer(wider) as trainer,
        pytest.raises(ValueError, match=r"(?s)does not fit this run.*weights"),
    ):
        trainer.restore(load_checkpoint(store.newest_first()[0], CPU))


OVERRIDES = {
    "env.kind": "fake",
    "env.max_episode_steps": 9,
    "policy.hidden_sizes": "[16]",
    "policy.critic_hidden_sizes": "[16]",
    "num_envs": 2,
    "num_workers": 2,
    "num_steps_per_rollout": 64,
    "num_minibatches": 4,
    "num_epochs": 2,
    "checkpoint_every": 256,
    "num_eval_episodes": 4,
    "logging.video": "false",
}


def words(total_timesteps: int) -> list[str]:
    return [f"{k}={v}" for k, v in {**OVERRIDES, "total_timesteps": total_timesteps}.items()]


def start(runs: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "experiments/acppo.py", *arguments],
        env={**os.environ, "MARL_RUNS_DIR": str(runs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def learned(run: Path) -> list[tuple[object, dict[str, float]]]:
    records = read_records(run / "metrics.jsonl")
    return [
        (
            r.step,
            {k: v for k, v in r.metrics.items() if not k.startswith(("time/", "system/"))},
        )
        for r in records
    ]


def test_a_run_killed_at_a_random_moment_goes_on_bit_for_bit(tmp_path: Path) -> None:
    alone = start(tmp_path, "--id", "alone", "with", *words(4096))
    output, _ = alone.communicate(timeout=200)
    assert alone.returncode == 0, output
    killed = start(tmp_path, "--id", "killed", "with", *words(4096))
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint_1024").exists():
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=20)
    resumed = start(tmp_path, "with", "resume=killed")
    output, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, output
    assert learned(tmp_path / "killed") == learned(tmp_path / "alone")
    sums = [
        json.loads((tmp_path / run / "checkpoint_4096" / "manifest.json").read_text())["sha256"]
        for run in ("alone", "killed")
    ]
    assert sums[0]["policy.safetensors"] == sums[1]["policy.safetensors"]
    assert sums[0]["training.safetensors"] == sums[1]["training.safetensors"]


def test_going_on_from_an_older_checkpoint_leaves_the_later_ones_behind(tmp_path: Path) -> None:
    first = start(tmp_path, "--id", "r", "with", *words(768))
    output, _ = first.communicate(timeout=200)
    assert first.returncode == 0, output
    older = tmp_path / "r" / "checkpoint_256"
    resumed = start(tmp_path, "with", f"resume={older}", "total_timesteps=384")
    output, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, output
    numbered = {path.name for path in CheckpointStore(tmp_path / "r", keep=9).newest_first()}
    assert numbered == {"checkpoint_256", "checkpoint_384"}
    evaluation = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert evaluation["env_steps"] == 384
    assert {r.step for r in read_records(tmp_path / "r" / "metrics.jsonl")} == {128, 256, 384}


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path: Path) -> None:
    first = start(tmp_path, "--id", "r", "with", *words(512))
    output, _ = first.communicate(timeout=200)
    assert first.returncode == 0, output
    (tmp_path / "r" / "checkpoint_512" / "training.safetensors").write_bytes(b"torn")
    resumed = start(tmp_path, "with", "resume=r", "total_timesteps=768")
    output, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, output
    assert "checkpoint_512/training.safetensors does not match" in output
    assert "going on from" in output
    assert "checkpoint_256" in output
    steps = [r.step for r in read_records(tmp_path / "r" / "metrics.jsonl")]
    assert steps == [128, 256, 384, 512, 640, 768, 768]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    run = start(tmp_path, "--id", "s", "with", *words(10_000_000))
    metrics = tmp_path / "s" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(number)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "resume with: python experiments/acppo.py with resume=s" in output
    newest = CheckpointStore(tmp_path / "s", keep=9).newest_first()[0]
    last = read_records(metrics)[-1].step
    assert newest.name == f"checkpoint_{last}"
