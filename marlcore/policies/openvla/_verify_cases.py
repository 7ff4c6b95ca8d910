# pyright: basic
"""What `verify` compares: each function takes one file of recorded arrays. Float32, on the CPU."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from marlcore.policies.openvla import checkpoint as files
from marlcore.policies.openvla.adapters import load_adapter, merge_adapters
from marlcore.policies.openvla.folder import read_json
from marlcore.policies.openvla.heads import ActionHead, ProprioProjector
from marlcore.policies.openvla.model import OpenVLA
from marlcore.policies.openvla.prompts import Prompts, PromptTokenizer, make_prompts
from marlcore.policies.openvla.statistics import Statistics, read_statistics
from marlcore.policies.openvla.tensors import find_shards
from marlcore.policies.openvla.verify import ACTION, EXACT, HIDDEN, NORM

if TYPE_CHECKING:
    from marlcore.policies.openvla.verify import Report

CPU = torch.device("cpu")
_FIRST_ACTION_ID, _NUM_BINS, _FIRST_BIN_ID, _IGNORED = 31743, 256, 32000, -100
_GRADIENT = 1e-5


@dataclass
class Context:
    """A folder of recorded arrays and the model of its checkpoint."""

    folder: Path
    meta: dict[str, Any]
    report: Report
    read: set[str] = field(default_factory=set)
    """Files of arrays that were compared."""

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of a file; nothing where there is none."""
        path = self.folder / name
        if not path.is_file():
            return {}
        self.read.add(name)
        with np.load(path) as archive:
            return dict(archive)

    def unread(self) -> list[str]:
        """Files of arrays that nothing looked at."""
        return sorted({path.name for path in self.folder.glob("*.npz")} - self.read)

    @cached_property
    def checkpoint(self) -> files.Checkpoint:
        """Of the folder; the component with FiLM lies beside it."""
        return files.open_checkpoint(str(self.folder / "checkpoint"))

    def model(self, dtype: torch.dtype = torch.float32) -> OpenVLA:
        """Load the backbone anew."""
        return files.load_model(self.checkpoint, device=CPU, dtype=dtype, with_film=False)

    @cached_property
    def plain(self) -> OpenVLA:
        """The backbone as it is."""
        return self.model()

    @cached_property
    def with_film(self) -> OpenVLA:
        """The backbone with FiLM."""
        beside = files.Checkpoint(self.folder, self.checkpoint.shape, self.checkpoint.images, True)
        state = files.film_state(beside)
        model = OpenVLA(self.checkpoint.shape, film=True)
        model.load_state_dict({**self.plain.state_dict(), **state})
        return model.requires_grad_(False).eval()

    @cached_property
    def head(self) -> ActionHead:
        """The fine-tuned action head."""
        head = files.load_action_head(self.checkpoint, action_dim=7)
        assert head is not None
        return head

    @cached_property
    def projector(self) -> ProprioProjector:
        """The fine-tuned proprio projector."""
        projector = files.load_proprio_projector(self.checkpoint, size=8)
        assert projector is not None
        return projector

    @cached_property
    def statistics(self) -> Statistics:
        """The checkpoint's."""
        return self.checkpoint.statistics(None)

    @cached_property
    def pixels(self) -> Tensor:
        """Pixel values of all recorded images."""
        return self.checkpoint.images.pixels(
            torch.from_numpy(self.arrays("inputs.npz")["images_u8"])
        )

    def proprio_token(self, row: int) -> Tensor:
        """The token [1, H] of a recorded proprio."""
        assert self.statistics.proprio is not None
        raw = torch.from_numpy(self.arrays("inputs.npz")["proprio_raw"][row])
        return self.projector(self.statistics.proprio.normalise(raw).float().unsqueeze(0))

    def prompts(self, case: dict[str, Any], action_dim: int) -> Prompts:
        """The text of a recorded case."""
        ids = self.meta["prompt_input_ids"][case["prompt"]]
        return make_prompts([ids], case.get("chunk", 2) * action_dim)

    def features(self, model: OpenVLA, images: list[int], prompts: Prompts) -> Tensor:
        """Features [1, n V, F] of some recorded images."""
        language = model.instruction(prompts).expand(len(images), -1)
        return model.image_features(self.pixels[images], language).flatten(0, 1).unsqueeze(0)


def check_inputs(context: Context) -> None:
    """inputs.npz: pixel values, proprio, and the prompts' ids."""
    compare, arrays = context.report.compare, context.arrays("inputs.npz")
    stride = context.meta["pixel_values_stride"]
    odd = context.checkpoint.images.pixels(torch.from_numpy(arrays["odd_image_u8"]).unsqueeze(0))
    for name, pixels in (("img0", context.pixels[:1]), ("odd", odd)):
        recorded = arrays[f"pixel_values_{name}"]
        compare(f"inputs/pixel_values_{name}", pixels[..., ::stride, ::stride], recorded, EXACT)
    digest = hashlib.sha256(context.pixels.numpy().tobytes()).hexdigest()
    matches = digest == context.meta["pixel_values_sha256_float32_all4"]
    compare("inputs/pixel_values_sha256", float(matches), 1.0, EXACT)
    assert context.statistics.proprio is not None
    normalised = context.statistics.proprio.normalise(torch.from_numpy(arrays["proprio_raw"]))
    compare("inputs/proprio_normalised", normalised, arrays["proprio_normalised"], 1e-12)
    if (context.checkpoint.folder / "tokenizer.json").is_file():
        tokenizer = PromptTokenizer(context.checkpoint.folder / "tokenizer.json")
        for row, text in enumerate(context.meta["prompts"]):
            ids = context.meta["prompt_input_ids"][row]
            compare(f"inputs/prompt_ids_{row}", tokenizer.ids(text), ids, EXACT)


def check_vision(context: Context) -> None:
    """vision.npz: features of each tower and behind the projector."""
    model, split = context.plain, context.checkpoint.shape.dino.embed_dim
    features = model.image_features(context.pixels)
    projected = model.projector(features)
    for name, recorded in context.arrays("vision.npz").items():
        image, part = name.split("__")
        row = int(image.removeprefix("img"))
        own = {
            "dino": features[row, :, :split],
            "siglip": features[row, :, split:],
            "projected": projected[row],
        }[part]
        context.report.compare(f"vision/{name}", own, recorded, HIDDEN)


def check_cases(context: Context) -> None:
    """case.npz: whole passes over one to four images, with and without proprio, with FiLM."""
    arrays = context.arrays("case.npz")
    for name, case in context.meta["cases"].items():
        own = _run_case(context, context.with_film if case["film"] else context.plain, case)
        prefix = f"{name}__"
        for key in [key for key in arrays if key.startswith(prefix)]:
            part = key.removeprefix(prefix)
            context.report.compare(f"case/{name}/{part}", own[part], arrays[key], _tolerance(part))


def check_small_case(context: Context) -> None:
    """case_dim6_chunk2.npz: a head of six values a step; film.npz: the mean embedding."""
    arrays, case = context.arrays("case_dim6_chunk2.npz"), context.meta["case_dim6_chunk2"]
    head = files.read_action_head(context.folder / "action_head_dim6.pt", context.plain.shape, 6)
    document = read_json(context.folder / "dataset_statistics_dim6.json")
    own = _run_case(context, context.plain, case, head, read_statistics(document, None))
    for name, recorded in arrays.items():
        context.report.compare(f"case_dim6_chunk2/{name}", own[name], recorded, _tolerance(name))
    film = context.arrays("film.npz")
    if film:
        prompts = context.prompts({"prompt": 0}, 7)
        own_mean = context.plain.instruction(prompts)[0]
        context.report.compare(
            "film/avg_language_embedding", own_mean, film["avg_language_embedding"], HIDDEN
        )


def check_discrete(context: Context) -> None:
    """discrete.npz: actions as vocabulary bins, which the published checkpoints do not use."""
    arrays = context.arrays("discrete.npz")
    if not arrays:
        return
    model, prompts = context.plain, context.prompts({"prompt": 0, "chunk": 8}, 7)
    hidden = model(context.features(model, [0], prompts), None, prompts)
    ids = (model.action_hidden(hidden, prompts) @ _lm_head(context).T).argmax(-1).numpy()
    edges = np.linspace(-1, 1, _NUM_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    normalised = centres[np.clip(_FIRST_BIN_ID - ids - 1, 0, _NUM_BINS - 2)].reshape(8, 7)
    own = context.statistics.action.unnormalise(torch.from_numpy(normalised))
    context.report.compare(
        "discrete/actions_unnormalised", own, arrays["actions_unnormalised"], ACTION
    )


def check_adapter(context: Context) -> None:
    """lora.npz: a PEFT adapter in place, merged in float32, and merged in bfloat16."""
    arrays = context.arrays("lora.npz")
    if not arrays:
        return
    case, compare = context.meta["lora"], context.report.compare
    folder = context.folder / "lora_adapter"
    first = "language_model.model.layers.0.self_attn.q_proj.weight"
    compare("lora/base__q_proj0", context.plain.state_dict()[first], arrays["base__q_proj0"], EXACT)
    model = context.model()
    load_adapter(model, folder)
    own = _run_case(context, model, case)
    for name in (
        "input_ids",
        "patch_features",
        "action_hidden",
        "actions_normalised",
        "actions_unnormalised",
    ):
        compare(f"lora/{name}", own[name], arrays[name], _tolerance(name))
    merge_adapters(model)
    compare(
        "lora/merged_fp32__q_proj0",
        model.state_dict()[first],
        arrays["merged_fp32__q_proj0"],
        ACTION,
    )
    merged = _run_case(context, model, case)["actions_normalised"]
    compare(
        "lora/merged_fp32__actions_normalised",
        merged,
        arrays["merged_fp32__actions_normalised"],
        ACTION,
    )
    rounded = context.model(torch.bfloat16)
    load_adapter(rounded, folder)
    merge_adapters(rounded)
    merged = _run_case(context, rounded.float(), case)["actions_normalised"]
    name = "merged_bf16_weights__actions_normalised"
    compare(f"lora/{name}", merged, arrays[name], ACTION)


def check_training(context: Context) -> None:
    """train_batch.npz: a padded batch, its losses and the gradients of the L1 loss."""
    arrays = context.arrays("train_batch.npz")
    if not arrays:
        return
    case, compare = context.meta["train_batch"], context.report.compare
    model, head, projector = context.model(), context.head, context.projector
    for module in (model, head, projector):
        module.requires_grad_(True)
    labels = torch.from_numpy(arrays["labels"])
    prompts = _labelled_prompts(arrays)
    pairs = torch.tensor(case["image_pairs"])
    features = model.image_features(context.pixels[pairs.flatten()]).unflatten(0, pairs.shape)
    token = projector(torch.from_numpy(arrays["proprio"]))
    hidden = model(features.flatten(1, 2), token, prompts)
    action_hidden = model.action_hidden(hidden, prompts)
    actions = head(action_hidden)
    loss = (torch.from_numpy(arrays["gt_actions"]) - actions).abs().mean()
    loss.backward()
    num_inserted = hidden.shape[1] - labels.shape[1]
    spread = torch.cat(
        [labels[:, :1], labels.new_full((len(labels), num_inserted), _IGNORED), labels[:, 1:]], 1
    )
    logits = hidden.detach() @ _lm_head(context).T
    cross_entropy = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), spread[:, 1:].flatten(), ignore_index=_IGNORED
    )
    own: dict[str, Any] = {
        "mm_attention_mask": prompts.visible_among(hidden.shape[1]),
        "action_mask_on_labels_shifted": prompts.is_action[:, 1:],
        "last_hidden": hidden,
        "action_hidden": action_hidden,
        "pred_actions": actions,
        "l1_loss": loss,
        "lm_ce_loss": cross_entropy,
    }
    for name, value in own.items():
        compare(f"train_batch/{name}", value, arrays[name], _tolerance(name))
    modules = {"vla": model, "action_head": head, "proprio_projector": projector}
    gradients = {
        f"{m}.{n}": p.grad for m, module in modules.items() for n, p in module.named_parameters()
    }
    for name in [name for name in arrays if name.startswith("grad__")]:
        compare(
            f"train_batch/{name}", gradients[name.removeprefix("grad__")], arrays[name], _GRADIENT
        )
    for name, norm in case["grad_norms"].items():
        gradient = gradients[name]
        assert gradient is not None, name
        compare(f"train_batch/grad_norm/{name}", gradient.norm() / norm, 1.0, NORM)
    for module in (head, projector):
        module.requires_grad_(False)


def _run_case(
    context: Context,
    model: OpenVLA,
    case: dict[str, Any],
    head: ActionHead | None = None,
    statistics: Statistics | None = None,
) -> dict[str, Any]:
    """Run one pass; every array of it that may have been recorded, by name."""
    head, statistics = head or context.head, statistics or context.statistics
    prompts = context.prompts(case, head.action_dim)
    features = context.features(model, case["image_order"], prompts)
    token = context.proprio_token(case["proprio_row"]) if case.get("use_proprio", True) else None
    embeds = model.assemble(features, token, prompts)
    hidden = model(features, token, prompts)
    action_hidden = model.action_hidden(hidden, prompts)
    actions = head(action_hidden)
    split = model.shape.dino.embed_dim
    per_image = features.unflatten(1, (len(case["image_order"]), -1))[0]
    prompt_length = int(prompts.action_positions[0, 0])
    ids = prompts.ids[:, :prompt_length]
    if not case.get("appended_29871_by_caller", True):
        ids = ids[:, :-1]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "full_input_ids": prompts.ids,
        "mm_embeds": embeds,
        "mm_attention_mask": torch.ones(embeds.shape[:2]),
        "proprio_token": token,
        "feat_dino": per_image[..., :split],
        "feat_siglip": per_image[..., split:],
        "patch_features": features,
        "projected_patches": model.projector(features),
        "last_hidden": hidden,
        "action_hidden": action_hidden,
        "actions_normalised": actions,
        "actions_unnormalised": statistics.action.unnormalise(actions)[0],
    }


def _labelled_prompts(arrays: dict[str, NDArray[Any]]) -> Prompts:
    """The text of a training batch, whose labels say where the actions are."""
    ids, labels = torch.from_numpy(arrays["input_ids"]), torch.from_numpy(arrays["labels"])
    is_action = labels > _FIRST_ACTION_ID
    return Prompts(
        ids=ids,
        is_action=is_action,
        action_positions=is_action.nonzero()[:, 1].view(len(ids), -1),
        language=torch.zeros_like(is_action),
        visible=torch.from_numpy(arrays["attention_mask"]),
    )


def _lm_head(context: Context) -> Tensor:
    name = "language_model.lm_head.weight"
    shards = find_shards(context.checkpoint.folder)
    return dict(shards.tensors(CPU))[name].float()


def _tolerance(name: str) -> float:
    if "mask" in name or name.endswith("ids"):
        return EXACT
    return ACTION if "actions" in name or "loss" in name else HIDDEN
