from __future__ import annotations

from pathlib import Path

import pytest
import torch

from marlcore.checkpoint import (
    CheckpointStore,
    DamagedCheckpointError,
    TrainState,
    load_checkpoint,
    load_first_good,
    load_optimiser_tensors,
    numbered_checkpoints,
    optimiser_tensors,
    save_checkpoint,
)
from tests.factories import CPU


def make_state(value: float = 1.0) -> TrainState:
    return TrainState(
        policy={"weight": torch.full((3,), value), "empty": torch.zeros(0, 2)},
        training={"generator/actions": torch.Generator().get_state()},
        progress={"env_steps": int(value), "best_score": None},
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    state = make_state()
    save_checkpoint(tmp_path / "checkpoint_1", state)
    loaded = load_checkpoint(tmp_path / "checkpoint_1", CPU)
    assert loaded.progress == state.progress
    for mine, theirs in ((loaded.policy, state.policy), (loaded.training, state.training)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("name", ["policy.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    directory = tmp_path / "checkpoint_1"
    save_checkpoint(directory, make_state())
    path = directory / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[-1] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-4])
    with pytest.raises(DamagedCheckpointError, match=name):
        load_checkpoint(directory, CPU)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99, "sha256": {}}'])
def test_a_manifest_that_makes_no_sense_is_damage(tmp_path: Path, content: str) -> None:
    directory = tmp_path / "checkpoint_1"
    save_checkpoint(directory, make_state())
    (directory / "manifest.json").write_text(content)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json"):
        load_checkpoint(directory, CPU)


def test_an_interrupted_write_leaves_the_older_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "checkpoint_1"
    save_checkpoint(directory, make_state(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("marlcore.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(directory, make_state(2))
    assert load_checkpoint(directory, CPU).progress["env_steps"] == 1
    assert numbered_checkpoints(tmp_path) == [directory]


def test_the_newest_few_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for env_steps in (100, 900, 1000, 2000):
        store.save(make_state(env_steps), env_steps=env_steps, is_best=env_steps == 900)
    assert [p.name for p in store.newest_first()] == ["checkpoint_2000", "checkpoint_1000"]
    assert load_checkpoint(store.best, CPU).progress["env_steps"] == 900


def test_the_first_whole_checkpoint_is_used_and_the_damaged_are_told(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for env_steps in (1, 2):
        store.save(make_state(env_steps), env_steps=env_steps, is_best=False)
    (tmp_path / "checkpoint_2" / "policy.safetensors").write_bytes(b"x")
    path, state, faults = load_first_good(store.newest_first(), CPU)
    assert path.name == "checkpoint_1"
    assert state.progress["env_steps"] == 1
    assert "checkpoint_2" in str(faults[0])
    (tmp_path / "checkpoint_1" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"(?s)no checkpoint.*checkpoint_2.*checkpoint_1"):
        load_first_good(store.newest_first(), CPU)


def test_an_optimiser_goes_on_as_if_nothing_had_happened() -> None:
    def run(
        steps: int, tensors: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict]:
        parameter = torch.nn.Parameter(start.clone())
        optimiser = torch.optim.Adam([parameter], lr=0.1)
        if tensors is not None:
            load_optimiser_tensors({"ppo": optimiser}, tensors)
        for _ in range(steps):
            optimiser.zero_grad()
            parameter.pow(2).sum().backward()
            optimiser.step()
        return parameter.detach(), optimiser_tensors({"ppo": optimiser})

    start = torch.tensor([1.0, -2.0])
    four, _ = run(4)
    start_again, saved = run(2)
    start = start_again
    two_more, _ = run(2, saved)
    assert torch.equal(four, two_more)


def test_an_optimiser_of_another_shape_of_run_is_refused() -> None:
    one, two = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimiser = torch.optim.Adam([one])
    one.sum().backward()
    optimiser.step()
    with pytest.raises(ValueError, match="configuration it was made with"):
        load_optimiser_tensors(
            {"ppo": torch.optim.Adam([one, two])}, optimiser_tensors({"ppo": optimiser})
        )
