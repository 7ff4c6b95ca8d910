from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from experiments._build import make_environments
from marlcore.evaluation import evaluate, record_video
from tests.factories import CPU, make_config, make_trainer


@pytest.mark.parametrize("num_episodes", [1, 3, 8, 9])
def test_exactly_the_wanted_episodes_are_counted_evenly_over_environments(
    num_episodes: int,
) -> None:
    config = make_config()
    with make_trainer(config) as trainer:
        env = make_environments(config, seed=5, num_envs=4)
        with contextlib.closing(env):
            result = evaluate(
                trainer.policy, env, num_episodes=num_episodes, noise=None, device=CPU
            )
    assert len(result.episodes) == num_episodes
    counts = [sum(e.env_index == i for e in result.episodes) for i in range(4)]
    assert max(counts) - min(counts) <= 1
    assert result.metrics()["eval/num_episodes"] == num_episodes


def test_a_deterministic_evaluation_repeats_itself_whatever_the_workers() -> None:
    results = []
    for num_workers in (0, 0, 2):
        config = make_config(training={"num_workers": num_workers})
        with make_trainer(config) as trainer:
            env = make_environments(config, seed=5, num_envs=4)
            with contextlib.closing(env):
                results.append(
                    evaluate(trainer.policy, env, num_episodes=6, noise=None, device=CPU)
                )
    assert results[0] == results[1] == results[2]


def test_a_video_is_a_playable_file_of_the_whole_episode(tmp_path: Path) -> None:
    config = make_config()
    path = tmp_path / "video.mp4"
    with make_trainer(config) as trainer:
        env = make_environments(config, seed=5, num_envs=1)
        with contextlib.closing(env):
            episode = record_video(trainer.policy, env, path, device=CPU, max_episodes=1)
    probe = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"frame={episode.length:5d}" in probe.stderr
    assert "h264" in probe.stderr


def test_a_task_without_success_has_no_success_rate() -> None:
    config = make_config(
        "mappo", env={"kind": "game", "game": "sum_coordination", "max_episode_steps": 1}
    )
    with make_trainer(config) as trainer:
        env = make_environments(config, seed=5, num_envs=2)
        with contextlib.closing(env):
            result = evaluate(trainer.policy, env, num_episodes=2, noise=None, device=CPU)
    assert "eval/success_rate" not in result.metrics()
