"""Actors on vectors and images: perceptrons with Gaussian or categorical heads, shared or one each.

E environments   N agents   n agents asked for   H history   O entries of one observation
B numbers of one agent's belief parameters   F features of images, 0 without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marlcore.distributions import ActionDistribution
from marlcore.envs.protocol import EnvSpec
from marlcore.policies.convolutions import ImageEncoders
from marlcore.policies.layout import ChunkLayout
from marlcore.policies.networks import AgentMLP, columns
from marlcore.policies.protocol import Actors
from marlcore.statistics import RunningMoments
from marlcore.types import Inputs


@dataclass(frozen=True)
class GaussianHead:
    """The state-independent log standard deviation of continuous actions."""

    initial_log_std: float
    learned: bool
    min_log_std: float = -5.0
    max_log_std: float = 2.0
    final_log_std: float | None = None
    """Where the bound ends that falls over the run; None: there is no such bound."""

    def bound(self, remaining: float) -> float:
        """Return the most that the log standard deviation may be now.

        The bound of the standard deviation itself is a straight line over the run.
        """
        if self.final_log_std is None:
            return math.inf
        start, end = math.exp(self.initial_log_std), math.exp(self.final_log_std)
        return math.log(end + (start - end) * remaining)


class MLPActors(Actors):
    """One perceptron per agent, or one for all told apart by a one-hot id.

    It reads the vector, what `images` makes of the pictures, or both. An entry an observer cannot
    see is zero after normalisation, the mean of what was seen.
    """

    _visible: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden_sizes: Sequence[int],
        activation: str,
        output_gain: float,
        share_policy: bool,
        agent_id: bool,
        uses_beliefs: bool,
        head: GaussianHead,
        normalise_observations: bool,
        observation_clip: float,
        generator: torch.Generator,
        images: ImageEncoders | None = None,
        see_vector: bool = True,
    ) -> None:
        super().__init__()
        self.layout = ChunkLayout(spec.actions, spec.chunk_length)
        N, H, O = spec.observation_shapes["vector"]  # noqa: E741 - the glossary's letter
        self.images, self._see_vector = images, see_vector
        self.feature_size = H * O * see_vector + (images.feature_size if images else 0)
        self.hidden_size = 0
        self.rounds_by_batch = False
        self._share = share_policy
        self._ids = torch.eye(N) if share_policy and agent_id else torch.zeros(N, 0)
        belief = (N - 1) * self.layout.belief_size if uses_beliefs else 0
        groups = 1 if share_policy else N
        self.network = AgentMLP(
            num_groups=groups,
            sizes=(
                self.feature_size + self._ids.shape[1] + belief,
                *hidden_sizes,
                self.layout.output_size,
            ),
            activation=activation,
            output_gain=output_gain,
            generator=generator,
        )
        self._head = head
        log_std = torch.full((groups, self.layout.width), head.initial_log_std)
        learned = head.learned and spec.actions.kind == "continuous"
        self.log_std = nn.Parameter(log_std, requires_grad=learned)
        self._normalise, self._clip = normalise_observations, observation_clip
        self.moments = RunningMoments((O,) if share_policy else (N, O))
        visible = torch.zeros(N, N, O) if spec.visible is None else torch.tensor(spec.visible)
        self.register_buffer("_visible", visible.float(), persistent=False)

    def encode(self, observations: Inputs) -> Inputs:
        """Keep vectors and pictures as they are; all else belongs to `distribution`."""
        names = ("vector", "images") if self.images is not None else ("vector",)
        return {name: observations[name] for name in names}

    def distribution(
        self,
        inputs: Inputs,
        beliefs: Tensor | None,
        *,
        agents: Sequence[int],
        observer: int | None = None,
    ) -> ActionDistribution:
        """Return the distributions [E, n, K, width] of some agents (see `Actors`)."""
        picked = columns(agents)
        parts = self._seen(inputs, agents, observer)
        if self._ids.shape[1]:
            ids = self._ids.to(parts[0].device)[picked]
            parts.append(ids.expand(parts[0].shape[0], *ids.shape))
        if beliefs is not None:
            parts.append(beliefs[:, picked])
        outputs = self.network(torch.cat(parts, dim=-1), agents)
        log_std = self.log_std.clamp(self._head.min_log_std, self._head.max_log_std)
        log_std = log_std.expand(len(agents), -1) if self._share else log_std[picked]
        return self.layout.from_outputs(outputs, log_std, agents=agents)

    def act(self, inputs: Inputs, beliefs: Tensor | None) -> tuple[ActionDistribution, Inputs]:
        """Return everyone's distributions; there is nothing else that critics could read."""
        return self.distribution(inputs, beliefs, agents=range(self.layout.num_agents)), {}

    def features(self, inputs: Inputs) -> Tensor:
        """Return the normalised vectors, flat, and features of the images: [E, N, H * O + F]."""
        return torch.cat(self._seen(inputs, range(self.layout.num_agents), None), dim=-1)

    @torch.no_grad()
    def limit_noise(self, remaining: float) -> None:
        """Hold the standard deviation at or below its bound."""
        self.log_std.clamp_(max=self._head.bound(remaining))

    @torch.no_grad()
    def update_moments(self, inputs: Inputs) -> None:
        """Fold the newest observation of each decision [R, N, H, ...] into the moments."""
        if self.images is not None:
            self.images.update_moments(inputs["images"])
        if self._normalise:
            newest = inputs["vector"][:, :, 0]
            self.moments.update(newest.flatten(0, 1) if self._share else newest)

    def microbatch_size(self, inputs: Inputs, asked: int | None, more_passes: int) -> int:
        """What is asked for, or all rows: perceptrons are small."""
        del more_passes
        return asked or len(inputs["vector"])

    def _seen(self, inputs: Inputs, agents: Sequence[int], observer: int | None) -> list[Tensor]:
        """Return what some agents see: [E, n, H * O] and [E, n, F], or one of them."""
        picked, parts = columns(agents), list[Tensor]()
        if self._see_vector:
            vector_EnHO = self._normalised(inputs["vector"])[:, picked]
            if observer is not None:
                vector_EnHO = vector_EnHO * self._visible[observer, picked].unsqueeze(1)
            parts.append(vector_EnHO.flatten(2))
        if self.images is not None:
            parts.append(self.images(inputs["images"][:, picked], agents, observer))
        return parts

    def _normalised(self, vector_ENHO: Tensor) -> Tensor:
        if not self._normalise:
            return vector_ENHO
        swapped = vector_ENHO.transpose(1, 2)  # moments are [N, O] or [O]
        return self.moments.normalise(swapped, self._clip).transpose(1, 2)
