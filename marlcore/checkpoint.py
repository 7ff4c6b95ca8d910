"""Checkpoints: a directory of safetensors and JSON, written whole or not at all, checked when read.

    checkpoint_<env_steps>/
        policy.safetensors    weights and moments of the policy
        training.safetensors  optimisers, generators, environments
        state.json            progress
        manifest.json         sha256 of the others

Nothing is pickled. A directory appears by one rename after everything is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import (  # their PathLike has no type argument
    load_file,  # pyright: ignore[reportUnknownVariableType]
    save_file,  # pyright: ignore[reportUnknownVariableType]
)
from torch import Tensor

from marlcore.durable import patiently, sync

_FORMAT = 1
_FILES = ("policy.safetensors", "training.safetensors", "state.json")


class DamagedCheckpointError(ValueError):
    """A checkpoint whose files are missing, cut short or changed."""


@dataclass(frozen=True)
class TrainState:
    """All that a run is between two updates."""

    policy: dict[str, Tensor]
    training: dict[str, Tensor]
    progress: dict[str, object]
    """Plain JSON."""


def save_checkpoint(directory: Path, state: TrainState) -> None:
    """Write `state`: `directory` holds all of it or does not exist. An older one is replaced."""
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(temporary, state)
    except BaseException:  # of a full disk: what there is would only take space
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if directory.exists():
        outdated = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(outdated, ignore_errors=True)
        directory.rename(outdated)
        shutil.rmtree(outdated, ignore_errors=True)  # a reader may keep files open on NFS
    temporary.rename(directory)
    sync(directory.parent)


def _write(temporary: Path, state: TrainState) -> None:
    temporary.mkdir(parents=True)
    save_file(_storable(state.policy), temporary / "policy.safetensors")
    save_file(_storable(state.training), temporary / "training.safetensors")
    _write_json(temporary / "state.json", state.progress)
    sums = {name: _sha256(temporary / name) for name in _FILES}
    manifest = {"format": _FORMAT, "sha256": sums, "time": time.time()}
    _write_json(temporary / "manifest.json", manifest)
    for name in (*_FILES, "manifest.json"):
        sync(temporary / name)
    sync(temporary)


def saved_at(directory: Path) -> float | None:
    """When a checkpoint was written, in seconds since 1970; older versions did not say."""
    moment = _read_json(directory / "manifest.json").get("time")
    return moment if isinstance(moment, float) else None


def verify_checkpoint(directory: Path) -> None:
    """Check every file of a checkpoint against the manifest.

    Raises:
        DamagedCheckpointError: naming the file and what is wrong with it.
    """
    manifest = _read_json(directory / "manifest.json")
    sums = manifest.get("sha256")
    if manifest.get("format") != _FORMAT or not isinstance(sums, dict):
        raise DamagedCheckpointError(
            f"{directory / 'manifest.json'}: format {manifest.get('format')!r}, this version "
            f"reads format {_FORMAT}"
        )
    for name in _FILES:
        path = directory / name
        if not path.is_file():
            raise DamagedCheckpointError(f"{path} is missing")
        if _sha256(path) != sums.get(name):
            raise DamagedCheckpointError(f"{path} does not match its sha256 in manifest.json")


def load_checkpoint(directory: Path, device: torch.device) -> TrainState:
    """Read a checkpoint, every file checked against the manifest.

    Raises:
        DamagedCheckpointError: naming the file and what is wrong with it.
    """
    verify_checkpoint(directory)
    try:
        policy = load_file(directory / "policy.safetensors", device=str(device))
        training = load_file(directory / "training.safetensors", device="cpu")
    except SafetensorError as error:
        raise DamagedCheckpointError(f"{directory}: {error}") from error
    return TrainState(policy, training, _read_json(directory / "state.json"))


class CheckpointStore:
    """The checkpoints of one run: the newest few, and the best."""

    def __init__(self, run_directory: Path, *, keep: int) -> None:
        self._directory, self._keep = run_directory, keep

    def save(self, state: TrainState, *, env_steps: int, is_best: bool) -> Path:
        """Write `checkpoint_<env_steps>`, drop the oldest, and renew `checkpoint_best` if it is."""
        path = self._directory / f"checkpoint_{env_steps}"
        if is_best:  # first: a kill between the two is then made good by the resumed run
            self._save(self.best, state)
        self._save(path, state)
        for outdated in self.newest_first()[self._keep :]:
            shutil.rmtree(outdated, ignore_errors=True)
        return path

    @staticmethod
    def _save(path: Path, state: TrainState) -> None:
        """Save, waiting while the disk is full."""
        patiently(lambda: save_checkpoint(path, state), place=path, what=path.name)

    def drop_after(self, env_steps: int) -> None:
        """Remove checkpoints of a future that the run, resumed at `env_steps`, will not have."""
        for path in self.newest_first():
            if int(path.name.removeprefix("checkpoint_")) > env_steps:
                shutil.rmtree(path)

    def clean(self) -> None:
        """Remove what an interrupted save left, or put back what it was about to replace."""
        for path in self._directory.glob(".checkpoint_*.tmp"):
            shutil.rmtree(path)
        for path in self._directory.glob(".checkpoint_*.old"):
            target = path.with_name(path.name.removeprefix(".").removesuffix(".old"))
            if target.exists():
                shutil.rmtree(path)
            else:
                path.rename(target)

    @property
    def best(self) -> Path:
        """Where the best checkpoint is, once there is one."""
        return self._directory / "checkpoint_best"

    def newest_first(self) -> list[Path]:
        """Return the numbered checkpoints."""
        return numbered_checkpoints(self._directory)


def numbered_checkpoints(run_directory: Path) -> list[Path]:
    """Return the checkpoints of a run that carry a number of env steps, newest first."""
    found = [
        path
        for path in run_directory.glob("checkpoint_*")
        if path.is_dir() and path.name.removeprefix("checkpoint_").isdigit()
    ]
    return sorted(found, key=lambda path: -int(path.name.removeprefix("checkpoint_")))


def load_first_good(
    candidates: Sequence[Path], device: torch.device
) -> tuple[Path, TrainState, list[DamagedCheckpointError]]:
    """Return the first checkpoint that is whole, and the faults of those passed over.

    Raises:
        ValueError: if none is, naming the fault of each.
    """
    faults: list[DamagedCheckpointError] = []
    for path in candidates:
        try:
            return path, load_checkpoint(path, device), faults
        except DamagedCheckpointError as error:
            faults.append(error)
    details = "".join(f"\n{fault}" for fault in faults)
    raise ValueError(f"no checkpoint can be read:{details}")


def optimiser_tensors(optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return every optimiser's state as tensors by name/parameter/quantity."""
    return {
        f"optimiser/{name}/{index}/{quantity}": tensor
        for name, optimiser in optimisers.items()
        for index, state in optimiser.state_dict()["state"].items()
        for quantity, tensor in state.items()
    }


def load_optimiser_tensors(
    optimisers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` gave; a parameter too few or too many is an error."""
    for name, optimiser in optimisers.items():
        prefix = f"optimiser/{name}/"
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(prefix):
                index, quantity = key.removeprefix(prefix).split("/")
                state.setdefault(int(index), {})[quantity] = tensor
        document = optimiser.state_dict()
        indices = {index for group in document["param_groups"] for index in group["params"]}
        if set(state) != indices and (state or name == "ppo"):
            raise ValueError(
                f"the checkpoint's optimiser {name!r} holds parameters {sorted(state)}, "
                f"the run has {sorted(indices)}; resume with the configuration it was made with"
            )
        optimiser.load_state_dict({**document, "state": state})


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _read_json(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise DamagedCheckpointError(f"{path} holds no JSON object")
    return cast(dict[str, object], document)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
