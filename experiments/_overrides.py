"""From named configs and command-line words to one configuration, or to a clear refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from experiments import _ignored
from experiments._words import Words, read_words
from marlcore import config_keys
from marlcore.config import ExperimentConfig
from marlcore.config_errors import ConfigError, parse_config

ALLOWED_ON_RESUME = (
    "training.total_timesteps",
    "training.num_workers",
    "training.device",
    "training.num_threads",
    "algorithm.microbatch_size",
    "policy.pretrained_checkpoint",
    "policy.activation_checkpointing",
    "policy.feature_memory_gib",
    "policy.feature_folder",
    "distributed.",
    "logging.",
)
"""Keys that change nothing of what was computed; a name that ends in a dot is a whole section.

A checkpoint's folder may have moved; another checkpoint is refused when the run is loaded.
"""

Values = Mapping[str, object]


@dataclass(frozen=True)
class Resolved:
    """A configuration and what it was made from."""

    config: ExperimentConfig
    named: tuple[str, ...]
    given: frozenset[str]
    """Keys that the user's words set."""


def resolve(words: Words, *, base: Values, named: Mapping[str, Values]) -> Resolved:
    """Put the layers on each other: the script's base, named configs in order, the words.

    Raises:
        ConfigError: unknown or wrong values, or settings that would be ignored.
    """
    layers = [base, *(named[name] for name in words.named)]
    flat: dict[str, object] = {}
    for layer in (*(dict(_flatten(layer)) for layer in layers), words.given):
        flat = _on_top(flat, layer)
    config = parse_config(_nested(flat))
    _refuse_another_algorithm(config, base)
    given = frozenset(words.given)
    faults = _ignored.faults(config, given)
    if faults:
        raise ConfigError("\n".join(faults))
    return Resolved(config, tuple(words.named), given)


def resolve_words(words: Sequence[str], *, base: Values, named: Mapping[str, Values]) -> Resolved:
    """`resolve` for plain words."""
    return resolve(read_words(words, named), base=base, named=named)


def resolve_resumed(words: Words, recorded: Values, *, run_id: str, base: Values) -> Resolved:
    """The recorded configuration with the few changes that resuming allows.

    Raises:
        ConfigError: another setting was given, or the run belongs to another script.
    """
    faults = [f"{name}: a named config changes what is computed" for name in words.named]
    for key in words.given:
        if not any(key == ok or (ok[-1] == "." and key.startswith(ok)) for ok in ALLOWED_ON_RESUME):
            faults.append(f"{key}: it changes what was computed so far")
    if faults:
        allowed = ", ".join(name + "*" if name[-1] == "." else name for name in ALLOWED_ON_RESUME)
        faults.append(
            f"resume={run_id} goes on with the run's own settings; it takes {allowed}. "
            "Leave the others out, or start a new run without resume"
        )
        raise ConfigError("\n".join(faults))
    flat = {**dict(_flatten(recorded)), **words.given}
    config = parse_config(_nested(flat))
    _refuse_another_algorithm(config, base, run_id)
    faults = _ignored.faults(config, words.given)
    if faults:
        raise ConfigError("\n".join(faults))
    return Resolved(config, (), frozenset(words.given))


def _refuse_another_algorithm(
    config: ExperimentConfig, base: Values, run_id: str | None = None
) -> None:
    own, chosen = dict(_flatten(base))["algorithm.name"], config.algorithm.name
    if chosen != own:
        what = f"run {run_id} is one of {chosen}" if run_id else f"algorithm.name={chosen}"
        raise ConfigError(f"{what}, this script trains {own}; use experiments/{chosen}.py")


def _on_top(below: Values, above: Values) -> dict[str, object]:
    """Merge two flat layers; a new variant drops what only the former one had from below."""
    kept = dict(below)
    for tag in config_keys.tags().values():
        if tag.name in above and above[tag.name] != below.get(tag.name, tag.default):
            chosen = {tag.name: above[tag.name]}
            section = tag.name.partition(".")[0] + "."
            for name in below:
                if name.startswith(section) and config_keys.lookup(_leaf(name), chosen) is None:
                    del kept[name]
    for name in above:  # a dict that is a value replaces the whole of it
        for inner in [inner for inner in kept if inner.startswith(name + ".")]:
            del kept[inner]
    return {**kept, **above}


def _leaf(name: str) -> str:
    """The key of the schema that `name` is, or lies in (an entry of a dict)."""
    known = name
    while known and known not in config_keys.names():
        known = known.rpartition(".")[0]
    return known or name


def _flatten(values: Values, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        dotted = prefix + name
        if isinstance(value, Mapping) and dotted not in config_keys.names():
            yield from _flatten(value, dotted + ".")
        else:
            yield dotted, value


def _nested(flat: Values) -> dict[str, object]:
    values: dict[str, object] = {}
    for dotted, value in flat.items():
        *parts, last = dotted.split(".")
        place: dict[str, object] = values
        for part in parts:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{dotted}: {part} is given a value and an entry; give one")
            place = inner
        place[last] = dict(value) if isinstance(value, Mapping) else value
    return values
