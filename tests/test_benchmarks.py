"""Benchmarks can be started: what they import is there, and what they compare can be listed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks import _report, learning, training

BENCHMARKS = Path(training.__file__).parent
OURS = sorted(p.stem for p in BENCHMARKS.glob("*.py") if not p.stem.startswith("_peer"))


@pytest.mark.parametrize("name", OURS)
def test_it_can_be_imported(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    assert name.startswith("_") or callable(module.main)


def test_contestants_beside_peers_and_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_report, "PEERS", tmp_path)
    assert [one.is_peer for one in learning.contestants()] == [False]
    for name in ("sb3", "benchmarl"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    listed = [*training.peg_in_hole(), *training.simple_spread(), *learning.contestants()]
    assert len({one.name for one in listed if one.is_peer}) == 6
    assert all((BENCHMARKS / one.script).exists() for one in listed)
