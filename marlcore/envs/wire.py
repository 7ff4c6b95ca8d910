"""An EnvSpec as a message and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from marlcore.envs.channel import OK, Message
from marlcore.envs.protocol import ActionSpec, EnvSpec

_ARRAYS = ("visible", "proprio_quantiles")


def spec_message(spec: EnvSpec) -> Message:
    """Return the message that carries `spec`."""
    arrays = {name: getattr(spec, name) for name in _ARRAYS}
    plain = dataclasses.replace(spec, **dict.fromkeys(_ARRAYS))
    return Message(
        OK,
        text=json.dumps(dataclasses.asdict(plain)),
        arrays={name: array for name, array in arrays.items() if array is not None},
    )


def spec_of(message: Message) -> EnvSpec:
    """Return the spec that `message` carries."""
    values: dict[str, Any] = json.loads(message.text)
    actions: dict[str, Any] = values["actions"]
    return EnvSpec(
        num_agents=values["num_agents"],
        actions=ActionSpec(
            kind=actions["kind"], sizes=tuple(actions["sizes"]), clip=actions["clip"]
        ),
        observation_shapes={k: tuple(v) for k, v in values["observation_shapes"].items()},
        observation_dtypes=values["observation_dtypes"],
        instructions=tuple(values["instructions"]),
        num_shared_views=values["num_shared_views"],
        **{name: message.arrays.get(name) for name in _ARRAYS},  # pyright: ignore[reportArgumentType]
        chunk_length=values["chunk_length"],
        has_success=values["has_success"],
    )
