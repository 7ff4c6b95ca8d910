"""What surrounds the trunk: proprio to a token, hidden states to actions. Names are OpenVLA-OFT's.

K chunk   D action   P proprio   H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_NUM_BLOCKS = 2


class ProprioProjector(nn.Module):
    """Proprio (and, in a chain, beliefs about the agents before) to one token."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., P] to [..., H]."""
        return self.fc2(functional.gelu(self.fc1(x)))

    @torch.no_grad()
    def extended(self, extra_size: int) -> ProprioProjector:
        """Return a copy with `extra_size` more inputs that have no effect yet: weights of zero."""
        hidden, own = self.fc1.weight.shape
        wider = ProprioProjector(own + extra_size, hidden).to(self.fc1.weight)
        wider.fc1.weight.zero_()
        wider.fc1.weight[:, :own] = self.fc1.weight
        wider.fc1.bias.copy_(self.fc1.bias)
        wider.fc2.load_state_dict(self.fc2.state_dict())
        return wider


class ResidualBlock(nn.Module):
    """x + ReLU(Linear(LayerNorm(x)))."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, size), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., H] to [..., H]."""
        return x + self.ffn(x)


class ResidualMLP(nn.Module):
    """The network of the action head."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(input_size)
        self.fc1 = nn.Linear(input_size, hidden_size)
        self.mlp_resnet_blocks = nn.ModuleList(
            ResidualBlock(hidden_size) for _ in range(_NUM_BLOCKS)
        )
        self.layer_norm2 = nn.LayerNorm(hidden_size)
        self.fc2 = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D * H] to [..., D]."""
        x = functional.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class ActionHead(nn.Module):
    """Hidden states of a step's D placeholders to its D normalised actions (L1 regression).

    Works step by step, so any chunk length will do.
    """

    def __init__(self, action_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = ResidualMLP(action_dim * hidden_size, hidden_size, action_dim)

    def forward(self, action_hidden: Tensor) -> Tensor:
        """Map [B, K * D, H] to actions [B, K, D], normalised as the training data was."""
        num_rows, _, width = action_hidden.shape
        return self.model(action_hidden.reshape(num_rows, -1, self.action_dim * width))
