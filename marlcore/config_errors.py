"""From a dict to a config, strictly: every fault with its key, value, range and default."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from marlcore import config_keys
from marlcore.config import ExperimentConfig
from marlcore.config_keys import REQUIRED

_LONGEST_VALUE = 60


class ConfigError(ValueError):
    """The user's settings are refused; the message has a line per fault."""


def parse_config(values: Mapping[str, object]) -> ExperimentConfig:
    """Convert nested values strictly; keys that are not given take the defaults of their variant.

    Raises:
        ConfigError: a line for each key that is unknown, missing, of a wrong type or out of range.
    """
    complete = with_default_tags(values)
    try:
        text = json.dumps(complete)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration is not plain data: {error}") from None
    try:
        return ExperimentConfig.model_validate_json(text)
    except ValidationError as error:
        chosen = chosen_variants(complete)
        faults = [_explain(fault, chosen, complete) for fault in error.errors(include_url=False)]
    raise ConfigError("\n".join(dict.fromkeys(faults)))


def with_default_tags(values: Mapping[str, object]) -> dict[str, object]:
    """A copy in which each union section names its variant, the default one unless given."""
    complete = dict(values)
    for section, tag in config_keys.tags().items():
        given = complete.get(section)
        if isinstance(given, Mapping) and tag.bare not in given and tag.default != REQUIRED:
            complete[section] = {tag.bare: tag.default, **given}
    return complete


def chosen_variants(values: Mapping[str, object]) -> dict[str, object]:
    """The variant of each union section: {"env.kind": "game", ..}."""
    chosen: dict[str, object] = {}
    for section, tag in config_keys.tags().items():
        given: Any = values.get(section)
        chosen[tag.name] = tag.default
        if isinstance(given, Mapping):
            chosen[tag.name] = cast(Mapping[str, object], given).get(tag.bare, tag.default)
    return chosen


def unknown_key(name: str, chosen: Mapping[str, object]) -> str:
    """Say that there is no such key, and which one may have been meant."""
    others = config_keys.variants_with(name)
    if others:
        tag = others[0][0]
        kinds = " or ".join(f"{tag}={kind}" for _, kind in others)
        return f"{name} belongs to {kinds}, this run has {tag}={chosen[tag]}"
    sections = {section.name for section in config_keys.all_sections()}
    near = config_keys.nearest(name, sections) if "." not in name else None
    near = near or config_keys.nearest(name)
    if near is None:
        return f"{name}: no such key; --help lists all keys"
    belongs = config_keys.variants_with(near) if config_keys.lookup(near, chosen) is None else []
    note = "".join(f" (of {tag}={kind})" for tag, kind in belongs[:1])
    return f"{name}: no such key; did you mean {near}?{note}"


def show(value: object) -> str:
    """A value as it is written on the command line, shortened."""
    words = {True: "true", False: "false", None: "null"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _explain(fault: Any, chosen: Mapping[str, object], values: Mapping[str, object]) -> str:
    name = _dotted(fault["loc"])
    kind, value = fault["type"], fault.get("input")
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind == "json_invalid":
        return "the configuration holds text that is not valid Unicode"
    if kind == "extra_forbidden":
        return unknown_key(name, chosen)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = config_keys.tags()[name]
        if chosen[tag.name] == REQUIRED:
            return f"{tag.name}: must be given; {tag.allowed}"
        return _refused(tag, chosen[tag.name])
    leaf = name
    while leaf and leaf not in config_keys.names():
        leaf = leaf.rpartition(".")[0]
    key = config_keys.lookup(leaf, chosen) if leaf else None
    if key is None:
        return f"{name}: {show(value)} is refused; {name} is a section, set its keys one by one"
    if kind == "missing" and name == leaf:
        what = key.meaning if key.allowed == "text" else key.allowed
        return f"{name}: must be given; {what}"
    whole: Any = values
    for part in leaf.split("."):
        whole = whole[part]
    return _refused(key, whole)


def _dotted(location: tuple[int | str, ...]) -> str:
    """The key of an error's location; the variant's name, which comes second there, is left out."""
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] in config_keys.tags():
        del parts[1]
    return ".".join(parts)


def _refused(key: config_keys.Key, value: object) -> str:
    default = key.default if isinstance(key.default, str) else show(key.default)
    default = "" if key.default == REQUIRED else f" (default {default})"
    if "of the form" in key.allowed:
        default += f"; {key.meaning[0].lower()}{key.meaning[1:].rstrip('.')}"
    hint = _hint(value, key.allowed)
    return f"{key.name}: {show(value)} is refused; give {key.allowed}{default}{hint}"


def _hint(value: object, allowed: str) -> str:
    """What the user probably wanted to write."""
    text = str(value).strip("[]()").replace(" ", "")
    if re.match("an? (number|integer)", allowed):
        if re.fullmatch(r"-?\d+,\d+(e-?\d+)?", text):
            return f"; write {text.replace(',', '.')}"
        if allowed.startswith("an integer") and isinstance(value, float) and value.is_integer():
            return f"; write {int(value)}"
        return ""
    if allowed.startswith("a list") and not isinstance(value, list | tuple | dict):
        items = [part.strip(" []()'\"") for part in text.split(",")]
        quote = "'" if "text" in allowed else ""
        return "; write [" + ",".join(f"{quote}{item}{quote}" for item in items if item) + "]"
    if allowed.startswith("one of") and isinstance(value, str):
        near = config_keys.nearest(value, re.split(", | or ", allowed.removeprefix("one of ")))
        return f"; did you mean {near}?" if near else ""
    return ""
