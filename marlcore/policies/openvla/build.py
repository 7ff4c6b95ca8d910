# pyright: basic
"""From a configuration and a checkpoint to actors; says what was loaded and what is fresh.

N agents   K chunk   D action   P proprio   V patches   F features of a patch.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from marlcore.config import OpenVLAConfig
from marlcore.envs.protocol import EnvSpec
from marlcore.policies.layout import Kept
from marlcore.policies.mlp import GaussianHead
from marlcore.policies.openvla import checkpoint as files
from marlcore.policies.openvla import tiny
from marlcore.policies.openvla.actors import OpenVLAActors, Parts
from marlcore.policies.openvla.adapters import (
    Adapters,
    load_adapter,
    merge_adapters,
    read_adapter,
)
from marlcore.policies.openvla.heads import ActionHead, ProprioProjector
from marlcore.policies.openvla.memory import Budget
from marlcore.policies.openvla.model import OpenVLA
from marlcore.policies.openvla.prompts import Prompts, PromptTokenizer, make_prompts, prompt_text
from marlcore.policies.openvla.statistics import Quantiles
from marlcore.policies.openvla.store import GIB, RowStore

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def build_actors(
    config: OpenVLAConfig,
    spec: EnvSpec,
    *,
    uses_beliefs: bool,
    kept: Kept,
    generator: torch.Generator,
    device: torch.device,
    backbone: OpenVLA | None = None,
) -> tuple[OpenVLAActors, tuple[str, ...]]:
    """Load a checkpoint and make the actors of all agents; also lines for people about them.

    Args:
        config: of the policy.
        spec: of the environment.
        uses_beliefs: whether agents are chained.
        kept: how much a rollout keeps.
        generator: of whatever is fresh.
        device: where the backbone goes, directly.
        backbone: instead of the checkpoint's weights, which are then not looked for.

    Raises:
        ValueError: if checkpoint, configuration and environment do not fit.
    """
    if "images" not in spec.observation_shapes or "proprio" not in spec.observation_shapes:
        raise ValueError(
            "policy.kind=openvla looks at images and proprio, which this environment does not "
            "give; name cameras, for example \"env.cameras=['frontview','robot0_eye_in_hand',"
            "'robot1_eye_in_hand']\""
        )
    with pretrained(config.pretrained_checkpoint, spec) as name:
        found = config.model_copy(update={"pretrained_checkpoint": name})
        return _from_folder(found, spec, uses_beliefs, kept, generator, device, backbone)


@contextmanager
def pretrained(name: str, spec: EnvSpec) -> Iterator[str]:
    """Give the folder or hub id that `name` stands for; `tiny` is made while the context lasts."""
    if name != tiny.NAME:
        yield name
        return
    proprio_size = spec.observation_shapes["proprio"][-1]
    with tempfile.TemporaryDirectory() as folder:
        tiny.make_tiny_checkpoint(Path(folder), proprio_size=proprio_size, action_dim=_tokens(spec))
        yield folder


def _from_folder(
    config: OpenVLAConfig,
    spec: EnvSpec,
    uses_beliefs: bool,
    kept: Kept,
    generator: torch.Generator,
    device: torch.device,
    backbone: OpenVLA | None,
) -> tuple[OpenVLAActors, tuple[str, ...]]:
    opened = files.open_checkpoint(config.pretrained_checkpoint)
    model, fingerprint = _backbone(config, opened, device, backbone)
    head, projector, fresh = _components(opened, spec, generator)
    copies = 1 if config.share_policy else spec.num_agents
    names = ["shared"] if copies == 1 else [f"agent_{agent}" for agent in range(copies)]
    proprio, action = _quantiles(config, opened, spec, head.action_dim)
    num_images = _images_per_observation(spec, opened.film)
    span = num_images * kept.num_observations
    spare = 4 * num_images * kept.num_envs * spec.observation_shapes["images"][1]
    patches = (opened.shape.num_patches, opened.shape.feature_size)
    prompts = _prompts(config, opened, spec, head.action_dim).to(device)
    parts = Parts(
        model=model,
        fingerprint=fingerprint,
        heads=[copy.deepcopy(head) for _ in range(copies)],
        projectors=[copy.deepcopy(projector) for _ in range(copies)],
        prompts=prompts,
        images=opened.images,
        preparation=config.image_preparation,
        proprio=proprio,
        action=action,
        adapters=_adapters(config, model, names, generator),
        log_std=GaussianHead(
            config.initial_log_std,
            config.learn_std,
            config.min_log_std,
            config.max_log_std,
            config.final_log_std,
        ),
        store=_store(config, span + spare, patches, model),
        boundaries=_boundaries(config, spec, kept, prompts, model),
    )
    actors = OpenVLAActors(
        spec,
        parts,
        uses_beliefs=uses_beliefs,
        share_proprio=config.share_proprio,
        pooled=config.critic == "hidden",
        compiled=config.compile,
        span=span,
        budget=Budget(config.activation_checkpointing),
    )
    if not config.train_proprio_projector:
        for module in (actors.proprio_projectors, actors.proprio_projectors_extended):
            module.requires_grad_(False)
    actors = actors.to(device)
    if uses_beliefs:
        fresh.append("weights of beliefs")
    notes = _notes(actors, parts, num_images, kept, fresh)
    return actors, (*notes, *_remarks(spec, opened, uses_beliefs))


def _remarks(spec: EnvSpec, opened: files.Checkpoint, uses_beliefs: bool) -> list[str]:
    """What a user may not have meant."""
    size, wanted = spec.observation_shapes["images"][3], opened.shape.image_size
    remarks: list[str] = []
    if size != wanted:
        remarks.append(
            f"note: pictures of {size} pixels are resized to {wanted}; env.image_size={wanted} "
            "saves that"
        )
    if uses_beliefs and spec.num_shared_views == 0:
        remarks.append(
            "note: no camera is seen by all agents, so estimates of each other's actions look at "
            "black pictures alone; add one to env.cameras, for example frontview"
        )
    return remarks


def _boundaries(
    config: OpenVLAConfig, spec: EnvSpec, kept: Kept, prompts: Prompts, model: OpenVLA
) -> RowStore | None:
    """Room for what goes into the first adapted layer, of every agent and observation."""
    if not config.cache_boundary:
        return None
    _, history, views = spec.observation_shapes["images"][:3]
    num_inserted = 1 + history * views * model.shape.num_patches
    row = (num_inserted + prompts.ids.shape[1], model.shape.hidden_size)
    return _store(config, spec.num_agents * kept.num_observations, row, model)


def _store(config: OpenVLAConfig, capacity: int, row: tuple[int, ...], model: OpenVLA) -> RowStore:
    return RowStore(
        capacity,
        row,
        model.dtype,
        memory_limit_gib=config.feature_memory_gib,
        folder=None if config.feature_folder is None else Path(config.feature_folder),
        gpu=model.device if model.device.type == "cuda" else None,
    )


def _backbone(
    config: OpenVLAConfig, opened: files.Checkpoint, device: torch.device, given: OpenVLA | None
) -> tuple[OpenVLA, torch.Tensor]:
    """The backbone, an adapter merged if one is named, and what tells it from others."""
    name = config.dtype
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    model = given
    if model is None:
        model = files.load_model(opened, device=device, dtype=_DTYPES[name])
    marks = [files.fingerprint(model.state_dict())]
    if config.pretrained_adapter is not None:
        adapter = Path(config.pretrained_adapter).expanduser()
        load_adapter(model, adapter)
        merge_adapters(model)
        marks.append(files.fingerprint(read_adapter(adapter)))
    return model, torch.cat(marks)


def _components(
    opened: files.Checkpoint, spec: EnvSpec, generator: torch.Generator
) -> tuple[ActionHead, ProprioProjector, list[str]]:
    """The checkpoint's action head and proprio projector, or fresh ones; which are fresh."""
    proprio_size, hidden = spec.observation_shapes["proprio"][-1], opened.shape.hidden_size
    fresh: list[str] = []
    head = files.load_action_head(opened, max(spec.actions.sizes))
    if head is None:
        head = ActionHead(_tokens(spec), hidden)
        tiny.randomise(head, generator)
        with torch.no_grad():  # actions near the middle of their range at the start
            head.model.fc2.weight *= 0.01
        fresh.append("action head")
    projector = files.load_proprio_projector(opened, proprio_size)
    if projector is None:
        projector = ProprioProjector(proprio_size, hidden)
        tiny.randomise(projector, generator)
        fresh.append("proprio projector")
    return head, projector, [*fresh, "adapters", "log_std", "critics"]


def _tokens(spec: EnvSpec) -> int:
    """Placeholders of a low-level action: seven as in every published head, or as many as D."""
    return max(tiny.ACTION_DIM, *spec.actions.sizes)


def _quantiles(
    config: OpenVLAConfig, opened: files.Checkpoint, spec: EnvSpec, action_dim: int
) -> tuple[Quantiles, Quantiles]:
    """What scales proprio [P] and actions [D']."""
    if config.statistics == "task":
        if spec.proprio_quantiles is None or not spec.actions.clip:
            raise ValueError(
                "policy.statistics=task: nobody measured the quantiles of this environment's "
                "proprio; use policy.statistics=checkpoint"
            )
        ones = np.ones(action_dim)
        low, high = spec.proprio_quantiles
        everywhere = np.ones(len(low), np.bool_)
        return Quantiles(low, high, everywhere), Quantiles(-ones, ones, ones > 0)
    found = opened.statistics(config.unnorm_key)
    proprio_size = spec.observation_shapes["proprio"][-1]
    if found.proprio is None or len(found.proprio.q01) != proprio_size:
        raise ValueError(
            f"the checkpoint's statistics do not fit {proprio_size} numbers of proprio; use "
            "policy.statistics=task"
        )
    if len(found.action.q01) != action_dim:
        raise ValueError(
            f"the checkpoint's statistics are of {len(found.action.q01)} action dimensions, its "
            f"head gives {action_dim}; use policy.statistics=task"
        )
    return found.proprio, found.action


def _prompts(
    config: OpenVLAConfig, opened: files.Checkpoint, spec: EnvSpec, action_dim: int
) -> Prompts:
    instructions = spec.instructions
    if config.instruction is not None:
        instructions = (config.instruction,) * spec.num_agents
    if not instructions:
        raise ValueError("this environment tells its agents nothing; set policy.instruction")
    tokenizer = PromptTokenizer(opened.folder / "tokenizer.json")
    ids = [tokenizer.ids(prompt_text(text, robot)) for robot, text in enumerate(instructions)]
    return make_prompts(ids, spec.chunk_length * action_dim)


def _adapters(
    config: OpenVLAConfig, model: OpenVLA, names: list[str], generator: torch.Generator
) -> Adapters:
    return Adapters(
        model.language_model,
        names,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        num_layers=config.lora_layers,
        targets=config.lora_targets,
        generator=generator,
    )


def _images_per_observation(spec: EnvSpec, film: bool) -> int:
    """New pictures a decision: shared views once (with FiLM each agent's), the others of each."""
    num_views = spec.observation_shapes["images"][2]
    if film:
        return spec.num_agents * num_views
    own = num_views - spec.num_shared_views
    return spec.num_shared_views + spec.num_agents * own


def _notes(
    actors: OpenVLAActors,
    parts: Parts,
    num_images: int,
    kept: Kept,
    fresh: list[str],
) -> tuple[str, ...]:
    backbone, trained = _count(actors.backbone, False), _count(actors, True)
    kind = str(actors.backbone.dtype).removeprefix("torch.")
    size = sum(p.numel() * p.itemsize for p in actors.backbone.parameters()) / GIB
    padding = "" if actors.prompts.visible is None else " (prompts of unequal length: padded)"
    notes = [
        f"backbone: {backbone / 1e6:,.1f} M parameters, {kind}, {size:.2f} GiB, frozen; "
        f"trained: {trained / 1e6:,.2f} M",
        f"fresh at the start of a run: {', '.join(fresh)}",
        f"tokens a pass: {actors.num_tokens}{padding}",
        f"image features: {num_images} new pictures a decision, "
        f"{kept.num_observations:,} decisions, {_place(parts.store)}",
    ]
    if parts.boundaries is not None:
        layer = parts.adapters.first_layer
        notes.append(f"inputs of layer {layer}: {_place(parts.boundaries)}")
    return tuple(notes)


def _place(store: RowStore) -> str:
    return f"{store.num_bytes / GIB:.2f} GiB in {store.place}"


def _count(module: nn.Module, trained: bool) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trained)
