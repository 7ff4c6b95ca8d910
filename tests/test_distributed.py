"""Two gloo processes equal one process with twice the environments (invariant d)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from marlcore import distributed
from marlcore.recording import MemoryRecorder, read_records
from tests.factories import learning_metrics, make_config, make_trainer

ROOT = Path(__file__).resolve().parents[1]


VLA: dict[str, Any] = {
    "env": {
        "kind": "fake",
        "max_episode_steps": 7,
        "image_size": 56,
        "history_length": 2,
        "num_actions_chunk": 2,
    },
    "policy": {"kind": "openvla", "pretrained_checkpoint": "tiny", "share_policy": False},
    "algorithm": {"actor_lr": 1e-5, "num_epochs": 1},
    "training": {"num_steps_per_rollout": 8, "total_timesteps": 64},
}


def settings(num_envs: int, sections: dict[str, Any]) -> dict[str, Any]:
    algorithm = {"num_minibatches": 1, "target_kl": 0.5, **sections.get("algorithm", {})}
    training = {"total_timesteps": 192, **sections.get("training", {}), "num_envs": num_envs}
    return {**sections, "algorithm": algorithm, "training": training}


def train_here(name: str, num_envs: int, sections: dict[str, Any]) -> dict[str, Any]:
    """Train some updates and return what every process should agree on."""
    recorder = MemoryRecorder()
    with make_trainer(make_config(name, **settings(num_envs, sections)), recorder) as trainer:
        trainer.train()
        state = trainer.policy.state_dict()
        weights = {
            key: tensor.flatten().tolist()
            for key, tensor in state.items()
            if not key.endswith("microbatch")  # rows at once: half as many
        }
    return {"weights": weights, "metrics": learning_metrics(recorder)}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def train_in_two_processes(
    name: str, sections: dict[str, Any], directory: Path
) -> list[dict[str, Any]]:
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.test_distributed", name, json.dumps(sections)],
            cwd=ROOT,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OUTPUT": str(directory / f"{rank}.json"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("mappo", {"algorithm": {"normalise_values": True}}),
        ("acppo", {"algorithm": {"belief": "estimate"}}),
        ("mappo", VLA),
        ("acppo", VLA),
    ],
    ids=["mappo", "acppo", "mappo with OpenVLA", "acppo with OpenVLA"],
)
def test_two_processes_equal_one_with_twice_the_environments(
    name: str, sections: dict[str, Any], tmp_path: Path
) -> None:
    first, second = train_in_two_processes(name, sections, tmp_path)
    assert first["weights"] == second["weights"]
    alone = train_here(name, 4, sections)
    for key, weights in alone["weights"].items():
        actual, expected = torch.tensor(first["weights"][key]), torch.tensor(weights)
        close = torch.isclose(actual, expected, rtol=1e-4, atol=1e-6)
        # A belief that is rounded otherwise puts a row on the other side of a critic's ReLU.
        may_flip = name == "acppo" and "openvla" in str(sections) and "critics" in key
        assert (~close).float().mean() <= (5e-3 if may_flip else 0), key
    for (step, metrics), (expected_step, expected) in zip(
        first["metrics"], alone["metrics"], strict=True
    ):
        assert step == expected_step
        assert metrics["rollout/num_episodes"] == expected["rollout/num_episodes"]
        for key in ("rollout/return_mean", "update/policy_loss", "update/value_loss"):
            assert metrics[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-5)


def torchrun(runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-port", str(free_port()), "experiments/mappo.py", *words),
        ],
        cwd=ROOT,
        env={**os.environ, "MARL_RUNS_DIR": str(runs), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.slow
def test_torchrun_makes_one_record_and_goes_on_with_as_many_processes(tmp_path: Path) -> None:
    words = ["env.kind=fake", "num_steps_per_rollout=64", "total_timesteps=512", "video=false"]
    first = torchrun(tmp_path, "--id", "two", "with", *words)
    assert first.returncode == 0, first.stdout + first.stderr
    assert [p.name for p in tmp_path.iterdir() if p.name[0] != "."] == ["two"]
    second = torchrun(tmp_path, "with", "resume=two", "total_timesteps=768")
    assert second.returncode == 0, second.stdout + second.stderr
    steps = [record.step for record in read_records(tmp_path / "two" / "metrics.jsonl")]
    assert steps == [256, 512, 768, 768]  # the evaluation behind the first end is taken back
    alone = subprocess.run(
        [sys.executable, "experiments/mappo.py", "with", "resume=two", "total_timesteps=1024"],
        cwd=ROOT,
        env={**os.environ, "MARL_RUNS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 2
    assert "the checkpoint is of 2 processes, this run has 1" in alone.stderr


def run_script(runs: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "experiments/mappo.py", *words],
        cwd=ROOT,
        env={**os.environ, "MARL_RUNS_DIR": str(runs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


LAUNCHED = ["env.kind=fake", "num_gpus=2", "device=cpu", "num_steps_per_rollout=64", "video=false"]


@pytest.mark.slow
def test_num_gpus_starts_as_many_processes_and_a_signal_reaches_all(tmp_path: Path) -> None:
    process = run_script(tmp_path, "--id", "two", "with", *LAUNCHED, "total_timesteps=100000000")
    metrics = tmp_path / "two" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert output.count("resume with: python experiments/mappo.py with resume=two") == 1
    first = next(iter(read_records(metrics)))
    assert first.step == 2 * 2 * 64  # processes, environments, decisions
    steps = list(read_records(metrics))[-1].step
    again = run_script(tmp_path, "with", "resume=two", f"total_timesteps={steps + 256}")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process_behind_and_nothing_is_lost(tmp_path: Path) -> None:
    process = run_script(tmp_path, "--id", "two", "with", *LAUNCHED, "total_timesteps=100000000")
    metrics = tmp_path / "two" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.2)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.kill()
    process.communicate(timeout=60)
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert (len(gone), len(alive)) == (2, 0)
    assert list((tmp_path / "two").glob("checkpoint_*"))


def test_gpus_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for words, message in {
        ("num_gpus=99",): "training.num_gpus=99: this machine has",
        ("num_gpus=99", "device=cuda:0"): "training.device=cuda:0 is one GPU",
    }.items():
        process = run_script(tmp_path, "with", "env.kind=fake", *words)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 2, output
        assert message in output
    assert not list(tmp_path.iterdir())


def test_alone_every_reduction_is_the_identity() -> None:
    x = torch.tensor([1.0, 2.0])
    assert distributed.sum_over_ranks(x) is x
    assert distributed.gather_objects("x") == ["x"]
    assert distributed.any_over_ranks(True, torch.device("cpu"))
    assert not distributed.any_over_ranks(False, torch.device("cpu"))
    assert distributed.is_main()


if __name__ == "__main__":
    with distributed.process_group(torch.device("cpu"), connect_timeout_s=60):
        result = train_here(sys.argv[1], 2, json.loads(sys.argv[2]))
    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    # A group that outlives its use aborts some processes when their interpreter ends.
    assert not [thread for thread in threads if "gloo" in thread], threads
    Path(os.environ["OUTPUT"]).write_text(json.dumps(result))
