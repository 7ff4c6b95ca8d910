# pyright: basic
"""OpenVLA-OFT as the actors of all agents: one frozen backbone, an adapter and heads on it.

    mu = action head(trunk(images of agent i, prompt of agent i, proprio of i and belief of i))

sigma is learned and the same in every state. An agent's images stand newest first, the shared
views before its own: [front_t, wrist_t, front_t-1, wrist_t-1]. Where an observer estimates another
agent's distribution, the other's own views are black and its proprio is zero.

E environments   N agents   n agents asked for   H history   C views   I = H C images   V patches
K chunk   D action   P proprio   B numbers of one agent's belief parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from marlcore.distributions import ActionDistribution
from marlcore.envs.protocol import EnvSpec
from marlcore.policies.layout import ChunkLayout
from marlcore.policies.mlp import GaussianHead
from marlcore.policies.openvla.adapters import Adapters
from marlcore.policies.openvla.heads import ActionHead, ProprioProjector
from marlcore.policies.openvla.images import ImageProcessor, Preparation
from marlcore.policies.openvla.memory import (
    MODES,
    Budget,
    RowCost,
    choose_microbatch,
    free_bytes,
    saved_bytes,
)
from marlcore.policies.openvla.model import OpenVLA
from marlcore.policies.openvla.prompts import Prompts
from marlcore.policies.openvla.sight import Sight
from marlcore.policies.openvla.statistics import Quantiles
from marlcore.policies.openvla.store import RowStore
from marlcore.policies.protocol import Actors
from marlcore.types import Inputs


@dataclass(frozen=True)
class Parts:
    """What a checkpoint and the configuration bring together."""

    model: OpenVLA
    """Frozen; adapters are in its trunk."""
    fingerprint: Tensor
    """Of the model before that."""
    heads: Sequence[ActionHead]
    """One for all agents, or one each; float32."""
    projectors: Sequence[ProprioProjector]
    """Likewise."""
    prompts: Prompts
    """Of the N agents."""
    images: ImageProcessor
    preparation: Preparation
    proprio: Quantiles
    action: Quantiles
    adapters: Adapters
    """Named `shared`, or `agent_0` .. one each."""
    log_std: GaussianHead
    store: RowStore
    """Of image features [V, F]."""
    boundaries: RowStore | None
    """Of what goes into the first adapted layer [L, H'], where that is kept for the epochs."""


class OpenVLAActors(Actors):
    """Actors that look, read and feel. Their state holds what is trained, not the backbone.

    Args:
        spec: of the environment; it has images and proprio.
        parts: see there.
        uses_beliefs: agents after the first also read beliefs, with wider proprio projectors.
        share_proprio: an observer knows the proprio of the agents it estimates.
        pooled: whether `act` returns pooled hidden states for the critics.
        compiled: whether torch.compile compiles the trunk's layers.
        span: images that one rollout may name.
        budget: memory for the activations of an update.
    """

    fingerprint: Tensor
    microbatch: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        parts: Parts,
        *,
        uses_beliefs: bool,
        share_proprio: bool,
        pooled: bool,
        compiled: bool,
        span: int,
        budget: Budget,
    ) -> None:
        super().__init__()
        self.layout = ChunkLayout(spec.actions, spec.chunk_length)
        num_agents, history, proprio_size = spec.observation_shapes["proprio"]
        num_views = spec.observation_shapes["images"][2]
        self.feature_size = history * proprio_size
        self.hidden_size = parts.model.shape.hidden_size + self.feature_size if pooled else 0
        self.rounds_by_batch = True
        self._share = len(parts.heads) == 1
        self._share_proprio, self._pooled, self._budget = share_proprio, pooled, budget
        self.backbone = parts.model
        self.heads = nn.ModuleList(parts.heads)
        extra = (num_agents - 1) * self.layout.belief_size if uses_beliefs else 0
        own = range(1, num_agents) if extra else ()
        wider = [self._group(parts.projectors, agent).extended(extra) for agent in own]
        # In a chain the first agent alone has no belief to read.
        self.proprio_projectors = nn.ModuleList(parts.projectors[:1] if extra else parts.projectors)
        self.proprio_projectors_extended = nn.ModuleList(wider[:1] if self._share else wider)
        self._noise = noise = parts.log_std
        start = torch.full((len(parts.heads), self.layout.width), noise.initial_log_std)
        self.log_std = nn.Parameter(start, requires_grad=noise.learned)
        self.proprio_quantiles, self.action_quantiles = parts.proprio, parts.action
        self.prompts, self.adapters = parts.prompts, parts.adapters
        own_view = torch.arange(num_views).repeat(history) >= spec.num_shared_views
        self.sight = Sight(
            parts.model,
            parts.prompts,
            parts.images,
            parts.preparation,
            parts.store,
            span=span,
            own_view=own_view,
        )
        self._boundaries = parts.boundaries
        self._first_layer = 0 if parts.boundaries is None else parts.adapters.first_layer
        if compiled:  # the same code for each layer, so one compilation does for all
            for layer in parts.model.language_model.model.layers:
                layer.compile()
        self.recompute = budget.recompute == "on"
        """Whether the backward pass runs each layer again instead of keeping what it computed."""
        self.register_buffer("fingerprint", parts.fingerprint)
        self.register_buffer("microbatch", torch.zeros(4, dtype=torch.int64))
        self._leave_the_backbone_out()

    @property
    def is_shared(self) -> bool:
        """Whether all agents have one adapter and one head."""
        return self._share

    def adapter_of(self, agent: int) -> str:
        """Return the name of the adapter that an agent's rows pass through."""
        return "shared" if self._share else f"agent_{agent}"

    def components(self, agent: int) -> dict[str, nn.Module]:
        """Return what an agent has besides the backbone and its adapter, by OpenVLA-OFT's names."""
        group = 0 if self._share else agent
        found: dict[str, nn.Module] = {"action_head": self.heads[group]}
        if group < len(self.proprio_projectors):
            found["proprio_projector"] = self.proprio_projectors[group]
        wider = group if self._share else agent - 1
        if 0 <= wider < len(self.proprio_projectors_extended):
            found["proprio_projector_extended"] = self.proprio_projectors_extended[wider]
        return found

    @property
    def num_tokens(self) -> int:
        """L: tokens of one pass."""
        num_images = len(self.sight.own_view)
        return num_images * self.backbone.shape.num_patches + 1 + self.prompts.ids.shape[1]

    def encode(self, observations: Inputs) -> Inputs:
        """Return serial numbers `images` [E, N, I] of image features, and `proprio` [E, N, H, P].

        Args:
            observations: `images` uint8 [E, N, H, C, height, width, 3] and `proprio`.
        """
        serials = self.sight.serials(observations["images"])
        return {"images": serials, "proprio": observations["proprio"]}

    def distribution(
        self,
        inputs: Inputs,
        beliefs: Tensor | None,
        *,
        agents: Sequence[int],
        observer: int | None = None,
    ) -> ActionDistribution:
        """Return the distributions [E, n, K, D] of some agents (see `Actors`)."""
        return self._run(inputs, beliefs, agents, observer)[0]

    def act(self, inputs: Inputs, beliefs: Tensor | None) -> tuple[ActionDistribution, Inputs]:
        """Return everyone's distributions; what is kept of the pass, where that was asked for.

        That is `hidden` [E, N, H' + H P] for critics on hidden states, and serial numbers
        `boundary` [E, N] of what went into the first adapted layer.
        """
        return self._run(inputs, beliefs, range(self.layout.num_agents), None)

    def features(self, inputs: Inputs) -> Tensor:
        """Return each agent's normalised proprio with history, flat: [E, N, H * P]."""
        return self._normalised(inputs["proprio"]).flatten(2)

    def update_moments(self, inputs: Inputs) -> None:
        """Nothing moves: proprio is normalised by fixed statistics."""
        del inputs

    def microbatch_size(self, inputs: Inputs, asked: int | None, more_passes: int) -> int:
        """Return how many of the rows `inputs` [B, ...] one forward-backward takes at once.

        Chosen once and kept with the state (rows, whether layers are run again, and what for), so
        that a resumed run does the same; chosen anew where the settings ask for something else.
        """
        num_rows = len(inputs["proprio"])
        wanted = [asked or 0, MODES.index(self._budget.recompute)]
        rows, recompute, *for_what = self.microbatch.tolist()
        if not rows or for_what != wanted:
            cost = self.row_cost({n: tensor[:1] for n, tensor in inputs.items()}, more_passes)
            chosen = choose_microbatch(cost, num_rows, self._budget, self._free_bytes(), asked)
            rows, recompute = chosen.rows, chosen.recompute
            self.microbatch.copy_(torch.tensor([rows, recompute, *wanted]))
        self.recompute = bool(recompute)
        return min(rows, num_rows)

    def row_cost(self, row: Inputs, more_passes: int = 0) -> RowCost:
        """Measure what one row [1, ...] of an update keeps; never more than one layer at once.

        Args:
            row: inputs.
            more_passes: passes with gradient besides those of the N agents.
        """
        before, self.recompute = self.recompute, True
        around = saved_bytes(lambda: self.act(row, row.get("beliefs")), self.parameters())
        self.recompute = before
        trunk = self.backbone.language_model
        depth, first = len(trunk.model.layers), self._first_layer
        sizes = (self.layout.num_agents, self.num_tokens, self.backbone.shape.hidden_size)
        x = torch.zeros(sizes, dtype=self.backbone.dtype, device=self.backbone.device)

        def one_layer() -> Tensor:
            names = [self.adapter_of(agent) for agent in range(sizes[0])]
            with self._autocast(), self.adapters.scope(names):
                return trunk(x.requires_grad_(), None, layers=slice(depth - 1, depth))

        layer = saved_bytes(one_layer, self.parameters())
        if not any(p.requires_grad for p in self.proprio_projectors.parameters()):
            first = self.adapters.first_layer  # no gradient goes further down
        share = 1 + more_passes / self.layout.num_agents
        return RowCost(
            around=int(around * share),
            layer=int(layer * share),
            layer_input=int(x.numel() * x.itemsize * share),
            num_layers=depth - first,
        )

    def _free_bytes(self) -> int:
        """Memory at hand for activations: what gradients and Adam will take is not."""
        trained = sum(p.numel() * p.itemsize for p in self.parameters() if p.requires_grad)
        return max(0, free_bytes(self.backbone.device) - 3 * trained)

    def _run(
        self, inputs: Inputs, beliefs: Tensor | None, agents: Sequence[int], observer: int | None
    ) -> tuple[ActionDistribution, Inputs]:
        """One pass of the trunk for E * n rows: distributions, and what `act` returns besides."""
        picked, num_rows = list(agents), inputs["proprio"].shape[0]
        device = self.backbone.device
        prompts = self.prompts.to(device).rows(torch.tensor(picked * num_rows, device=device))
        names = [self.adapter_of(agent) for agent in picked] * num_rows
        extras: Inputs = {}
        trunk, first = self.backbone.language_model, self._first_layer
        scope = partial(self.adapters.scope, names)
        token = self._proprio_token(inputs["proprio"], beliefs, picked, observer)
        with self._autocast(), scope():
            if "boundary" in inputs and self._boundaries is not None:
                below = self._boundaries.get(inputs["boundary"][:, picked], device).flatten(0, 1)
            else:
                below = self._below(inputs["images"], token, picked, observer, prompts)
            visible = prompts.visible_among(below.shape[1])
            if self._boundaries is not None and "boundary" not in inputs:
                below = trunk(below, visible, layers=slice(0, first))
                serials = self._boundaries.put(below).view(num_rows, -1)
                extras["boundary"] = serials.to(device)
            upper, again = slice(first, None), self.recompute
            hidden = trunk(below, visible, layers=upper, recompute=again, scope=scope)
        if self._pooled:
            pooled = self._pool(hidden, visible).unflatten(0, (num_rows, -1))
            extras["hidden"] = torch.cat([pooled, self.features(inputs)[:, picked]], dim=-1)
        action_hidden = self.backbone.action_hidden(hidden, prompts).float()
        normalised = self._heads_of(action_hidden.unflatten(0, (num_rows, -1)), picked)
        actions = self.action_quantiles.unnormalise(normalised)[..., : self.layout.width]
        log_std = self.bounded_log_std()
        log_std = log_std.expand(len(picked), -1) if self._share else log_std[picked]
        distribution = self.layout.from_outputs(actions.flatten(2), log_std, agents=picked)
        return distribution, extras

    def _below(
        self,
        serials: Tensor,
        token: Tensor,
        agents: list[int],
        observer: int | None,
        prompts: Prompts,
    ) -> Tensor:
        """Return what goes into the trunk, [E * n, L, H'], from images and proprio tokens."""
        features = self.sight.features(serials[:, agents], agents, seen_by_all=observer is not None)
        features = features.flatten(2, 3).flatten(0, 1)
        return self.backbone.assemble(features, token.flatten(0, 1), prompts)

    def _proprio_token(
        self, proprio: Tensor, beliefs: Tensor | None, agents: list[int], observer: int | None
    ) -> Tensor:
        """Return the token [E, n, H'] of the newest proprio and the belief, in float32."""
        newest = self._normalised(proprio[:, :, 0])
        if observer is not None and not self._share_proprio:
            newest = torch.zeros_like(newest)
        tokens: list[Tensor] = []
        for agent in agents:
            own = newest[:, agent]
            if beliefs is None or agent == 0:
                tokens.append(self._group(self.proprio_projectors, agent)(own))
            else:
                wider = self._group(self.proprio_projectors_extended, agent - 1)
                tokens.append(wider(torch.cat([own, beliefs[:, agent]], dim=-1)))
        return torch.stack(tokens, dim=1)

    def _heads_of(self, action_hidden: Tensor, agents: list[int]) -> Tensor:
        """Return normalised actions [E, n, K, D'] of [E, n, K * D', H']."""
        if self._share:
            return self.heads[0](action_hidden.flatten(0, 1)).unflatten(0, action_hidden.shape[:2])
        rows = [self.heads[agent](action_hidden[:, i]) for i, agent in enumerate(agents)]
        return torch.stack(rows, dim=1)

    def bounded_log_std(self) -> Tensor:
        """Return log sigma [groups, D], clamped; the gradient passes, so that it can come back."""
        bounds = (self._noise.min_log_std, self._noise.max_log_std)
        return self.log_std + (self.log_std.clamp(*bounds) - self.log_std).detach()

    @torch.no_grad()
    def limit_noise(self, remaining: float) -> None:
        """Hold the standard deviation at or below its bound."""
        self.log_std.clamp_(max=self._noise.bound(remaining))

    def _normalised(self, proprio: Tensor) -> Tensor:
        return self.proprio_quantiles.normalise(proprio).float()

    def _group(self, modules: Any, agent: int) -> Any:
        return modules[0 if self._share else agent]

    def _pool(self, hidden: Tensor, visible: Tensor | None) -> Tensor:
        """Return the mean [rows, H'] over all tokens but padding, float32, without gradient."""
        values = hidden.detach().float()
        if visible is None:
            return values.mean(1)
        weights = visible.unsqueeze(-1)
        return (values * weights).sum(1) / weights.sum(1)

    def _autocast(self) -> Any:
        dtype = self.backbone.dtype
        if dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.backbone.device.type, dtype=dtype)

    def _leave_the_backbone_out(self) -> None:
        """Keep frozen tensors out of the state, and do not miss them when it is loaded."""
        frozen = {
            f"backbone.{name}"
            for name, parameter in self.backbone.named_parameters()
            if not parameter.requires_grad
        }

        def drop(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
            for name in frozen:
                state.pop(prefix + name, None)

        def forgive(module: nn.Module, keys: Any) -> None:
            kept = [k for k in keys.missing_keys if k[k.find("backbone.") :] not in frozen]
            keys.missing_keys[:] = kept

        self.register_state_dict_post_hook(drop)
        self.register_load_state_dict_post_hook(forgive)
        self.register_load_state_dict_pre_hook(_refuse_another_backbone)


def _refuse_another_backbone(
    module: OpenVLAActors, state: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    saved = state.get(f"{prefix}fingerprint")
    own = module.fingerprint
    if saved is not None and not (
        saved.shape == own.shape and torch.allclose(saved.to(own.device), own, rtol=1e-4, atol=1e-7)
    ):
        raise ValueError(
            "the run was trained on another backbone than policy.pretrained_checkpoint holds now; "
            "give the folder or hub id it was trained with"
        )
