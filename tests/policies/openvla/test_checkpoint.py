"""Checkpoints: what is found, what is fresh, and precise words for what does not fit."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from marlcore.policies.openvla.adapters import Adapters, load_adapter, merge_adapters
from marlcore.policies.openvla.checkpoint import (
    load_action_head,
    load_model,
    load_proprio_projector,
    open_checkpoint,
)
from marlcore.policies.openvla.prompts import PromptTokenizer
from marlcore.policies.openvla.tiny import TINY, make_tiny_checkpoint, random_model
from tests.policies.openvla.helpers import CPU

SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def load(folder: Path | str) -> Any:
    return load_model(open_checkpoint(str(folder)), device=CPU, dtype=torch.float32)


def change_shard(folder: Path, change: Any) -> None:
    tensors = load_file(folder / SHARD)
    change(tensors)
    save_file(tensors, folder / SHARD)


def change_index(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors.index.json"
    document = json.loads(path.read_text())
    change(document["weight_map"])
    path.write_text(json.dumps(document))


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_tiny_checkpoint(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    for name in files:
        if not name.endswith(".pt"):  # zip files hold their own name
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert "action_head--1_checkpoint.pt" in files
    assert len([name for name in files if name.endswith(".safetensors")]) == 2


def test_weights_arrive_as_written_and_frozen(folder: Path) -> None:
    model = load(folder)
    written = {n: t for part in folder.glob("*.safetensors") for n, t in load_file(part).items()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, written[name].float()), name
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_one_file_without_an_index_will_do(folder: Path) -> None:
    parts = sorted(folder.glob("*.safetensors"))
    whole = {name: tensor for part in parts for name, tensor in load_file(part).items()}
    for part in parts:
        part.unlink()
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"no model\.safetensors and no index"):
        load(folder)
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="pickled weights are not read: convert"):
        load(folder)
    save_file(whole, folder / "model.safetensors")
    load(folder)


NORM = "language_model.model.norm.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop(NORM), f"1 missing: {NORM}"),
        (lambda weights: weights.update(surprise=SHARD), "lacks surprise"),
        (
            lambda weights: weights.update({NORM: "model-9.safetensors"}),
            r"model-9\.safetensors is missing",
        ),
    ],
)
def test_an_index_that_promises_something_else_is_refused(
    folder: Path, change: Any, words: str
) -> None:
    change_index(folder, change)
    with pytest.raises(ValueError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("preprocessor_config.json", lambda d: d.pop("means"), "names no means and stds"),
        ("config.json", lambda d: d["text_config"].update(num_hidden_layers="3"), "'3'"),
        ("config.json", lambda d: d["text_config"].update(num_attention_heads=5), "heads 5"),
    ],
)
def test_descriptions_that_make_no_model_are_refused(
    folder: Path, file: str, change: Any, words: str
) -> None:
    document = json.loads((folder / file).read_text())
    change(document)
    (folder / file).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=words):
        open_checkpoint(str(folder))


def test_weights_that_are_no_numbers_are_named(folder: Path) -> None:
    change_shard(folder, lambda tensors: tensors[NORM].fill_(float("nan")))
    with pytest.raises(ValueError, match=f"NaN or infinite weights in {NORM}"):
        load(folder)


def test_a_tensor_that_no_index_names_is_refused(folder: Path) -> None:
    change_shard(folder, lambda tensors: tensors.update(surprise=torch.zeros(1)))
    with pytest.raises(ValueError, match="holds surprise, which no index names"):
        load(folder)


def test_a_tokenizer_that_cannot_spell_the_prompt_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    model = document["model"]
    model["vocab"] = {k: v for k, v in model["vocab"].items() if v < 3}
    model["merges"] = []
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="another model's tokenizer"):
        PromptTokenizer(path).ids("lift")


def test_every_tensor_that_does_not_fit_is_named(folder: Path) -> None:
    first = "language_model.model.layers.0.mlp.up_proj.weight"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["surprise"] = torch.zeros(1)
        tensors[first] = torch.zeros(3, 4)

    change_shard(folder, change)
    change_index(folder, lambda weights: (weights.update(surprise=SHARD), weights.pop(NORM)))
    with pytest.raises(ValueError) as refused:
        load(folder)
    assert f"1 missing: {NORM}" in str(refused.value)
    assert "1 too many: surprise" in str(refused.value)
    assert f"{first} is [3, 4], expected [176, 64]" in str(refused.value)


def test_a_shard_that_was_cut_is_named(folder: Path) -> None:
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{SHARD} is damaged"):
        load(folder)


def test_a_wrong_place_is_refused_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    for name, words in {
        str(tmp_path / "nowhere"): "there is no folder",
        str(folder / "config.json"): "is a file",
        str(tmp_path): r"there is no .*config\.json",
    }.items():
        with pytest.raises(ValueError, match=words):
            open_checkpoint(name)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ValueError, match="model_type is 'llava', not 'openvla'"):
        open_checkpoint(str(folder))
    (folder / "config.json").write_text("not json")
    with pytest.raises(ValueError, match="is no JSON"):
        open_checkpoint(str(folder))


def test_without_a_network_a_hub_id_says_how_to_bring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(ValueError, match="hf download nobody/nothing --local-dir"):
        open_checkpoint("nobody/nothing")


def test_components_are_found_by_name_and_the_longest_trained_wins(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    head = load_action_head(opened, 6)
    assert head is not None
    assert head.action_dim == 7
    state = torch.load(folder / "action_head--1_checkpoint.pt", weights_only=True)
    state["module.model.fc2.bias"] += 1.0
    torch.save(state, folder / "action_head--20_checkpoint.pt")
    later = load_action_head(opened, 6)
    assert later is not None
    assert torch.equal(later.model.fc2.bias, head.model.fc2.bias + 1.0)
    state["module.model.fc2.bias"] += 1.0  # what is saved without numbers is the newest
    torch.save(state, folder / "action_head--latest_checkpoint.pt")
    latest = load_action_head(opened, 6)
    assert latest is not None
    torch.testing.assert_close(latest.model.fc2.bias, head.model.fc2.bias + 2.0)
    with pytest.raises(ValueError, match="gives 7 values a step, and the environment takes 8"):
        load_action_head(opened, 8)
    with pytest.raises(ValueError, match=r"fc1\.weight is \[64, 8\], expected \[64, 9\]"):
        load_proprio_projector(opened, 9)


@pytest.mark.parametrize("name", ["action_head.pt", "action_head--final.pt"])
def test_a_component_of_another_name_is_not_passed_over(folder: Path, name: str) -> None:
    (folder / "action_head--1_checkpoint.pt").rename(folder / name)
    with pytest.raises(ValueError, match="name it action_head--1_checkpoint"):
        load_action_head(open_checkpoint(str(folder)), 6)


def test_a_component_that_is_no_state_dict_is_refused(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    path = folder / "action_head--1_checkpoint.pt"
    torch.save({"module.model.fc2.bias": torch.nn.Linear(1, 1)}, path)  # would run code
    with pytest.raises(ValueError, match="damaged or no plain state dict"):
        load_action_head(opened, 6)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged or no plain state dict"):
        load_action_head(opened, 6)


def test_the_base_model_has_no_components(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, fine_tuned=False)
    opened = open_checkpoint(str(tmp_path))
    assert load_action_head(opened, 6) is None
    assert load_proprio_projector(opened, 8) is None
    load(tmp_path)


def test_statistics_are_those_of_the_named_data_set(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    assert opened.statistics(None).action.q99.tolist() == [1.0] * 7
    path = folder / "dataset_statistics.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "other": document["tiny"]}))
    with pytest.raises(ValueError, match=r"unnorm_key names none.*other, tiny"):
        opened.statistics(None)
    with pytest.raises(ValueError, match=r"no data set 'thrid'.*other, tiny"):
        opened.statistics("thrid")
    path.unlink()  # the base model has them in config.json
    assert opened.statistics("tiny").proprio is not None


def test_a_model_of_any_size_is_made_on_a_device() -> None:
    model = random_model(device=CPU, dtype=torch.bfloat16, shape=TINY)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        features = model.image_features(torch.zeros(1, 6, 56, 56))
    assert 0.1 < features.float().std() < 10
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32


def adapters_of(model: Any, names: list[str], **changes: Any) -> Adapters:
    settings: dict[str, Any] = {
        "rank": 2,
        "alpha": 3.0,
        "num_layers": 2,
        "targets": r"self_attn\.[qv]_proj|mlp\.up_proj",
        **changes,
    }
    return Adapters(
        model.language_model, names, generator=torch.Generator().manual_seed(1), **settings
    )


@pytest.mark.parametrize("names", [["shared"], ["agent_0", "agent_1"]])
def test_trained_adapters_are_saved_loaded_and_merged(names: list[str], tmp_path: Path) -> None:
    model = random_model(device=CPU, dtype=torch.float32, shape=TINY)
    adapters = adapters_of(model, names)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == len(names) * 2 * 3 * 2  # layers, maps, A and B
    assert all(p.dtype == torch.float32 for p in trained.values())
    assert all("layers.1." in n or "layers.2." in n for n in trained)
    with torch.no_grad():
        for number, parameter in enumerate(trained.values()):
            parameter.add_(0.05 * (1 + number % 3))
    for name in names:
        adapters.save(name, tmp_path / name)
    x = torch.randn(len(names), 5, TINY.hidden_size)
    with torch.no_grad(), adapters.scope(names):
        expected = model.language_model(x, None)
    for row, name in enumerate(names):
        place = tmp_path / name
        again = random_model(device=CPU, dtype=torch.float32, shape=TINY)
        plain = again.language_model(x[row : row + 1], None)
        load_adapter(again, place)
        loaded = again.language_model(x[row : row + 1], None)
        torch.testing.assert_close(loaded[0], expected[row])
        assert (loaded - plain).abs().max() > 1e-3
        merge_adapters(again)
        torch.testing.assert_close(again.language_model(x[row : row + 1], None), loaded)
        assert not any("lora" in key for key in again.state_dict())


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = random_model(device=CPU, dtype=torch.float32, shape=TINY)
    adapters_of(model, ["shared"]).save("shared", tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(key for key in tensors if "layers.2.mlp.up_proj.lora_A" in key)
    save_file(
        {k: v for k, v in tensors.items() if k != name}, tmp_path / "adapter_model.safetensors"
    )
    again = random_model(device=CPU, dtype=torch.float32, shape=TINY)
    with pytest.raises(
        ValueError, match=r"does not fit:\n1 missing: .*layers\.2\.mlp\.up_proj\.lora_A"
    ):
        load_adapter(again, tmp_path)
    shutil.copy(tmp_path / "adapter_config.json", tmp_path / "x")
    with pytest.raises(ValueError, match="there is no"):
        load_adapter(again, tmp_path / "nowhere")


def test_targets_that_match_nothing_are_refused() -> None:
    model = random_model(device=CPU, dtype=torch.float32, shape=TINY)
    with pytest.raises(ValueError, match="matches no linear map"):
        adapters_of(model, ["shared"], targets="attention")
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="lora_layers=9, and the trunk has 3 layers"):
        adapters_of(model, ["shared"], num_layers=9)
    adapters_of(model, ["shared"], num_layers=0)
    assert not any(p.requires_grad for p in model.parameters())
