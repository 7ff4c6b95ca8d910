"""Perceptrons of several agents, evaluated together.

B rows   N agents   G groups of weights: one for all agents, or one each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
_HIDDEN_GAIN = math.sqrt(2)


class AgentMLP(nn.Module):
    """A perceptron for each of G groups; weights [G, in, out], one batched product a layer.

    Orthogonal initialisation, gain sqrt(2) in between and `output_gain` at the end.
    """

    def __init__(
        self,
        *,
        num_groups: int,
        sizes: Sequence[int],
        activation: str,
        output_gain: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._activate = _ACTIVATIONS[activation]
        gains = [_HIDDEN_GAIN] * (len(sizes) - 2) + [output_gain]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for size_in, size_out, gain in zip(sizes[:-1], sizes[1:], gains, strict=True):
            weight = torch.empty(num_groups, size_in, size_out)
            for group in weight:
                nn.init.orthogonal_(group, gain, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(num_groups, 1, size_out)))

    def forward(self, x: Tensor, groups: Sequence[int]) -> Tensor:
        """Map x [B, n, in] to [B, n, out], column j by the weights of group groups[j]."""
        num_groups = self.weights[0].shape[0]
        h_GRi = x.reshape(1, -1, x.shape[-1]) if num_groups == 1 else x.transpose(0, 1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if len(groups) < num_groups:
                weight, bias = weight[columns(groups)], bias[columns(groups)]
            h_GRi = torch.baddbmm(bias, h_GRi, weight)
            if layer < last:
                h_GRi = self._activate(h_GRi)
        if num_groups == 1:
            return h_GRi.reshape(*x.shape[:2], -1)
        return h_GRi.transpose(0, 1)


def columns(indices: Sequence[int]) -> slice | list[int]:
    """Index that picks `indices`: a slice, which copies nothing, where they are consecutive."""
    first = indices[0]
    consecutive = list(indices) == list(range(first, first + len(indices)))
    return slice(first, first + len(indices)) if consecutive else list(indices)
