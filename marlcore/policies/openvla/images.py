"""Pictures to pixel values, as the model's training did it.

Preparation `libero` does first what the LIBERO checkpoints' data went through: pictures mirrored
(the data set turned robosuite's upside-down frames by 180 degrees), resized with Lanczos, and the
middle 0.9 of their area cut out and scaled up. `plain` takes them as they are.

B images   S the model's image size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

Preparation = Literal["libero", "plain"]
_CROP_AREA = 0.9


@dataclass(frozen=True)
class ImageProcessor:
    """Resizes and normalises, for both towers at once."""

    size: int
    """S."""
    means: tuple[tuple[float, ...], ...]
    """Per tower (DINOv2, SigLIP) and channel, of values in [0, 1]."""
    stds: tuple[tuple[float, ...], ...]
    """Likewise."""

    def pixels(self, images: Tensor) -> Tensor:
        """Return pixel values [B, 6, S, S] float32 of images [B, height, width, 3] uint8.

        Other sizes than S are resized on the CPU (bicubic, both sides at once, no crop).
        """
        resized = resize(images, self.size, Image.Resampling.BICUBIC)
        values = resized.permute(0, 3, 1, 2).float() / 255
        towers: list[Tensor] = []
        for mean, std in zip(self.means, self.stds, strict=True):
            shift = torch.tensor(mean, device=values.device).view(3, 1, 1)
            scale = torch.tensor(std, device=values.device).view(3, 1, 1)
            towers.append((values - shift) / scale)
        return torch.cat(towers, dim=1)


def read_processor(config: Mapping[str, Any], size: int) -> ImageProcessor:
    """Read a preprocessor_config.json.

    Raises:
        ValueError: if images were resized in another way than the published checkpoints'.
    """
    strategy = config.get("image_resize_strategy", "resize-naive")
    filters = set(config.get("interpolations", ["bicubic"]))
    if strategy != "resize-naive" or filters != {"bicubic"}:
        raise ValueError(
            f"images were resized by {strategy}, {sorted(filters)}; known is resize-naive, bicubic"
        )
    if not {"means", "stds"} <= config.keys():
        raise ValueError("preprocessor_config.json names no means and stds of the towers")
    means, stds = (
        tuple(tuple(float(x) for x in tower) for tower in config[name])
        for name in ("means", "stds")
    )
    if len(means) != 2 or len(stds) != 2:
        raise ValueError(f"means and stds are of {len(means)} towers, not two")
    return ImageProcessor(size=size, means=means, stds=stds)


def prepare(images: Tensor, preparation: Preparation, size: int) -> Tensor:
    """Return images [B, height, width, 3] uint8 as the checkpoint's own data looked.

    Args:
        images: upright pictures, uint8.
        preparation: see the module.
        size: S.
    """
    if preparation == "plain":
        return images
    mirrored = resize(images.flip(2), size, Image.Resampling.LANCZOS)
    return _middle(mirrored)


def resize(images: Tensor, size: int, resampling: Image.Resampling) -> Tensor:
    """Resize [B, height, width, 3] uint8 to [B, size, size, 3]; nothing where it fits already."""
    if images.shape[1:3] == (size, size):
        return images
    rows: list[NDArray[np.uint8]] = []
    for image in images.cpu().numpy():  # pyright: ignore[reportUnknownVariableType]
        resized = Image.fromarray(image).resize((size, size), resampling)
        rows.append(np.asarray(resized))
    return torch.from_numpy(np.stack(rows)).to(images.device)


def _middle(images: Tensor) -> Tensor:
    """Cut out the middle of the area and scale it up: bilinear between the outermost pixels."""
    num, size = images.shape[:2]
    reach = torch.linspace(-1, 1, size, device=images.device) * _CROP_AREA**0.5
    y, x = torch.meshgrid(reach, reach, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(num, -1, -1, -1)
    values = images.permute(0, 3, 1, 2).float() / 255
    cut = functional.grid_sample(values, grid, mode="bilinear", align_corners=True)
    return (cut.clamp(0, 1) * 255.5).floor().to(torch.uint8).permute(0, 2, 3, 1)
