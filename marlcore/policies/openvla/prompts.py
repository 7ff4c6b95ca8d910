"""Instructions to token ids, and the layout of a row's text.

    ids: BOS, prompt, 29871, A placeholders, stop, padding

B rows   S text tokens   A = K * D placeholders, K low-level actions of D tokens each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from marlcore.policies.openvla.language import PAD

UNKNOWN, BOS, STOP, PLACEHOLDER = 0, 1, 2, 1
SPACE = 29871
"""Id of a lone space, which ends every prompt."""


@dataclass(frozen=True)
class Prompts:
    """The text of B rows."""

    ids: Tensor
    """[B, S] int64."""
    is_action: Tensor
    """[B, S] bool: placeholders, whose embeddings are zero."""
    action_positions: Tensor
    """[B, A] int64: where the placeholders stand in `ids`."""
    language: Tensor
    """[B, S] bool: prompt and stop token, which FiLM looks at."""
    visible: Tensor | None
    """[B, S] bool: False at padding; None where no row has any."""

    def visible_among(self, num_tokens: int) -> Tensor | None:
        """Return which of L tokens are no padding [B, L]: what is inserted behind BOS never is."""
        if self.visible is None:
            return None
        ahead = self.visible.new_ones(len(self.ids), num_tokens - self.ids.shape[1])
        return torch.cat([ahead, self.visible], dim=1)

    def to(self, device: torch.device) -> Prompts:
        """Return the same on another device."""
        visible = None if self.visible is None else self.visible.to(device)
        tensors = (self.ids, self.is_action, self.action_positions, self.language)
        return Prompts(*(tensor.to(device) for tensor in tensors), visible=visible)

    def rows(self, index: Tensor) -> Prompts:
        """Return the rows `index` [B'], which may repeat."""
        visible = None if self.visible is None else self.visible[index]
        tensors = (self.ids, self.is_action, self.action_positions, self.language)
        return Prompts(*(tensor[index] for tensor in tensors), visible=visible)


def prompt_text(instruction: str, robot: int | None = None) -> str:
    """Return the sentence around an instruction; `robot` tells several robots apart."""
    who = "" if robot is None else f"You are robot {robot}. "
    return f"In: {who}What action should the robot take to {instruction.lower()}?\nOut:"


def make_prompts(prompt_ids: Sequence[Sequence[int]], num_placeholders: int) -> Prompts:
    """Lay out rows of prompts, each beginning with BOS; shorter ones are padded behind."""
    rows = [[*ids] if ids[-1] == SPACE else [*ids, SPACE] for ids in prompt_ids]
    longest = max(map(len, rows)) + num_placeholders + 1
    ids = torch.full((len(rows), longest), PAD)
    is_action = torch.zeros(len(rows), longest, dtype=torch.bool)
    language, visible = torch.zeros_like(is_action), torch.zeros_like(is_action)
    for row, prompt in enumerate(rows):
        start, stop = len(prompt), len(prompt) + num_placeholders
        text = [*prompt, *[PLACEHOLDER] * num_placeholders, STOP]
        ids[row, : len(text)] = torch.tensor(text)
        is_action[row, start:stop] = True
        language[row, :start] = language[row, stop] = True
        visible[row, : len(text)] = True
    return Prompts(
        ids=ids,
        is_action=is_action,
        action_positions=is_action.nonzero()[:, 1].view(len(rows), num_placeholders),
        language=language,
        visible=None if visible.all() else visible,
    )


class PromptTokenizer:
    """A checkpoint's tokenizer.json."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ValueError: if it is missing or no tokenizer.
        """
        if not path.is_file():
            raise ValueError(
                f"there is no {path}; the checkpoint needs its tokenizer.json (that of "
                "openvla/openvla-7b, whose vocabulary every OpenVLA checkpoint shares)"
            )
        self._path = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises this class itself
            raise ValueError(f"{path} is no tokenizer: {error}") from error

    def ids(self, text: str) -> list[int]:
        """Return token ids, BOS first."""
        ids: list[int] = self._tokenizer.encode(text).ids
        if UNKNOWN in ids:
            raise ValueError(
                f"{self._path} does not know all of {text!r}; it is another model's tokenizer, or "
                "the instruction has signs that it cannot spell"
            )
        return ids if ids and ids[0] == BOS else [BOS, *ids]
