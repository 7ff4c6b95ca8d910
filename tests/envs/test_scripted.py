"""The script puts the peg into the hole; its demonstrations say what happened."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marlcore.config import PegInHoleConfig
from marlcore.envs import demonstrations
from marlcore.envs.peg_in_hole import PegInHoleEnv


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"arrangement": "parallel"},
        {"robots": ("Sawyer", "Sawyer")},
        {"robots": ("UR5e", "UR5e"), "arrangement": "parallel"},
    ],
    ids=["Panda", "parallel", "Sawyer", "UR5e"],
)
def test_the_script_holds_the_peg_in_the_hole(case: dict[str, Any]) -> None:
    with closing(PegInHoleEnv(PegInHoleConfig(reward="dense", **case), seed=0)) as env:
        episodes = [
            demonstrations.record_episode(env, seed=seed, noise=0.0, num_steps=200, num_after=20)
            for seed in range(10)
        ]
    assert sum(bool(episode["success"][-20:].all()) for episode in episodes) >= 9
    # robosuite's dense reward is at most 1; PPO on it ends at 0.74 an env step, beside the hole
    assert max(float(episode["rewards"][-1]) for episode in episodes) > 0.95


def test_an_episode_is_repeated_by_its_actions_and_holds_what_was_seen(tmp_path: Path) -> None:
    config = PegInHoleConfig(cameras=("frontview",), image_size=16, render_quality="lite")
    with closing(PegInHoleEnv(config, seed=0)) as env:
        arguments = {"seed": 5, "noise": 0.1, "num_steps": 12, "num_after": 20}
        episode = demonstrations.record_episode(env, **arguments)
        assert set(episode) == {
            *env.spec.observation_shapes,
            *("actions", "executed", "rewards", "success"),
        }
        assert {len(array) for array in episode.values()} == {12}
        assert np.abs(episode["executed"] - episode["actions"]).std() > 0.03
        assert np.abs(episode["executed"]).max() <= 1
        env.reset(5)
        for step in range(12):
            for name, array in env.observe().items():
                np.testing.assert_array_equal(array, episode[name][step])
            assert (
                np.float32(env.step(episode["executed"][step]).reward) == episode["rewards"][step]
            )
        meta = demonstrations.describe(config, env.spec, seed=0, noise=0.1)
    demonstrations.write_meta(tmp_path / "demos", meta)
    demonstrations.write_meta(tmp_path / "demos", meta)
    path = demonstrations.episode_path(tmp_path / "demos", 0)
    demonstrations.write_episode(path, episode)
    assert demonstrations.episodes_of(tmp_path / "demos") == [path]
    for name, array in demonstrations.read_episode(path).items():
        np.testing.assert_array_equal(array, episode[name])


def test_what_is_no_demonstration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make some by"):
        demonstrations.read_meta(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        demonstrations.write_meta(tmp_path, {"format": 1})
    (tmp_path / "meta.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match="is not of format 1"):
        demonstrations.read_meta(tmp_path)
    (tmp_path / "meta.json").write_text('{"format": 1, "noise": 0.1}')
    with pytest.raises(ValueError, match=r"other demonstrations \(unlike: noise"):
        demonstrations.write_meta(tmp_path, {"format": 1, "noise": 0.2})
    damaged = tmp_path / "episode_000000.npz"
    damaged.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match="remove it and collect it again"):
        demonstrations.read_episode(damaged)
