"""Demonstrations from the command line: collected, gone on with, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import collect_demos
from marlcore.envs import demonstrations


def test_demonstrations_are_collected_where_they_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demos"
    words = [str(folder), "--hold", "3", "with", "max_episode_steps=150"]
    assert collect_demos.main([*words, "--episodes", "2"]) == 0
    first, second = demonstrations.episodes_of(folder)
    before = demonstrations.read_episode(second)
    assert before["success"][-3:].all() and not before["success"][:-4].all()
    first_written = first.stat().st_mtime_ns
    second.unlink()
    assert collect_demos.main([*words, "--episodes", "2"]) == 0
    assert "1 episodes, 1 were there" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == first_written
    for name, array in demonstrations.read_episode(second).items():
        np.testing.assert_array_equal(array, before[name])  # an episode depends on seed and number


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episodes", "0"], "--episodes 0 is refused"),
        (["--noise", "-1"], "--noise -1.0 is refused"),
        (["--noise", "nan"], "--noise nan is refused"),
        (["seed=3"], "write `with`"),
        (["with", "env.kind=fake"], "TwoArmPegInHole alone"),
        (["with", "env.kamera=x"], "env.kamera"),
        (["with", "max_episode_steps=5"], "give it more env steps"),
    ],
)
def test_what_cannot_be_collected_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect_demos.main([str(tmp_path / "demos"), *words]) == 2
    assert message in capsys.readouterr().err
