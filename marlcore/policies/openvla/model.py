# pyright: basic
"""The whole network: images, text and a proprio token in, hidden states of the actions out.

    [BOS] [patches of image 1..n] [proprio] [prompt ... 29871] [placeholders] [stop]

B rows   n images   V patches   L tokens   A = K * D placeholders   H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlcore.policies.openvla.language import LanguageModel
from marlcore.policies.openvla.prompts import Prompts
from marlcore.policies.openvla.shape import ModelShape
from marlcore.policies.openvla.vision import Projector, VisionBackbone


class OpenVLA(nn.Module):
    """The backbone; action head and proprio projector stand beside it, as in its checkpoints."""

    def __init__(self, shape: ModelShape, *, film: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.vision_backbone = VisionBackbone(shape, film=film)
        self.projector = Projector(shape.feature_size, shape.hidden_size)
        self.language_model = LanguageModel(shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.language_model.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.language_model.model.norm.weight.device

    def instruction(self, prompts: Prompts) -> Tensor:
        """Return the mean embedding [B, H] of each prompt and its stop token, for FiLM."""
        weights = prompts.language.to(self.dtype).unsqueeze(-1)
        return (self.language_model.embed(prompts.ids) * weights).sum(1) / weights.sum(1)

    def image_features(self, pixels: Tensor, language: Tensor | None = None) -> Tensor:
        """Return features [B, V, F] of pixels [B, 6, S, S]; `language` [B, H] with FiLM."""
        return self.vision_backbone(pixels.to(self.dtype), language)

    def assemble(self, features: Tensor, proprio_token: Tensor | None, prompts: Prompts) -> Tensor:
        """Return the trunk's input [B, L, H].

        Args:
            features: [B, n V, F], images one behind the other.
            proprio_token: [B, H]; None for a model without proprio.
            prompts: of the B rows.
        """
        text = self.language_model.embed(prompts.ids)
        text = torch.where(prompts.is_action.unsqueeze(-1), torch.zeros_like(text), text)
        parts = [text[:, :1], self.projector(features)]
        if proprio_token is not None:
            parts.append(proprio_token.to(text.dtype).unsqueeze(1))
        return torch.cat([*parts, text[:, 1:]], dim=1)

    def forward(self, features: Tensor, proprio_token: Tensor | None, prompts: Prompts) -> Tensor:
        """Return the last hidden states [B, L, H]; arguments as in `assemble`."""
        x = self.assemble(features, proprio_token, prompts)
        return self.language_model(x, prompts.visible_among(x.shape[1]))

    def action_hidden(self, hidden: Tensor, prompts: Prompts) -> Tensor:
        """Pick the hidden states [B, A, H] that predict the placeholders: one position before."""
        num_inserted = hidden.shape[1] - prompts.ids.shape[1]
        positions = prompts.action_positions + (num_inserted - 1)
        return hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
