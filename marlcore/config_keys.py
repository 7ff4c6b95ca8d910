"""The keys of the configuration schema, as a list: for help, tables, and naming the nearest.

Read from the JSON schema that pydantic makes of `ExperimentConfig`: nothing is written twice. A
union section (env, policy, algorithm) has a tag (`env.kind`) and a variant for each of its values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from marlcore.config import ExperimentConfig

REQUIRED: Final = "(required)"
"""Default of a key that has none."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """One key of the schema; a key that several variants have stands once for each."""

    name: str
    """Dotted, without the variant: algorithm.gamma_prime."""
    allowed: str
    """Type and range in words: "a number > 0 and < 1"."""
    default: object
    meaning: str
    variant: tuple[str, str] | None = None
    """(tag, value), for example ("env.kind", "game"); None for what every run has."""

    @property
    def bare(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Section:
    """A section, or one variant of a union section."""

    name: str
    meaning: str
    variant: tuple[str, str] | None = None


@cache
def all_keys() -> tuple[Key, ...]:
    """Every key, in the order of the schema; tags of union sections come first in their section."""
    return tuple(item for item in _walk_schema() if isinstance(item, Key))


@cache
def all_sections() -> tuple[Section, ...]:
    """Every section and variant, in the order of the schema."""
    return tuple(item for item in _walk_schema() if isinstance(item, Section))


@cache
def tags() -> dict[str, Key]:
    """The tag of each union section, {"env": key env.kind, ..}; its default names a variant."""
    unions = {section.variant[0] for section in all_sections() if section.variant}
    return {key.name.partition(".")[0]: key for key in all_keys() if key.name in unions}


@cache
def names() -> frozenset[str]:
    """Dotted names of all keys of all variants."""
    return frozenset(key.name for key in all_keys())


@cache
def groups() -> tuple[tuple[Section, tuple[Key, ...]], ...]:
    """Each key once, for people: by section, and behind it by variant what not all of them have."""
    twins: dict[str, list[Key]] = {}
    for key in all_keys():
        twins.setdefault(key.name, []).append(key)
    unions = [section.name for section in all_sections() if section.variant]
    num_variants = {tag.name: unions.count(section) for section, tag in tags().items()}

    def is_shared(key: Key) -> bool:
        same = twins[key.name]
        alike = {(twin.allowed, repr(twin.default), twin.meaning) for twin in same}
        return len(alike) == 1 and (
            key.variant is None or len(same) == num_variants[key.variant[0]]
        )

    shared = [same[0] for same in twins.values() if is_shared(same[0])]
    top = tuple(key for key in shared if "." not in key.name)
    result = [(Section("", "What has no section."), top)]
    for section in all_sections():
        prefix = section.name + "."
        if "." in section.name:
            continue
        if section.variant is None:
            own = [key for key in shared if key.name.startswith(prefix)]
        else:
            own = [k for k in all_keys() if k.variant == section.variant and not is_shared(k)]
        result.append((section, tuple(own)))
    return tuple(result)


def variants_with(name: str) -> list[tuple[str, str]]:
    """Variants that have this key; empty for keys of every run and for unknown ones."""
    return [key.variant for key in all_keys() if key.name == name and key.variant]


def lookup(name: str, chosen: Mapping[str, object]) -> Key | None:
    """The key under the chosen variants ({"env.kind": "game", ..}); None where they have none."""
    for key in all_keys():
        tag, kind = key.variant or (None, None)
        if key.name == name and (tag is None or chosen.get(tag) == kind):
            return key
    return None


def with_name_ending(text: str) -> list[str]:
    """Dotted names that are `text` or end in `.text`."""
    return sorted(name for name in names() if name == text or name.endswith("." + text))


def nearest(text: str, candidates: Iterable[str] | None = None) -> str | None:
    """The candidate (by default, key) that looks most like `text`, whole or in its last part."""
    folded, tail = text.casefold(), text.casefold().rpartition(".")[2]
    best, best_ratio = None, 0.6
    for name in sorted(names() if candidates is None else candidates):
        bare = name.rpartition(".")[2]
        pairs = [(folded, name)] if "." in text else [(folded, name), (tail, bare)]
        if "." in text and folded.partition(".")[0] != name.partition(".")[0]:
            pairs.append((tail, bare))
        ratio = max(difflib.SequenceMatcher(None, a, b.casefold()).ratio() for a, b in pairs)
        if ratio > best_ratio:
            best, best_ratio = name, ratio
    return best


def _walk_schema() -> Iterator[Key | Section]:
    schema = ExperimentConfig.model_json_schema()
    return _walk(schema, schema["$defs"], prefix="", variant=None)


def _walk(
    node: Json, definitions: Json, *, prefix: str, variant: tuple[str, str] | None
) -> Iterator[Key | Section]:
    tag = variant[0] if variant else None
    for name, entry in node["properties"].items():
        dotted, meaning = prefix + name, " ".join(entry.get("description", "").split())
        if "discriminator" in entry:
            yield from _walk_union(entry, definitions, dotted, meaning)
        elif "$ref" in entry:
            section = definitions[entry["$ref"].rpartition("/")[2]]
            yield Section(dotted, meaning, variant)
            yield from _walk(section, definitions, prefix=dotted + ".", variant=variant)
        elif dotted != tag:
            default = entry.get("default", REQUIRED)
            yield Key(dotted, describe(entry), default, meaning, variant)


def _walk_union(entry: Json, definitions: Json, name: str, meaning: str) -> Iterator[Key | Section]:
    bare_tag, mapping = entry["discriminator"]["propertyName"], entry["discriminator"]["mapping"]
    tag, default = f"{name}.{bare_tag}", entry.get("default", {}).get(bare_tag, REQUIRED)
    variants = {kind: definitions[ref.rpartition("/")[2]] for kind, ref in mapping.items()}
    tag_meaning = next(iter(variants.values()))["properties"][bare_tag]["description"]
    yield Section(name, meaning)
    yield Key(tag, "one of " + ", ".join(variants), default, tag_meaning)
    for kind, section in variants.items():
        yield Section(name, section["description"], (tag, kind))
        yield from _walk(section, definitions, prefix=name + ".", variant=(tag, kind))


def describe(entry: Json) -> str:
    """A leaf's type and range in words."""
    if "anyOf" in entry:
        return " or ".join(describe(choice) for choice in entry["anyOf"])
    if "enum" in entry:
        return "one of " + ", ".join(str(choice) for choice in entry["enum"])
    if "prefixItems" in entry:
        return f"a list of {len(entry['prefixItems'])}, each {describe(entry['prefixItems'][0])}"
    match entry["type"]:
        case "integer" | "number" as kind:
            noun = "an integer" if kind == "integer" else "a number"
            return noun + _bounds(entry)
        case "array":
            empty = " (not empty)" if entry.get("minItems") else ""
            return f"a list{empty}, each {describe(entry['items'])}"
        case "object":
            values = [*entry.get("patternProperties", {}).values()]
            values = values or [entry["additionalProperties"]]
            return f"a dict of names, each {describe(values[0])}"
        case "string":
            return f"text of the form {entry['pattern']}" if "pattern" in entry else "text"
        case kind:
            return {"boolean": "true or false", "null": "null"}[kind]


def _bounds(entry: Json) -> str:
    if "minimum" in entry and "maximum" in entry:
        return f" from {entry['minimum']} to {entry['maximum']}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {entry[name]:g}" for name, sign in signs.items() if name in entry]
    return " " + " and ".join(bounds) if bounds else ""
