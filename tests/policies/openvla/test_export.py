"""Trained agents as files: what is written acts as what was trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marlcore.policies.openvla import export_actors, make_tiny_checkpoint, open_checkpoint
from tests.policies.openvla.helpers import build, stir, vla_config

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("share", [True, False])
def test_a_merged_export_is_a_checkpoint_that_acts_the_same(share: bool, tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path / "base", proprio_size=2)
    settings = {"share_policy": share, "pretrained_checkpoint": str(tmp_path / "base")}
    policy, actors, observations = build(vla_config("mappo", policy=settings))
    stir(policy)
    with torch.no_grad():
        actors.log_std[:, 0] = 9.0  # beyond its ceiling, where the policy acts as at the ceiling
    source = open_checkpoint(str(tmp_path / "base"))
    places = export_actors(actors, tmp_path / "out", num_steps=640, source=source)
    expected = policy.get_actions(observations)
    for agent, place in enumerate(places):
        again, other, _ = build(vla_config("mappo", policy={"pretrained_checkpoint": str(place)}))
        actions = again.get_actions(observations)
        rows = slice(None) if share else agent
        torch.testing.assert_close(actions[:, rows], expected[:, rows], rtol=0.05, atol=0.1)
        assert (place / "action_head--640_checkpoint.pt").is_file()
        assert json.loads((place / "log_std.json").read_text())["log_std"][0] == 0.0
        assert other.heads[0].action_dim == 7
        statistics = open_checkpoint(str(place)).statistics(None)
        assert statistics.action.q99.tolist() == [1.0] * 7
        assert statistics.proprio is not None
        assert statistics.proprio.q99.tolist() == actors.proprio_quantiles.q99.tolist()
    assert len(places) == (1 if share else 2)
    with pytest.raises(ValueError, match="not empty; name another folder"):
        export_actors(actors, tmp_path / "out", num_steps=640, source=None)


def test_adapters_of_an_export_are_what_a_run_can_begin_with(tmp_path: Path) -> None:
    """In float32 nothing is rounded: the adapter merged again gives the very policy."""
    make_tiny_checkpoint(tmp_path / "base", proprio_size=2)
    base = {"pretrained_checkpoint": str(tmp_path / "base")}
    policy, actors, observations = build(vla_config("mappo", policy=base))
    with torch.no_grad():
        for name, parameter in actors.named_parameters():
            if ".lora_" in name:
                parameter += 0.05
    (place,) = export_actors(actors, tmp_path / "out", num_steps=1, source=None)
    assert not list(place.glob("*.safetensors"))
    begun = {**base, "pretrained_adapter": str(place / "lora_adapter")}
    again, _, _ = build(vla_config("mappo", policy=begun))
    torch.testing.assert_close(
        again.get_actions(observations), policy.get_actions(observations), rtol=1e-4, atol=1e-4
    )


def test_the_parts_of_a_chained_agent_are_named(tmp_path: Path) -> None:
    _, actors, _ = build(vla_config("acppo", policy={"share_policy": False, "lora_layers": 0}))
    first, second = export_actors(actors, tmp_path / "out", num_steps=2, source=None)
    names = [sorted(path.name for path in place.iterdir()) for place in (first, second)]
    assert "proprio_projector--2_checkpoint.pt" in names[0]
    assert "proprio_projector_extended--2_checkpoint.pt" in names[1]
    assert not any("lora_adapter" in part for part in names)


def test_only_openvla_runs_have_such_a_layout(tmp_path: Path) -> None:
    words = ["with", "env.kind=fake", "num_steps_per_rollout=8", "total_timesteps=16"]
    environment = {"MARL_RUNS_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}

    def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, f"experiments/{name}.py", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )

    assert script("mappo", "--id", "one", *words, "logging.video=false").returncode == 0
    refused = script("export", "one", str(tmp_path / "out"))
    assert refused.returncode == 2
    assert "is of policy.kind=mlp; only openvla has a layout" in refused.stderr
    assert script("export", "one").returncode == 2
    assert script("export", "--help").returncode == 0
