# pyright: basic
"""Random weights: a checkpoint of any size in the published layout, or a model made on a device.

python -m marlcore.policies.openvla.tiny FOLDER
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from torch import Tensor, nn

from marlcore.policies.openvla.heads import ActionHead, ProprioProjector
from marlcore.policies.openvla.language import PAD
from marlcore.policies.openvla.model import OpenVLA
from marlcore.policies.openvla.prompts import BOS, SPACE, STOP, prompt_text
from marlcore.policies.openvla.shape import FULL_SIZE, ModelShape, TowerShape, read_shape
from marlcore.policies.openvla.tensors import Shape, write_json, write_shards

NAME = "tiny"
"""Value of policy.pretrained_checkpoint that stands for a checkpoint made on the spot."""
ACTION_DIM, PROPRIO_SIZE = 7, 8
_TINY: dict[str, Any] = {
    "model_type": "openvla",
    "image_sizes": [56, 56],
    "tiny_timm_kwargs": [
        {"embed_dim": 32, "depth": 4, "num_heads": 4},
        {"embed_dim": 40, "depth": 4, "num_heads": 4},
    ],
    "text_config": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 32064,
        "pad_token_id": PAD,
    },
}
TINY = read_shape(_TINY)
"""Small enough for a CPU; 16 patches an image."""
_STEPS = 1
_BYTES = 256
_SENTENCES = [
    "insert the peg into the hole",
    "bring the hole onto the peg",
    "lift the pot by its left right handle",
    "pick up the hammer and hand it over",
    "take the hammer from the other arm out of the covered bin",
    "empty the target bin and put the hammer into it",
    "bring the point to the target",
]


def make_tiny_checkpoint(
    folder: Path,
    *,
    shape: ModelShape = TINY,
    seed: int = 0,
    action_dim: int = ACTION_DIM,
    proprio_size: int = PROPRIO_SIZE,
    fine_tuned: bool = True,
) -> None:
    """Write a random checkpoint in the layout of the published ones; same seed, same files.

    Args:
        folder: is made; files in it are overwritten.
        shape: sizes, small by default.
        seed: of the weights.
        action_dim: values a step of the action head.
        proprio_size: inputs of the proprio projector.
        fine_tuned: whether action head and proprio projector lie beside the weights; without them
            it is laid out like the base model.
    """
    describe(folder, shape, action_dim=action_dim, proprio_size=proprio_size)
    generator = torch.Generator().manual_seed(seed)
    model = OpenVLA(shape)
    randomise(model, generator)
    state = {**model.state_dict(), **_unused(shape, generator)}
    write_shards(folder, {name: tensor.to(torch.bfloat16) for name, tensor in state.items()})
    if fine_tuned:
        components: dict[str, nn.Module] = {
            "action_head": ActionHead(action_dim, shape.hidden_size),
            "proprio_projector": ProprioProjector(proprio_size, shape.hidden_size),
        }
        for name, module in components.items():
            randomise(module, generator)
            named = {f"module.{key}": tensor for key, tensor in module.state_dict().items()}
            torch.save(named, folder / f"{name}--{_STEPS}_checkpoint.pt")


def describe(
    folder: Path,
    shape: ModelShape,
    *,
    action_dim: int = ACTION_DIM,
    proprio_size: int = PROPRIO_SIZE,
) -> None:
    """Write all of a checkpoint but its weights: sizes, image settings, statistics, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    statistics = {NAME: _statistics(action_dim, proprio_size)}
    write_json(folder / "dataset_statistics.json", statistics)
    write_json(folder / "config.json", {**_config(shape), "norm_stats": statistics})
    write_json(folder / "preprocessor_config.json", _preprocessor(shape))
    make_tokenizer().save(str(folder / "tokenizer.json"))


def random_model(
    *, device: torch.device, dtype: torch.dtype, shape: ModelShape = FULL_SIZE, seed: int = 0
) -> OpenVLA:
    """Make a model with random weights on a device: nothing passes through the CPU or a disk."""
    with torch.device("meta"):
        model = OpenVLA(shape).to(dtype)
    model = model.to_empty(device=device)
    model.language_model.make_frequencies(device)
    randomise(model, torch.Generator(device).manual_seed(seed))
    return model.requires_grad_(False).eval()


@torch.no_grad()
def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter values that keep activations near one."""
    norms = (nn.LayerNorm,)
    for child in module.modules():
        scales = isinstance(child, norms) or "RMSNorm" in type(child).__name__
        for name, parameter in child.named_parameters(recurse=False):
            if (scales and name == "weight") or name == "scale_factor":
                parameter.fill_(1.0)
            elif isinstance(child, nn.Embedding):
                parameter.normal_(0.0, 1.0, generator=generator)
            else:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                deviation = fan_in**-0.5 if parameter.ndim > 1 else 0.02
                parameter.normal_(0.0, deviation, generator=generator)


def unused_shapes(shape: ModelShape) -> dict[str, Shape]:
    """Return names and shapes of what a checkpoint holds and the L1 policy never reads."""
    shapes: dict[str, Shape] = {
        "language_model.lm_head.weight": (shape.vocab_size, shape.hidden_size)
    }
    for tower, size in (("featurizer", shape.dino), ("fused_featurizer", shape.siglip)):
        prefix = f"vision_backbone.{tower}."
        for name, sizes in _block_shapes(size).items():
            shapes[f"{prefix}blocks.{size.depth - 1}.{name}"] = sizes
        shapes |= {f"{prefix}norm.{part}": (size.embed_dim,) for part in ("weight", "bias")}
    width, hidden = shape.siglip.embed_dim, shape.siglip.mlp_dim
    pool: dict[str, Shape] = {
        "latent": (1, 1, width),
        **_linear("q", width, width),
        **_linear("kv", width, 2 * width),
        **_linear("proj", width, width),
        **_pair("norm", width),
        **_linear("mlp.fc1", width, hidden),
        **_linear("mlp.fc2", hidden, width),
    }
    prefix = "vision_backbone.fused_featurizer.attn_pool."
    return shapes | {prefix + name: sizes for name, sizes in pool.items()}


def make_tokenizer() -> Tokenizer:
    """Return a small tokenizer with Llama's special ids, byte fallback and space marker."""
    space = "\u2581"
    marking = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    learner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    learner.normalizer = marking
    texts = [prompt_text(s, robot) for s in _SENTENCES for robot in (None, 0, 1)]
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, show_progress=False, max_token_length=10
    )
    learner.train_from_iterator(texts, trainer)
    learned = _json(learner)["model"]
    vocabulary = {"<unk>": 0, "<s>": BOS, "</s>": STOP}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(_BYTES)}
    pieces = [piece for piece in learned["vocab"] if piece not in vocabulary and piece != space]
    vocabulary |= {piece: 3 + _BYTES + i for i, piece in enumerate(pieces)} | {space: SPACE}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = marking
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    tokenizer.decoder = decoders.Replace(space, " ")
    return tokenizer


def _json(tokenizer: Tokenizer) -> Any:
    import json

    return json.loads(tokenizer.to_str())


def _unused(shape: ModelShape, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: torch.empty(sizes).normal_(0.0, 0.02, generator=generator)
        for name, sizes in unused_shapes(shape).items()
    }


def _block_shapes(size: TowerShape) -> dict[str, Shape]:
    width = size.embed_dim
    shapes: dict[str, Shape] = {
        **_pair("norm1", width),
        **_linear("attn.qkv", width, 3 * width),
        **_linear("attn.proj", width, width),
        **_pair("norm2", width),
        **_linear("mlp.fc1", width, size.mlp_dim),
        **_linear("mlp.fc2", size.mlp_dim, width),
    }
    scales = [f"ls{i}.scale_factor" for i in (1, 2) if size.layer_scale]
    return shapes | dict.fromkeys(scales, (width,))


def _pair(name: str, size: int) -> dict[str, Shape]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _linear(name: str, size_in: int, size_out: int) -> dict[str, Shape]:
    return {f"{name}.weight": (size_out, size_in), f"{name}.bias": (size_out,)}


def _config(shape: ModelShape) -> dict[str, Any]:
    keys = ("embed_dim", "depth", "num_heads")
    towers = [{key: asdict(tower)[key] for key in keys} for tower in (shape.dino, shape.siglip)]
    names = (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
        "vocab_size rms_norm_eps rope_theta max_position_embeddings"
    )
    trunk = {name: getattr(shape, name) for name in names.split()}
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [shape.image_size, shape.image_size],
        "use_fused_vision_backbone": True,
        "torch_dtype": "bfloat16",
        "tiny_timm_kwargs": towers,
        "text_config": {"model_type": "llama", "pad_token_id": PAD, **trunk},
    }


def _preprocessor(shape: ModelShape) -> dict[str, Any]:
    size = [3, shape.image_size, shape.image_size]
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [size, size],
        "interpolations": ["bicubic", "bicubic"],
        "means": [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
        "stds": [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
        "use_fused_vision_backbone": True,
    }


def _statistics(action_dim: int, proprio_size: int) -> dict[str, Any]:
    def quantiles(size: int) -> dict[str, list[float]]:
        return {"q01": [-1.0] * size, "q99": [1.0] * size}

    mask = [True] * (action_dim - 1) + [action_dim < ACTION_DIM]
    return {"action": {**quantiles(action_dim), "mask": mask}, "proprio": quantiles(proprio_size)}
