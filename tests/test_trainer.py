"""The loop: it learns, records exactly what is declared, stops when it should."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from experiments import _stop
from marlcore.checkpoint import CheckpointStore
from marlcore.metrics import MEANINGS, meaning
from marlcore.recording import MemoryRecorder
from marlcore.trainer import TIME_LIMIT
from tests.factories import make_config, make_trainer, train

EVERY_UPDATE = {
    "rollout/reward_mean",
    "rollout/return_mean",
    "rollout/return_min",
    "rollout/return_max",
    "rollout/episode_length_mean",
    "rollout/success_rate",
    "rollout/success_held_rate",
    "rollout/num_episodes",
    "update/policy_loss",
    "update/value_loss",
    "update/entropy",
    "update/approx_kl",
    "update/clip_fraction",
    "update/ratio_min",
    "update/ratio_max",
    "update/microbatch_size",
    "update/num_epochs",
    "update/grad_norm_actor",
    "update/grad_norm_critic",
    "update/policy_loss/agent_0",
    "update/policy_loss/agent_1",
    "time/env_s",
    "time/policy_s",
    "time/update_s",
    "time/env_steps_per_s",
    "time/elapsed_s",
    "system/memory_mib",
    "system/num_discarded",
}
PER_AGENT = {"update/explained_variance/agent_0", "update/explained_variance/agent_1"}
CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("mappo", {}, {"update/explained_variance", "update/gamma"}),
    ("ippo", {}, {*PER_AGENT, "update/gamma"}),
    (
        "acppo",
        {},
        {*PER_AGENT, "update/gamma_prime", "update/decision_discount", "update/lambda_prime"},
    ),
    ("acppo", {"ablation": "belief_only"}, {*PER_AGENT, "update/gamma"}),
    (
        "acppo",
        {"belief": "learned"},
        {
            *PER_AGENT,
            "update/gamma_prime",
            "update/decision_discount",
            "update/lambda_prime",
            "update/belief_kl",
        },
    ),
]


@pytest.mark.parametrize(("name", "algorithm", "more"), CASES)
def test_a_run_records_exactly_the_declared_metrics(
    name: str, algorithm: dict[str, Any], more: set[str]
) -> None:
    _, recorder = train(make_config(name, algorithm=algorithm))
    assert [step for step, _ in recorder.records] == [64, 128, 192, 256]
    for _, metrics in recorder.records:
        assert set(metrics) == EVERY_UPDATE | more
    assert all(meaning(key) for key in EVERY_UPDATE | more)


def test_every_declared_metric_is_recorded_somewhere() -> None:
    recorded = set().union(EVERY_UPDATE, *(more for _, _, more in CASES))
    evaluated = {key for key in MEANINGS if key.startswith("eval/")}
    cloned = {"update/cloning_loss"}  # tests/test_cloning.py
    assert set(MEANINGS) <= recorded | evaluated | cloned


@pytest.mark.parametrize("name", ["mappo", "acppo", "ippo"])
def test_every_algorithm_brings_the_points_nearer_to_their_targets(name: str) -> None:
    config = make_config(
        name,
        env={"max_episode_steps": 20},
        algorithm={
            "actor_lr": 0.02,
            "critic_lr": 0.02,
            "num_epochs": 6,
            "num_minibatches": 4,
            **({"gamma_prime": 0.77} if name == "acppo" else {"gamma": 0.6}),
        },
        training={"num_envs": 8, "num_steps_per_rollout": 40, "total_timesteps": 8_000},
    )
    _, recorder = train(config)
    returns = [metrics["rollout/return_mean"] for _, metrics in recorder.records]
    assert sum(returns[-3:]) / 3 > 0.85 * returns[0]  # minus the distance, summed


@pytest.mark.parametrize("name", ["mappo", "acppo"])
def test_the_smallest_policy_runs_the_whole_loop(name: str) -> None:
    trainer, recorder = train(make_config(name, policy={"kind": "tiny"}))
    assert trainer.progress.env_steps == recorder.records[-1][0] == 256


def test_discrete_choices_with_chunks_and_history_train_too() -> None:
    config = make_config(
        env={"kind": "game", "game": "climbing", "num_actions_chunk": 2, "history_length": 3}
    )
    trainer, _ = train(config)
    assert trainer.progress.num_updates == 4


def test_enough_success_ends_a_run_early_and_says_so() -> None:
    partition = {"kind": "game", "game": "partition"}
    config = make_config(
        env=partition,
        training={"stop_success_rate": 0.05, "stop_window": 20, "total_timesteps": 64_000},
    )
    with make_trainer(config) as trainer:
        outcome = trainer.train()
    assert outcome.reason == "success"
    assert outcome.progress.env_steps < 64_000


def test_a_signal_ends_a_run_after_the_update_with_a_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    with make_trainer(make_config(), store=store) as trainer:
        trainer.stop_requested = lambda: "SIGTERM" if trainer.progress.num_updates == 2 else None
        outcome = trainer.train()
    assert outcome.reason == "SIGTERM"
    assert [path.name for path in store.newest_first()] == ["checkpoint_128"]


def test_a_run_ends_while_there_is_still_time_to_save(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    with make_trainer(make_config(), store=store) as trainer:
        trainer.time_left = lambda: 4.0 if trainer.progress.num_updates == 2 else 3600.0
        outcome = trainer.train()
    assert outcome.reason == TIME_LIMIT == _stop.TIME_LIMIT
    assert [path.name for path in store.newest_first()] == ["checkpoint_128"]


def test_saving_that_takes_longer_than_the_time_left_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object, **__: object) -> None:
        time.sleep(0.3)

    store = CheckpointStore(tmp_path, keep=1)
    monkeypatch.setattr(store, "save", slow)
    config = make_config(training={"checkpoint_every": 64, "total_timesteps": 256})
    with make_trainer(config, store=store) as trainer:
        trainer.time_left = lambda: 0.1 if trainer.progress.num_updates == 2 else 3600.0
        trainer.train()
    assert "WARNING: saving took 0 s before, 0 s are left" in capsys.readouterr().err


def test_checkpoints_and_evaluations_come_when_a_multiple_is_crossed(tmp_path: Path) -> None:
    config = make_config(
        training={"checkpoint_every": 100, "evaluate_every": 150, "keep_checkpoints": 9}
    )
    recorder, store = MemoryRecorder(), CheckpointStore(tmp_path, keep=9)
    with make_trainer(config, recorder, store) as trainer:
        trainer.train()
    steps = sorted(int(path.name.removeprefix("checkpoint_")) for path in store.newest_first())
    assert steps == [128, 256]
    evaluated = [step for step, m in recorder.records if "eval/return_mean" in m]
    assert evaluated == [192]
    assert store.best.is_dir()


def test_a_repeated_run_is_identical() -> None:
    from tests.factories import learning_metrics

    first, second = (learning_metrics(train(make_config("acppo"))[1]) for _ in range(2))
    assert first == second
    other = learning_metrics(train(make_config("acppo", seed=1))[1])
    assert first != other
