"""Generators: one stream per purpose, the same on every process; captured and restored as tensors.

Noise of actions is drawn for the environments of all processes and each takes its own rows. So the
number of processes changes neither what an environment sees nor what any generator's state is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from marlcore import distributed

Purpose = Literal["initialisation", "actions", "minibatches", "evaluation"]
_PURPOSES: tuple[Purpose, ...] = ("initialisation", "actions", "minibatches", "evaluation")


def make_generator(seed: int, purpose: Purpose) -> torch.Generator:
    """Return the generator of one purpose; different purposes of one seed never share numbers."""
    sequence = np.random.SeedSequence([seed, _PURPOSES.index(purpose)])
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)


class NoiseSource:
    """Standard-normal or Gumbel noise for the actions of this process's environments."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, num_envs: int, *shape: int) -> Tensor:
        """Return [E, *shape] standard-normal numbers, different on every process."""
        world = distributed.world_size()
        everything = torch.randn(world * num_envs, *shape, generator=self.generator)
        return _own_rows(everything, num_envs)

    def gumbel(self, num_envs: int, *shape: int) -> Tensor:
        """Return [E, *shape] standard Gumbel numbers, -log(-log u)."""
        world = distributed.world_size()
        everything = torch.rand(
            world * num_envs, *shape, generator=self.generator, dtype=torch.float64
        )
        uniform = _own_rows(everything, num_envs).clamp(1e-300, 1 - 1e-16)
        return (-(-uniform.log()).log()).float()


class SharedNoise:
    """The same noise for groups of environments that decide one after the other.

    The first group's decision draws for all; the others take their rows of it. So the number of
    groups changes what no environment sees.
    """

    def __init__(self, source: NoiseSource, groups: Sequence[slice]) -> None:
        self._source, self._groups = source, groups
        self._draws: list[Tensor] = []

    def of(self, group: int) -> NoiseSource:
        """Return the noise of a group's next decision; the first group's comes first."""
        if len(self._groups) == 1:
            return self._source
        if group == 0:
            self._draws = []
        return _GroupNoise(self._source, self._groups, group, self._draws)


class _GroupNoise(NoiseSource):
    def __init__(
        self, source: NoiseSource, groups: Sequence[slice], group: int, draws: list[Tensor]
    ) -> None:
        super().__init__(source.generator)
        self._source, self._rows, self._num_envs = source, groups[group], groups[-1].stop
        self._draws, self._is_first, self._next = draws, group == 0, 0

    def normal(self, num_envs: int, *shape: int) -> Tensor:
        return self._own(lambda: self._source.normal(self._num_envs, *shape))

    def gumbel(self, num_envs: int, *shape: int) -> Tensor:
        return self._own(lambda: self._source.gumbel(self._num_envs, *shape))

    def _own(self, draw: Callable[[], Tensor]) -> Tensor:
        if self._is_first:
            self._draws.append(draw())
        self._next += 1
        return self._draws[self._next - 1][self._rows]


def _own_rows(everything: Tensor, num_envs: int) -> Tensor:
    start = distributed.rank() * num_envs
    return everything[start : start + num_envs]
