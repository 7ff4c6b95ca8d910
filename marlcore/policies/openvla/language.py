# pyright: basic
"""The language trunk: transformers' LlamaModel, run bidirectionally, without logits and cache.

B rows   L tokens   H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from marlcore.policies.openvla.shape import ModelShape

PAD = 32000
"""Id of the padding token."""

Scope = Callable[[], AbstractContextManager[None]]


class LanguageModel(nn.Module):
    """Holds the trunk under the checkpoint's name; `lm_head` is not built."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_attention_heads,
            num_key_value_heads=shape.num_key_value_heads,
            rms_norm_eps=shape.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
            max_position_embeddings=shape.max_position_embeddings,
            pad_token_id=PAD if shape.vocab_size > PAD else None,
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        )
        self.model = LlamaModel(config)

    def make_frequencies(self, device: torch.device) -> None:
        """Compute the RoPE frequencies anew, in float32: they are in no checkpoint."""
        with torch.device(device):
            self.model.rotary_emb = LlamaRotaryEmbedding(self.model.config)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings [..., H] of token ids [...]."""
        return self.model.embed_tokens(ids)

    def forward(
        self,
        x: Tensor,
        visible: Tensor | None,
        *,
        layers: slice = slice(None),
        recompute: bool = False,
        scope: Scope = nullcontext,
    ) -> Tensor:
        """Run some layers on embeddings [B, L, H]; the final norm follows a slice without end.

        Args:
            x: what goes into the first of these layers.
            visible: [B, L] bool, False at padding; None where there is none.
            layers: which of them.
            recompute: keep nothing but each layer's input for the backward pass.
            scope: what a layer needs when it is run again, as it was around this call.
        """
        model = self.model
        mask = None if visible is None else visible[:, None, None, :]
        positions = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        rotation = model.rotary_emb(x, position_ids=positions)

        def run(layer: nn.Module, x: Tensor) -> Tensor:
            return layer(x, attention_mask=mask, position_embeddings=rotation, is_causal=False)

        for layer in model.layers[layers]:
            if recompute and torch.is_grad_enabled():
                again = lambda: (nullcontext(), scope())  # noqa: E731 - called by checkpoint alone
                x = checkpoint(
                    run,
                    layer,
                    x,
                    use_reentrant=False,
                    context_fn=again,
                    preserve_rng_state=False,  # nothing in a layer is random
                )
            else:
                x = run(layer, x)
        return model.norm(x) if layers.stop is None else x
