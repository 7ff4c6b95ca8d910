# pyright: basic
"""A trained policy as files that other programs read: OpenVLA-OFT's layout, adapters in PEFT's.

    lora_adapter/                                  PEFT
    action_head--N_checkpoint.pt, proprio_projector--N_checkpoint.pt
    proprio_projector_extended--N_checkpoint.pt    of a chained agent
    dataset_statistics.json                        what scaled proprio and actions in training
    log_std.json                                   sigma, which the published layout does not know

With `merge` also the checkpoint's other files, and its weights with the adapter merged.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from marlcore.policies.openvla.actors import OpenVLAActors
from marlcore.policies.openvla.adapters import merge_adapters
from marlcore.policies.openvla.checkpoint import Checkpoint, film_file
from marlcore.policies.openvla.folder import read_json
from marlcore.policies.openvla.tensors import find_shards, write_json, write_shards


def export_actors(
    actors: OpenVLAActors, folder: Path, *, num_steps: int, source: Checkpoint | None
) -> list[Path]:
    """Write the actors; one folder for all agents, or `agent_0`, .. in it where they share none.

    Args:
        actors: trained.
        folder: is made; must be empty or not exist.
        num_steps: env steps of training, which name the component files.
        source: the checkpoint the backbone came from; its weights with the adapter merged are
            written too, so that the folder is a checkpoint itself. None: they are not.

    Returns:
        The folders written, one or N.

    Raises:
        ValueError: if the folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not empty; name another folder")
    agents = [0] if actors.is_shared else list(range(actors.layout.num_agents))
    names = [actors.adapter_of(agent) for agent in agents]
    places = [folder] if actors.is_shared else [folder / name for name in names]
    for agent, name, place in zip(agents, names, places, strict=True):
        place.mkdir(parents=True)
        actors.adapters.save(name, place / "lora_adapter")
        for component, module in actors.components(agent).items():
            state = {f"module.{k}": t.detach().cpu() for k, t in module.state_dict().items()}
            torch.save(state, place / f"{component}--{num_steps}_checkpoint.pt")
        log_std = actors.bounded_log_std()[agent].tolist()
        write_json(place / "log_std.json", {"log_std": log_std})
        statistics = {"marlcore": _statistics(actors)}
        if source is not None:
            _write_merged(actors, name, source, place)
            config = read_json(source.folder / "config.json")
            write_json(place / "config.json", {**config, "norm_stats": statistics})
        write_json(place / "dataset_statistics.json", statistics)
    return places


def _statistics(actors: OpenVLAActors) -> dict[str, Any]:
    """What scaled proprio and actions in training."""
    parts = {"action": actors.action_quantiles, "proprio": actors.proprio_quantiles}
    return {
        name: {field: getattr(quantiles, field).tolist() for field in ("q01", "q99", "mask")}
        for name, quantiles in parts.items()
    }


def _write_merged(actors: OpenVLAActors, name: str, source: Checkpoint, place: Path) -> None:
    """Write the source's tensors: of the trunk with adapter `name` merged, unused ones as found."""
    trunk = copy.deepcopy(actors.backbone.language_model)
    merge_adapters(trunk, only=name)
    merged = {f"language_model.{key}": tensor for key, tensor in trunk.state_dict().items()}
    if source.film:
        shutil.copy(film_file(source), place)
    else:  # an adapter that the run began with may have changed towers and projector
        parts = actors.backbone.state_dict()
        merged |= {key: t for key, t in parts.items() if not key.startswith("language_model.")}
    shards = find_shards(source.folder)
    state = {
        key: merged[key].to("cpu", tensor.dtype) if key in merged else tensor
        for key, tensor in shards.tensors(torch.device("cpu"))
    }
    write_shards(place, state)
    for path in source.folder.glob("*.json"):
        if path.name != "model.safetensors.index.json":
            shutil.copy(path, place)
