"""Small convolutional networks that turn each agent's images into features.

E environments   n agents asked for   H history   C views   I = H C images   F features
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LAYERS = ((16, 8, 4), (32, 4, 2), (32, 3, 1))
"""Channels, kernel and stride: the layers of Mnih et al. 2015 (DQN) with half the channels."""
SMALLEST_IMAGE = 36
"""Pixels of a side that leave one for the last layer."""


class ImageEncoder(nn.Module):
    """Three convolutions and a linear map, ReLU in between and tanh behind.

    Args:
        num_images: I, stacked as channels.
        image_size: height and width in pixels.
        feature_size: F.
        generator: draws the weights, orthogonal with gain sqrt(2); biases are zero.
    """

    def __init__(
        self, *, num_images: int, image_size: int, feature_size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        channels, side = 3 * num_images, image_size
        for wide, kernel, stride in _LAYERS:
            self.convolutions.append(nn.Conv2d(channels, wide, kernel, stride))
            channels, side = wide, (side - kernel) // stride + 1
        self.linear = nn.Linear(channels * side * side, feature_size)
        for layer in (*self.convolutions, self.linear):
            assert isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
            nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [R, I, height, width, 3] uint8 to features [R, F] in (-1, 1)."""
        x = images.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 255 - 0.5
        for layer in self.convolutions:
            x = torch.relu(layer(x))
        return torch.tanh(self.linear(x.flatten(1)))


class ImageEncoders(nn.Module):
    """One encoder for all agents, or one each; an observer sees no other agent's own views.

    Args:
        shape: of an observation's images, [N, H, C, height, width, 3].
        num_shared_views: how many of the C views, the first ones, every agent sees.
        shared: one encoder for all.
        feature_size: F.
        generator: draws the weights.

    Raises:
        ValueError: if the images are too small.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        num_shared_views: int,
        shared: bool,
        feature_size: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        num_agents, history, views, size = shape[:4]
        if size < SMALLEST_IMAGE:
            raise ValueError(
                f"policy.kind=cnn needs images of {SMALLEST_IMAGE} pixels a side or more; "
                f"env.image_size is {size}"
            )
        self.feature_size = feature_size
        self._num_shared_views = num_shared_views
        self.encoders = nn.ModuleList(
            ImageEncoder(
                num_images=history * views,
                image_size=size,
                feature_size=feature_size,
                generator=generator,
            )
            for _ in range(1 if shared else num_agents)
        )

    def forward(self, images: Tensor, agents: Sequence[int], observer: int | None) -> Tensor:
        """Map images [E, n, H, C, height, width, 3] of some agents to features [E, n, F].

        Args:
            images: of the agents asked for.
            agents: which.
            observer: if given, the other agents' own views are black to it.
        """
        seen = images.clone() if observer is not None else images
        for column, agent in enumerate(agents):
            if observer not in (None, agent):
                seen[:, column, :, self._num_shared_views :] = 0
        rows = seen.flatten(2, 3)
        if len(self.encoders) == 1:
            return self.encoders[0](rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        parts = [self.encoders[agent](rows[:, column]) for column, agent in enumerate(agents)]
        return torch.stack(parts, dim=1)
