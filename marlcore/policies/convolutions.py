"""Small convolutional networks that turn each agent's images into features.

E environments   N agents   n agents asked for   R rows   H history   C views   F features
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from marlcore.statistics import RunningMoments

_LAYERS = ((16, 8, 4), (32, 4, 2), (32, 3, 1))
"""Channels, kernel and stride: the layers of Mnih et al. 2015 (DQN) with half the channels."""
SMALLEST_IMAGE = 36
"""Pixels of a side that leave one for the last layer."""
_SMALLEST_STD = 4 / 255
"""Of a pixel in [0, 1], four grey levels: what changes less is not made larger."""
_NUM_ROWS = 256
"""Rows of a rollout that the moments of pixels are taken from."""


class ImageEncoder(nn.Module):
    """Three convolutions with ReLU, then a linear map, layer normalisation and tanh.

    Pixels are in [0, 1]. With `clip`, every one is then normalised by running moments of its own,
    so that what stands still before a camera is zero and what moves is not small.

    Args:
        history: H; an agent's images are stacked as channels.
        views: C.
        image_size: height and width in pixels.
        feature_size: F.
        clip: bound of a normalised pixel; None: none is normalised.
        generator: draws the weights, orthogonal with gain sqrt(2); biases are zero.
    """

    def __init__(
        self,
        *,
        history: int,
        views: int,
        image_size: int,
        feature_size: int,
        clip: float | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.moments = RunningMoments((views, image_size, image_size, 3), _SMALLEST_STD)
        self._clip = clip
        self.convolutions = nn.ModuleList()
        channels, side = 3 * history * views, image_size
        for wide, kernel, stride in _LAYERS:
            self.convolutions.append(nn.Conv2d(channels, wide, kernel, stride))
            channels, side = wide, (side - kernel) // stride + 1
        self.linear = nn.Linear(channels * side * side, feature_size)
        self.norm = nn.LayerNorm(feature_size)
        for layer in (*self.convolutions, self.linear):
            assert isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
            nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, num_seen: int) -> Tensor:
        """Map images [R, H, C, height, width, 3] uint8 to features [R, F] in (-1, 1).

        Args:
            images: of one agent, newest first.
            num_seen: how many of the views count; the others are zero.
        """
        x = images.float() / 255
        if self._clip is not None:
            x = self.moments.normalise(x, self._clip)
        x[:, :, num_seen:] = 0
        x = x.flatten(1, 2).permute(0, 1, 4, 2, 3).flatten(1, 2)
        for layer in self.convolutions:
            x = torch.relu(layer(x))
        return torch.tanh(self.norm(self.linear(x.flatten(1))))


class ImageEncoders(nn.Module):
    """One encoder for all agents, or one each; an observer sees no other agent's own views.

    Args:
        shape: of an observation's images, [N, H, C, height, width, 3].
        num_shared_views: how many of the C views, the first ones, every agent sees.
        shared: one encoder for all.
        feature_size: F.
        clip: bound of a normalised pixel; None: none is normalised.
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
        clip: float | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        num_agents, history, self._num_views, size = shape[:4]
        if size < SMALLEST_IMAGE:
            raise ValueError(
                f"policy.kind=cnn needs images of {SMALLEST_IMAGE} pixels a side or more; "
                f"env.image_size is {size}"
            )
        self.feature_size = feature_size
        self._num_shared_views, self._normalise = num_shared_views, clip is not None
        self.encoders = nn.ModuleList(
            ImageEncoder(
                history=history,
                views=self._num_views,
                image_size=size,
                feature_size=feature_size,
                clip=clip,
                generator=generator,
            )
            for _ in range(1 if shared else num_agents)
        )

    def forward(self, images: Tensor, agents: Sequence[int], observer: int | None) -> Tensor:
        """Map images [E, n, H, C, height, width, 3] of some agents to features [E, n, F].

        Args:
            images: of the agents asked for.
            agents: which.
            observer: if given, the other agents' own views are hidden from it.
        """
        shared = len(self.encoders) == 1
        parts = [
            self.encoders[0 if shared else agent](
                images[:, column],
                self._num_views if observer in (None, agent) else self._num_shared_views,
            )
            for column, agent in enumerate(agents)
        ]
        return torch.stack(parts, dim=1)

    def update_moments(self, images: Tensor) -> None:
        """Fold the newest images of decisions [R, N, H, C, height, width, 3] into the moments."""
        if not self._normalise:
            return
        newest = images[:: max(1, len(images) // _NUM_ROWS), :, 0].float() / 255
        shared = len(self.encoders) == 1
        for index, encoder in enumerate(self.encoders):
            assert isinstance(encoder, ImageEncoder)
            encoder.moments.update(newest.flatten(0, 1) if shared else newest[:, index])
