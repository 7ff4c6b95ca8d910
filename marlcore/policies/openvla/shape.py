"""Sizes of an OpenVLA model, read from a checkpoint's config.json.

The published config.json names its parts (timm and Llama ids) and leaves their sizes to the code;
where it gives sizes (`text_config`, `tiny_timm_kwargs`) those count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PATCH = 14
"""Height and width of a patch in pixels."""
_SIGLIP_MLP_RATIO = 3.7362
_TOWERS: dict[str, dict[str, int]] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "vit_so400m_patch14_siglip_224": {"embed_dim": 1152, "depth": 27, "num_heads": 16},
}
_TRUNK_DEFAULTS: dict[str, float] = {  # Llama 2, 7B
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32064,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}


@dataclass(frozen=True)
class TowerShape:
    """One vision transformer."""

    embed_dim: int
    depth: int
    """Blocks of the published tower; its feature is the output of the last but one."""
    num_heads: int
    mlp_dim: int
    num_registers: int = 0
    """Register tokens; with them goes a class token. 0: no prefix tokens at all."""
    layer_scale: bool = False


@dataclass(frozen=True)
class ModelShape:
    """The whole model."""

    image_size: int
    """Height and width of its images in pixels."""
    dino: TowerShape
    siglip: TowerShape
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int

    @property
    def num_patches(self) -> int:
        """Patches, and so tokens, of one image."""
        return (self.image_size // PATCH) ** 2

    @property
    def feature_size(self) -> int:
        """Numbers of one patch before the projector: both towers'."""
        return self.dino.embed_dim + self.siglip.embed_dim


def tower_shapes(
    dino: Mapping[str, int], siglip: Mapping[str, int]
) -> tuple[TowerShape, TowerShape]:
    """Return the shapes of both towers from their embed_dim, depth and num_heads."""
    names = ("embed_dim", "depth", "num_heads")
    first, second = (tuple(sizes[name] for name in names) for sizes in (dino, siglip))
    return (
        TowerShape(*first, mlp_dim=4 * first[0], num_registers=4, layer_scale=True),
        TowerShape(*second, mlp_dim=int(_SIGLIP_MLP_RATIO * second[0])),
    )


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """Return the sizes that a config.json describes.

    Raises:
        ValueError: if it describes another kind of model.
    """
    if config.get("model_type") != "openvla":
        raise ValueError(
            f"model_type is {config.get('model_type')!r}, not 'openvla'; give the folder of an "
            "OpenVLA checkpoint"
        )
    names = config.get("timm_model_ids", list(_TOWERS))
    given: list[Mapping[str, int]] = config.get("tiny_timm_kwargs") or [
        _TOWERS[name] for name in names if name in _TOWERS
    ]
    if len(given) != 2 or not config.get("use_fused_vision_backbone", True):
        raise ValueError(
            f"its vision towers are {names}; known is the pair {' and '.join(_TOWERS)}"
        )
    dino, siglip = tower_shapes(*given)
    sizes = set(config.get("image_sizes", [224, 224]))
    if len(sizes) != 1 or next(iter(sizes)) % PATCH:
        raise ValueError(f"image_sizes are {sorted(sizes)}; one multiple of {PATCH} is expected")
    trunk: dict[str, Any] = {**_TRUNK_DEFAULTS, **config.get("text_config", {})}
    if trunk.get("model_type", "llama") != "llama":
        raise ValueError(f"its language model is {trunk['model_type']!r}; known is 'llama'")
    heads = trunk["num_attention_heads"]
    whole = [name for name, default in _TRUNK_DEFAULTS.items() if isinstance(default, int)]
    wrong = [name for name in whole if not isinstance(trunk[name], int) or trunk[name] < 1]
    if wrong or trunk["hidden_size"] % heads:
        named = wrong or ["hidden_size", "num_attention_heads"]
        sizes = ", ".join(f"{name} {trunk[name]!r}" for name in named)
        raise ValueError(f"its text_config makes no language model: {sizes}")
    return ModelShape(
        image_size=sizes.pop(),
        dino=dino,
        siglip=siglip,
        num_key_value_heads=trunk.get("num_key_value_heads", heads),
        **{name: trunk[name] for name in _TRUNK_DEFAULTS},
    )


FULL_SIZE = read_shape({"model_type": "openvla"})
"""The published 7B model."""
