"""An EnvSpec as a message and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from marlcore.envs.channel import OK, Message
from marlcore.envs.protocol import ActionSpec, EnvSpec


def spec_message(spec: EnvSpec) -> Message:
    """Return the message that carries `spec`."""
    text = json.dumps(dataclasses.asdict(dataclasses.replace(spec, visible=None)))
    return Message(OK, text=text, arrays={} if spec.visible is None else {"visible": spec.visible})


def spec_of(message: Message) -> EnvSpec:
    """Return the spec that `message` carries."""
    values: dict[str, Any] = json.loads(message.text)
    actions: dict[str, Any] = values["actions"]
    visible = message.arrays.get("visible")
    return EnvSpec(
        num_agents=values["num_agents"],
        actions=ActionSpec(
            kind=actions["kind"], sizes=tuple(actions["sizes"]), clip=actions["clip"]
        ),
        observation_shapes={k: tuple(v) for k, v in values["observation_shapes"].items()},
        observation_dtypes=values["observation_dtypes"],
        instructions=tuple(values["instructions"]),
        visible=None if visible is None else visible.astype(np.bool_),
        chunk_length=values["chunk_length"],
        has_success=values["has_success"],
    )
