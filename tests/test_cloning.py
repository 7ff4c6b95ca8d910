"""Actors fitted to demonstrations: draws, the loss, whole runs, resumption, PPO after it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import collect_demos, finetune
from experiments._build import load_actors
from experiments._experiment import commandline
from experiments._script import find_script
from experiments.tracking.read import read_series
from marlcore.checkpoint import load_checkpoint
from marlcore.cloning import Demonstrations
from marlcore.config import PegInHoleConfig
from marlcore.envs import demonstrations
from marlcore.envs.make import make_decision_env

SMALL = [
    "two_arm_state",
    *("num_envs=4", "num_workers=0", "num_env_groups=1", "num_steps_per_rollout=25"),
    *("num_minibatches=2", "hidden_sizes=[32]", "critic_hidden_sizes=[8]", "lr_decay=false"),
    *("num_eval_episodes=1", "max_episode_steps=100", "video=false"),
]


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos") / "state"
    assert collect_demos.main([str(folder), "--episodes", "4", "--hold", "5"]) == 0
    return folder


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def losses(run: Path) -> list[float]:
    return read_series(run)["update/cloning_loss"].values


def test_a_decision_has_the_history_and_the_chunk_that_were_there(demos: Path) -> None:
    config = PegInHoleConfig(num_actions_chunk=4, executed_length=2, history_length=3)
    with closing(make_decision_env(config, seed=0, index=0)) as env:
        source = Demonstrations(demos, env.spec, spacing=2)
    episodes = [demonstrations.read_episode(path) for path in demonstrations.episodes_of(demos)]
    lengths = [len(episode["actions"]) for episode in episodes]
    assert (source.num_episodes, source.num_decisions) == (4, sum(lengths))
    first, second = episodes[:2]
    seen, actions, length, reward = source.decision(lengths[0] + 5)  # step 5 of the second episode
    for age in range(3):
        np.testing.assert_array_equal(seen["vector"][:, age], second["vector"][5 - 2 * age])
        np.testing.assert_array_equal(seen["state"][age], second["state"][5 - 2 * age])
    np.testing.assert_array_equal(actions, second["actions"][5:9].swapaxes(0, 1))
    assert (length, reward) == (4, pytest.approx(second["rewards"][5:9].sum()))
    seen, _, _, _ = source.decision(1)
    np.testing.assert_array_equal(seen["vector"][:, 2], first["vector"][0])  # as after a reset
    _, actions, length, _ = source.decision(lengths[0] - 1)
    assert length == 1  # what lies behind the episode's end is no label
    np.testing.assert_array_equal(actions[:, 0], first["actions"][-1])


def test_cloned_actors_come_nearer_and_a_resumed_run_is_the_same(demos: Path, runs: Path) -> None:
    words = ["with", *SMALL, "total_timesteps=8000", "checkpoint_every=4000"]
    for script in ("mappo", "acppo"):
        options = ["--script", script, "--id", f"{script}-whole"]
        assert finetune.main([str(demos), *words, *options]) == 0
        found = losses(runs / f"{script}-whole")
        assert len(found) == 80 and found[-1] < 0.6 * found[0]
    half = [word.replace("total_timesteps=8000", "total_timesteps=4000") for word in words]
    assert finetune.main([str(demos), *half, "--id", "half"]) == 0
    assert commandline(find_script("acppo"), ["with", "resume=half", "total_timesteps=8000"]) == 0
    assert losses(runs / "half") == losses(runs / "acppo-whole")
    device = torch.device("cpu")
    whole, resumed = (
        load_checkpoint(runs / name / "checkpoint_8000", device).policy
        for name in ("acppo-whole", "half")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ppo_starts_from_cloned_actors_and_from_no_others(
    demos: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "total_timesteps=2000"]
    assert finetune.main([str(demos), "with", *words, "--script", "mappo", "--id", "cloned"]) == 0
    more = ["start_from=cloned", "total_timesteps=100", "actor_lr=1e-12"]
    mappo = find_script("mappo")
    assert commandline(mappo, ["--id", "next", "with", *SMALL, *more]) == 0
    device = torch.device("cpu")
    (first,) = (runs / "cloned").glob("checkpoint_2*")
    before = load_checkpoint(first, device).policy
    after = load_checkpoint(runs / "next" / "checkpoint_100", device).policy
    weights = [name for name in before if name.startswith("actors.network")]
    assert weights
    for name in weights:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    critics = [name for name in before if name.startswith("critics.") and "weights" in name]
    assert any(not torch.equal(after[name], before[name]) for name in critics)
    capsys.readouterr()
    assert commandline(find_script("acppo"), ["with", *SMALL, *more]) == 2
    assert "the actors of" in capsys.readouterr().err
    assert commandline(mappo, ["with", *SMALL, "start_from=nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


@pytest.mark.slow
def test_openvla_is_fitted_to_pictures_and_ppo_starts_from_it(tmp_path: Path, runs: Path) -> None:
    folder = tmp_path / "pictures"
    settings = ["with", "openvla_tiny", "render_quality=lite", "num_eval_episodes=1", "video=false"]
    long = [*settings, "max_episode_steps=150"]  # the script needs up to a hundred
    assert collect_demos.main([str(folder), "--episodes", "1", "--hold", "3", *long]) == 0
    rates = ["total_timesteps=2400", "actor_lr=2e-3", "num_minibatches=2"]
    assert finetune.main([str(folder), "--id", "vla", *settings, *rates]) == 0
    found = losses(runs / "vla")
    assert np.mean(found[-3:]) < 0.4 * found[0]
    more = ["total_timesteps=160", "start_from=vla"]
    assert commandline(find_script("acppo"), ["--id", "after", *settings, *more]) == 0
    assert read_series(runs / "after")["update/policy_loss"].values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env.observations=proprio"], "with the same env.observations"),
        (["clip_epsilon=0.1"], "algorithm.clip_epsilon would be ignored"),
        (["stop_success_rate=0.5"], "training.stop_success_rate would be ignored"),
        (["env.kind=fake"], "are of env.kind=peg_in_hole"),
    ],
)
def test_what_does_not_fit_the_demonstrations_is_refused(
    demos: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["num_envs=2", "num_workers=0", "num_steps_per_rollout=4", "num_minibatches=1"]
    assert finetune.main([str(demos), "with", *rest, *words]) == 2
    assert message in capsys.readouterr().err


def test_wrong_command_lines_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        ([], "required"),
        ([str(tmp_path), "seed=1"], "write `with`"),
        ([str(tmp_path), "--script", "apo"], "did you mean experiments/acppo.py"),
        ([str(tmp_path), "with", "num_workers=0", "num_envs=2"], "holds no demonstrations"),
    ):
        assert finetune.main(words) == 2
        assert message in capsys.readouterr().err


def test_actors_of_a_damaged_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        load_actors(torch.nn.Module(), tmp_path / "checkpoint_1", torch.device("cpu"))  # type: ignore[arg-type]


def test_the_record_says_what_was_fitted(demos: Path, runs: Path) -> None:
    words = ["with", *SMALL, "total_timesteps=200"]
    assert finetune.main([str(demos), *words, "--id", "short"]) == 0
    config = json.loads((runs / "short" / "config.json").read_text())
    assert config["training"]["demonstrations"] == str(demos)
    assert set(read_series(runs / "short")) >= {"update/cloning_loss", "update/grad_norm_actor"}
