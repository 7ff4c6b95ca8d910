# pyright: basic
"""Tensors from files into modules, and precise words for what does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from marlcore.policies.openvla.folder import WAY_OUT, read_json

_MOST_NAMED = 20
_SHARD_BYTES = 5 * 10**9
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shards:
    """Tensors by name in the safetensors files of a folder."""

    folder: Path
    files: Mapping[str, str]
    """Tensor name -> file name."""

    def shapes(self) -> dict[str, Shape]:
        """Return every tensor's shape, without reading it.

        Raises:
            ValueError: if a file is missing, damaged, or lacks a tensor the index promises.
        """
        found: dict[str, Shape] = {}
        for _, file, names in self._open("cpu"):
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
        return found

    def unlisted(self) -> list[str]:
        """Return the tensors of these files that the index does not name."""
        held = (set(file.keys()) for _, file, _ in self._open("cpu"))
        return sorted(set().union(*held) - self.files.keys())

    def tensors(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor on a device, file by file."""
        for path, file, names in self._open(str(device)):
            for name in names:
                try:
                    yield name, cast(Tensor, file.get_tensor(name))
                except SafetensorError as error:
                    raise ValueError(f"{path} is damaged: {error}") from error

    def _open(self, device: str) -> Iterator[tuple[Path, Any, list[str]]]:
        for file_name in sorted(set(self.files.values())):
            path = self.folder / file_name
            if not path.is_file():
                raise ValueError(f"{path} is missing; the index names it: fetch it again")
            try:
                with safe_open(path, framework="pt", device=device) as file:
                    wanted = [name for name, where in self.files.items() if where == file_name]
                    absent = sorted(set(wanted) - set(file.keys()))
                    if absent:
                        raise ValueError(f"{path} lacks {_listed(absent)}, which the index names")
                    yield path, file, wanted
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged: {error}") from error


def find_shards(folder: Path) -> Shards:
    """Return the weights of a folder, by its index or in its one file.

    Raises:
        ValueError: if there are none.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index} has no weight_map")
        return Shards(folder, cast(dict[str, str], weight_map))
    single = folder / "model.safetensors"
    if not single.is_file():
        pickled = any(folder.glob("pytorch_model*.bin"))
        hint = "; its pickled weights are not read: convert them to safetensors" if pickled else ""
        raise ValueError(
            f"{folder} has no model.safetensors and no index of shards{hint or '; '}"
            + ("" if pickled else WAY_OUT)
        )
    return Shards(folder, dict.fromkeys(_names(single), single.name))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of one file, on the CPU.

    Raises:
        ValueError: if it is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    return dict(
        Shards(path.parent, dict.fromkeys(_names(path), path.name)).tensors(torch.device("cpu"))
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `torch.save`d state dict; DDP's prefix `module.` is dropped.

    Nothing but tensors is unpickled.

    Raises:
        ValueError: if it holds anything else or is damaged.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch each raise their own
        first = str(error).partition("\n")[0].partition(" (1)")[0]
        raise ValueError(f"{path} is damaged or no plain state dict: {first}") from error
    values = loaded.values() if isinstance(loaded, dict) else [None]
    if not all(isinstance(value, Tensor) for value in values):
        raise ValueError(f"{path} holds no state dict")
    state = cast(dict[str, Tensor], loaded)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def faults(wanted: Mapping[str, Shape], given: Mapping[str, Shape]) -> list[str]:
    """Say which tensors are missing, too many or of another shape."""
    missing = sorted(wanted.keys() - given.keys())
    extra = sorted(given.keys() - wanted.keys())
    shapes = [
        f"{name} is {list(given[name])}, expected {list(wanted[name])}"
        for name in sorted(wanted.keys() & given.keys())
        if wanted[name] != given[name]
    ]
    return [
        f"{len(names)} {what}: {_listed(names)}"
        for what, names in (("missing", missing), ("too many", extra), ("of another shape", shapes))
        if names
    ]


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy a state dict into a module, strictly.

    Raises:
        ValueError: naming each tensor that is missing, too many or of another shape.
    """
    wanted = shapes_of(module.state_dict())
    found = faults(wanted, shapes_of(state))
    if found:
        raise ValueError("\n".join([f"{source} does not fit:", *found]))
    refuse_non_finite(state, source)
    module.load_state_dict(state)


def refuse_non_finite(state: Mapping[str, Tensor], source: Path) -> None:
    """Check that weights are numbers.

    Raises:
        ValueError: naming each tensor with a NaN or an infinity.
    """
    bad = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ValueError(f"{source} holds NaN or infinite weights in {_listed(bad)}")


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return each tensor's shape."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    rest = len(names) - _MOST_NAMED
    return f"{shown} and {rest} more" if rest > 0 else shown


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write an object as JSON."""
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def write_shards(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors in the published layout: shards and their index.

    A model of any size has two shards at least, so that every reader follows the index.
    """
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    total = sum(sizes.values())
    limit = min(_SHARD_BYTES, int(0.6 * total))
    parts: list[list[str]] = [[]]
    room = limit
    for name in sorted(state):
        if parts[-1] and sizes[name] > room:
            parts.append([])
            room = limit
        parts[-1].append(name)
        room -= sizes[name]
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file_name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = {name: state[name].contiguous() for name in part}
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file_name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
