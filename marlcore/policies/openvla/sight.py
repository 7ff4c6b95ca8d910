# pyright: basic
"""What agents see: pictures to features, computed once, and what an observer may see of another's.

E environments   N agents   n agents asked for   H history   C views   I = H C images   V patches
F features of a patch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from marlcore.policies.openvla.images import ImageProcessor, Preparation, prepare
from marlcore.policies.openvla.model import OpenVLA
from marlcore.policies.openvla.prompts import Prompts
from marlcore.policies.openvla.store import ImageCache, RowStore


class Sight:
    """The frozen towers with what they have seen.

    Args:
        backbone: whose towers look.
        prompts: of the N agents; features depend on them with FiLM.
        images: makes pixel values.
        preparation: what pictures go through first.
        store: of features [V, F].
        span: images that one rollout may name.
        own_view: [I] bool, which of an agent's images nobody else sees.
    """

    def __init__(
        self,
        backbone: OpenVLA,
        prompts: Prompts,
        images: ImageProcessor,
        preparation: Preparation,
        store: RowStore,
        *,
        span: int,
        own_view: Tensor,
    ) -> None:
        self._backbone, self._prompts = backbone, prompts
        self._images = images
        self._preparation: Preparation = preparation
        self._film = backbone.vision_backbone.film
        self.store = store
        self.cache = ImageCache(store, self.encode, span=span)
        self.own_view = own_view
        self._black: Tensor | None = None

    def serials(self, images: Tensor) -> Tensor:
        """Return serial numbers [E, N, I] of images [E, N, H, C, height, width, 3] uint8."""
        num_envs, num_agents, history, views = images.shape[:4]
        agents = range(num_agents) if self._film else [None] * num_agents
        keys = [agent for _ in range(num_envs) for agent in agents for _ in range(history * views)]
        serials = self.cache.serials(images.flatten(0, 3), keys)
        return serials.view(num_envs, num_agents, history * views).to(images.device)

    def features(self, serials: Tensor, agents: Sequence[int], *, seen_by_all: bool) -> Tensor:
        """Return features [E, n, I, V, F] of serial numbers [E, n, I].

        Args:
            serials: of some agents' images.
            agents: which.
            seen_by_all: own views are black.
        """
        if not seen_by_all:
            return self.store.get(serials, self._backbone.device)
        seen = ~self.own_view
        black = self.black()[list(agents) if self._film else [0] * len(agents)].unsqueeze(1)
        features = black.expand(-1, len(seen), -1, -1).repeat(len(serials), 1, 1, 1, 1)
        if seen.any():
            shared = serials[:, :, seen.to(serials.device)]
            features[:, :, seen.to(features.device)] = self.store.get(shared, features.device)
        return features

    @torch.no_grad()
    def encode(self, images: Tensor, keys: Sequence[Hashable]) -> Tensor:
        """Return features [R, V, F] of images [R, height, width, 3] uint8, with the towers.

        Args:
            images: as rendered.
            keys: with FiLM, whose prompt each is seen with.
        """
        device = self._backbone.device
        pixels = self._images.pixels(
            prepare(images, self._preparation, self._images.size).to(device)
        )
        language = None
        if self._film:
            rows = torch.tensor([int(str(agent)) for agent in keys], device=device)
            language = self._backbone.instruction(self._prompts.to(device).rows(rows))
        # On a CPU one by one: a picture's features then depend on nothing that is seen with it.
        size = 1 if device.type == "cpu" else len(pixels)
        parts = [
            self._backbone.image_features(
                pixels[i : i + size], None if language is None else language[i : i + size]
            )
            for i in range(0, len(pixels), size)
        ]
        return torch.cat(parts)

    def black(self) -> Tensor:
        """Return features of the black image, [1, V, F]; with FiLM of each agent, [N, V, F]."""
        if self._black is None:
            size, num = self._images.size, len(self._prompts.ids) if self._film else 1
            black = torch.zeros(num, size, size, 3, dtype=torch.uint8, device=self._backbone.device)
            self._black = self.encode(black, range(num))
        return self._black
