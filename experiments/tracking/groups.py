"""Which runs belong together, and what a group is called.

Runs of one group differ in the seed alone, or in what changes nothing that is computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments._overrides import ALLOWED_ON_RESUME
from experiments.tracking.view import flat
from marlcore import config_keys
from marlcore.config_errors import ConfigError, show

NOT_COMPUTED = tuple(
    key
    for key in ALLOWED_ON_RESUME
    if key not in ("training.total_timesteps", "policy.pretrained_checkpoint")
)
"""What a run may change when it resumes, but for its length, and for the checkpoint it started
from: there its content is compared, here nothing but its path is known."""
_ALGORITHM = "algorithm.name"


@dataclass(frozen=True)
class Part:
    """A group before anything is computed; `places` says which configurations belong to it."""

    label: str
    settings: Mapping[str, Any]
    places: tuple[int, ...]


def group_configs(configs: Sequence[Mapping[str, Any]], by: Sequence[str] = ()) -> list[Part]:
    """Groups by all that matters but the seed, or by the given keys alone; unique labels."""
    flats = [flat(plain(config)) for config in configs]
    known = list(dict.fromkeys(key for settings in flats for key in settings))
    keys = [resolve_key(key, known) for key in by]
    places: dict[str, list[int]] = {}
    for place, settings in enumerate(flats):
        kept = {key: settings.get(key) for key in keys} if by else identity(settings)
        places.setdefault(text_of(kept), []).append(place)
    groups = [flats[first] for first, *_ in places.values()]
    keys = keys or _differing([identity(settings) for settings in groups])
    parts: dict[str, Part] = {}
    for settings, where in zip(groups, places.values(), strict=True):
        label = _label(settings, keys, known) or str(settings.get(_ALGORITHM, "all runs"))
        while label in parts:
            label += "'"
        parts[label] = Part(label, {k: settings[k] for k in keys if k in settings}, tuple(where))
    return list(parts.values())


def labelled(labels: Sequence[str]) -> list[Part]:
    """Groups by labels that are given, in the order of their first places."""
    return [
        Part(label, {}, tuple(place for place, other in enumerate(labels) if other == label))
        for label in dict.fromkeys(labels)
    ]


def resolve_key(text: str, known: Sequence[str]) -> str:
    """The config key that is `text`, or alone ends in it."""
    found = [key for key in known if key == text] or [k for k in known if k.endswith("." + text)]
    if len(found) == 1:
        return found[0]
    near = config_keys.nearest(text, known)
    meant = f"fits {', '.join(found)}; write the whole key" if found else "no run has this key"
    hint = f"; did you mean {near}?" if near and not found else ""
    raise ConfigError(f"--by {text}: {meant}{hint}")


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a flat configuration what is computed, but for the seed."""
    dropped = ("seed", *NOT_COMPUTED)
    sections = tuple(key for key in dropped if key[-1] == ".")
    return {
        key: value
        for key, value in settings.items()
        if key not in dropped and not f"{key}.".startswith(sections)
    }


def _differing(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that tell groups apart, algorithm.name first.

    A key that some groups lack counts only if nothing else tells them apart: mostly it belongs to
    another variant (gamma_prime to acppo).
    """
    known = sorted({key: 0 for group in groups for key in group}, key=lambda k: k != _ALGORITHM)
    keys = [k for k in known if len({text_of(group[k]) for group in groups if k in group}) > 1]
    if len({text_of([group.get(key) for key in keys]) for group in groups}) < len(groups):
        keys = [k for k in known if k in keys or any(k not in group for group in groups)]
    return keys


def _label(settings: Mapping[str, Any], keys: Sequence[str], known: Sequence[str]) -> str:
    """`acppo clip_epsilon=0.1`; the last part of a key where no other key ends so."""
    words: list[str] = []
    for key in keys:
        last = key.rpartition(".")[2]
        short = last if sum(k.rpartition(".")[2] == last for k in known) == 1 else key
        tag = config_keys.tags().get(key.partition(".")[0])
        if key in settings:
            value = settings[key] if isinstance(settings[key], str) else show(settings[key])
            words.append(value if key == _ALGORITHM else f"{short}={value}")
        elif tag is None or tag.name not in keys:  # else it belongs to another variant
            words.append(f"{short} unset")
    return " ".join(" ".join(words).split()).encode("utf-8", "replace").decode()


def text_of(value: object) -> str:
    """Canonical JSON, for telling values apart."""
    return json.dumps(value, sort_keys=True)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Strict JSON in which 1.0 is 1: what was read from files or MongoDB is the same."""

    def number(text: str) -> float:
        return int(float(text)) if float(text).is_integer() else float(text)

    text = json.dumps(config, default=str)
    values: dict[str, Any] = json.loads(text, parse_float=number, parse_constant=str)
    return values
