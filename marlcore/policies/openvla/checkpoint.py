# pyright: basic
"""OpenVLA and OpenVLA-OFT checkpoints: a folder or hub id in, modules out; strict about tensors.

    config.json, preprocessor_config.json, tokenizer.json, dataset_statistics.json
    model.safetensors, or model.safetensors.index.json and its shards
    action_head--N_checkpoint.pt, proprio_projector--N_checkpoint.pt    fine-tuned ones alone
    vision_backbone--N_checkpoint.pt                                    those with FiLM alone

N is the number of training steps, or `latest`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from marlcore.policies.openvla.folder import (
    FILM,
    HEAD,
    PROJECTOR,
    component,
    find_folder,
    read_json,
)
from marlcore.policies.openvla.heads import ActionHead, ProprioProjector
from marlcore.policies.openvla.images import ImageProcessor, read_processor
from marlcore.policies.openvla.model import OpenVLA
from marlcore.policies.openvla.shape import ModelShape, read_shape
from marlcore.policies.openvla.statistics import Statistics, read_statistics
from marlcore.policies.openvla.tensors import (
    Shape,
    Shards,
    faults,
    find_shards,
    load_into,
    read_state_dict,
    refuse_non_finite,
    shapes_of,
)

_FILM_BLOCK = re.compile(r"(blocks\.\d+\.)block\.")


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds, weights apart."""

    folder: Path
    shape: ModelShape
    images: ImageProcessor
    film: bool
    """Whether a vision backbone with FiLM lies beside the weights."""

    def statistics(self, key: str | None) -> Statistics:
        """Read dataset_statistics.json, or norm_stats of config.json where there is none."""
        path = self.folder / "dataset_statistics.json"
        if path.is_file():
            return read_statistics(read_json(path), key)
        return read_statistics(read_json(self.folder / "config.json").get("norm_stats", {}), key)


def open_checkpoint(name: str) -> Checkpoint:
    """Find a checkpoint and read what it is.

    Raises:
        ValueError: if it is not there or no OpenVLA checkpoint.
    """
    folder = find_folder(name)
    config = read_json(folder / "config.json")
    try:
        shape = read_shape(config)
        images = read_processor(read_json(folder / "preprocessor_config.json"), shape.image_size)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return Checkpoint(folder, shape, images, film=component(folder, FILM) is not None)


def is_unused(name: str, shape: ModelShape) -> bool:
    """Whether a tensor of the checkpoint never matters to the L1 policy.

    These are `lm_head`, each tower's last block and norm, and SigLIP's attention pool.
    """
    last = {"featurizer": shape.dino.depth - 1, "fused_featurizer": shape.siglip.depth - 1}
    if name.startswith("language_model.lm_head."):
        return True
    match = re.match(r"vision_backbone\.(featurizer|fused_featurizer)\.(.*)", name)
    if match is None:
        return False
    return match[2].startswith(("norm.", "attn_pool.", f"blocks.{last[match[1]]}."))


def load_model(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    with_film: bool | None = None,
) -> OpenVLA:
    """Load the backbone; the result is in eval mode and nothing of it wants a gradient.

    Args:
        checkpoint: from `open_checkpoint`.
        device: tensors go there one by one, so the CPU never holds the model twice.
        dtype: of all weights.
        with_film: whether to load the vision backbone with FiLM; None: where there is one.

    Raises:
        ValueError: naming each tensor that is missing, too many or of another shape.
    """
    with torch.device("meta"):
        model = OpenVLA(checkpoint.shape, film=checkpoint.film if with_film is None else with_film)
    shards = find_shards(checkpoint.folder)
    wanted = shapes_of(model.state_dict())
    film = film_state(checkpoint) if model.vision_backbone.film else {}
    _check(checkpoint, shards, wanted, film)
    state = {
        name: tensor.to(dtype) for name, tensor in shards.tensors(device) if name in wanted
    } | {name: tensor.to(device, dtype) for name, tensor in film.items()}
    refuse_non_finite(state, checkpoint.folder)
    model.load_state_dict(state, assign=True)
    model.language_model.make_frequencies(device)
    return model.requires_grad_(False).eval()


def load_action_head(checkpoint: Checkpoint, action_dim: int) -> ActionHead | None:
    """Load the fine-tuned action head, float32, on the CPU; None where there is none.

    Raises:
        ValueError: if it does not fit or gives fewer than `action_dim` values a step.
    """
    path = component(checkpoint.folder, HEAD)
    return None if path is None else read_action_head(path, checkpoint.shape, action_dim)


def read_action_head(path: Path, shape: ModelShape, action_dim: int) -> ActionHead:
    """Load an action head from a file; it says itself how many values it gives a step."""
    state = read_state_dict(path)
    last = state.get("model.fc2.bias")
    if last is None:
        raise ValueError(f"{path} has no model.fc2.bias; it is no L1 action head")
    given = len(last)
    if given < action_dim:
        raise ValueError(
            f"{path} gives {given} values a step, and the environment takes {action_dim}; use a "
            "checkpoint without action head (a fresh one is made) or another environment"
        )
    head = ActionHead(given, shape.hidden_size)
    load_into(head, state, source=path)
    return head


def load_proprio_projector(checkpoint: Checkpoint, size: int) -> ProprioProjector | None:
    """Load the fine-tuned proprio projector, float32, on the CPU; None where there is none.

    Raises:
        ValueError: if it does not fit `size` numbers of proprio.
    """
    path = component(checkpoint.folder, PROJECTOR)
    if path is None:
        return None
    projector = ProprioProjector(size, checkpoint.shape.hidden_size)
    load_into(projector, read_state_dict(path), source=path)
    return projector


def fingerprint(state: Mapping[str, Tensor]) -> Tensor:
    """Return a vector [names] that tells weights apart: a mean of each tensor's beginning.

    Kept with a run's checkpoints, so that a run is never resumed on another backbone.
    """
    parts = [t.flatten()[:256].double().mean().float().cpu() for t in state.values()]
    return torch.stack(parts)


def film_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the vision backbone with FiLM, by the names of the model.

    Raises:
        ValueError: if there is none.
    """
    path = film_file(checkpoint)
    state: dict[str, Tensor] = {}
    for name, tensor in read_state_dict(path).items():
        state[
            "vision_backbone." + _FILM_BLOCK.sub(r"\1", name).removeprefix("vision_backbone.")
        ] = tensor
    return {name: t for name, t in state.items() if not is_unused(name, checkpoint.shape)}


def film_file(checkpoint: Checkpoint) -> Path:
    """Return the component with FiLM.

    Raises:
        ValueError: if there is none.
    """
    path = component(checkpoint.folder, FILM)
    if path is None:
        raise ValueError(f"{checkpoint.folder} has no vision_backbone_film--N_checkpoint.pt")
    return path


def _check(
    checkpoint: Checkpoint,
    shards: Shards,
    wanted: dict[str, Shape],
    film: dict[str, Tensor],
) -> None:
    given = {
        name: shape
        for name, shape in shards.shapes().items()
        if not is_unused(name, checkpoint.shape)
    }
    found = faults(wanted, {**given, **shapes_of(film)})
    if found:
        raise ValueError("\n".join([f"{checkpoint.folder} does not fit an OpenVLA model:", *found]))
    unlisted = shards.unlisted()
    if unlisted:
        raise ValueError(f"{checkpoint.folder} holds {unlisted[0]}, which no index names")
