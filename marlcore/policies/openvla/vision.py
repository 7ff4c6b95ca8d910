"""The two vision towers, DINOv2 (`featurizer`) and SigLIP (`fused_featurizer`), and the projector.

Parameters carry the checkpoint's names. A tower's feature is the output of its last block but one,
without a norm, prefix tokens dropped; what lies behind is not built. With FiLM, every block scales
and shifts its tokens by the mean embedding of the instruction.

B images   V patches   D width of a tower   F = D of both   H hidden size of the language model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from marlcore.policies.openvla.shape import PATCH, ModelShape, TowerShape

_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention with a fused projection."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, V, D] to [B, V, D]."""
        qkv = self.qkv(x).unflatten(-1, (3, self._num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., D]."""
        return x * self.scale_factor


class Block(nn.Module):
    """A pre-norm transformer block; FiLM, if any, acts between its two residuals."""

    def __init__(self, shape: TowerShape, film_size: int | None) -> None:
        super().__init__()
        width = shape.embed_dim
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attn = Attention(width, shape.num_heads)
        self.ls1 = LayerScale(width) if shape.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = MLP(width, shape.mlp_dim)
        self.ls2 = LayerScale(width) if shape.layer_scale else nn.Identity()
        self.scale = nn.Linear(film_size, width) if film_size else None
        self.shift = nn.Linear(film_size, width) if film_size else None

    def forward(self, x: Tensor, language: Tensor | None) -> Tensor:
        """Map tokens [B, V, D], `language` [B, H], to [B, V, D]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        if self.scale is not None and self.shift is not None:
            assert language is not None
            scale, shift = self.scale(language).unsqueeze(1), self.shift(language).unsqueeze(1)
            x = x * (1 + scale) + shift
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """Patches to tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S] to tokens [B, V, D], row by row."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    """One vision transformer up to its last block but one."""

    def __init__(self, shape: TowerShape, num_patches: int, film_size: int | None) -> None:
        super().__init__()
        width = shape.embed_dim
        self._num_prefix = 1 + shape.num_registers if shape.num_registers else 0
        if shape.num_registers:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.reg_token = nn.Parameter(torch.zeros(1, shape.num_registers, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches, width))
        self.patch_embed = PatchEmbedding(width)
        self.blocks = nn.ModuleList(Block(shape, film_size) for _ in range(shape.depth - 1))

    def forward(self, pixels: Tensor, language: Tensor | None) -> Tensor:
        """Map pixels [B, 3, S, S] to features [B, V, D]."""
        x = self.patch_embed(pixels) + self.pos_embed
        if self._num_prefix:
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
            x = torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, language)
        return x[:, self._num_prefix :]


class VisionBackbone(nn.Module):
    """Both towers side by side."""

    def __init__(self, shape: ModelShape, *, film: bool) -> None:
        super().__init__()
        film_size = shape.hidden_size if film else None
        self.film = film
        """Whether features depend on the instruction."""
        self.featurizer = Tower(shape.dino, shape.num_patches, film_size)
        self.fused_featurizer = Tower(shape.siglip, shape.num_patches, film_size)

    def forward(self, pixels: Tensor, language: Tensor | None) -> Tensor:
        """Map pixels [B, 6, S, S] (DINOv2's RGB, then SigLIP's) to features [B, V, F].

        Args:
            pixels: normalised for each tower.
            language: [B, H] mean embedding of the instruction; read with FiLM alone.
        """
        features = [
            self.featurizer(pixels[:, :3], language),
            self.fused_featurizer(pixels[:, 3:], language),
        ]
        return torch.cat(features, dim=-1)


class Projector(nn.Module):
    """Patch features to the language model's embeddings."""

    def __init__(self, feature_size: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(feature_size, 4 * feature_size)
        self.fc2 = nn.Linear(4 * feature_size, hidden_size)
        self.fc3 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map [..., F] to [..., H]."""
        x = functional.gelu(self.fc1(features))
        return self.fc3(functional.gelu(self.fc2(x)))
