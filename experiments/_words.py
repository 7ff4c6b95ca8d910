"""The words after `with`: named configs and `key=value`, read one by one against the schema."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from marlcore import config_keys
from marlcore.config_errors import ConfigError, show

ALIASES = {"reward_shaping": ("env.reward", {True: "dense", False: "sparse"})}
"""Names of earlier work: (key, what its values mean)."""


@dataclass
class Words:
    """What the words say."""

    named: list[str] = field(default_factory=list)
    given: dict[str, object] = field(default_factory=dict)
    """Dotted key -> value, in the order of the words."""
    spelled: dict[str, str] = field(default_factory=dict)
    """Dotted key -> the name that was written."""
    resume: str | None = None


def read_words(words: Sequence[str], named: Collection[str]) -> Words:
    """Sort the words; all that is wrong with single words is raised at once.

    Raises:
        ConfigError: a line for each word that is neither a named config nor a good `key=value`.
    """
    result, faults = Words(), []
    for word in words:
        try:
            _read_word(word, named, result)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return result


def _read_word(word: str, named: Collection[str], result: Words) -> None:
    if not _is_unicode(word):
        raise ConfigError(f"{word!a} is not valid UTF-8 text")
    name, equals, text = word.partition("=")
    name = name.strip().lstrip(".")
    if not equals:
        _add_named(word, named, result)
    elif not name.strip("."):
        raise ConfigError(f"{show(word)}: there is no key before '='; write key=value")
    elif not text.strip():
        raise ConfigError(f"{name}= has no value; write {name}=VALUE, or leave it out")
    elif name == "resume":
        if result.resume is not None:
            raise ConfigError("resume is given twice; give it once")
        result.resume = text
    else:
        key, value = _read_alias(name, text) if name in ALIASES else _read_pair(name, text)
        for dotted, item in _flat(key, value).items():
            _add_value(dotted, item, name, result)


def _add_named(word: str, named: Collection[str], result: Words) -> None:
    if word not in named:
        near = config_keys.nearest(word, [*named, *config_keys.names()])
        if near is None:
            meant = f"the named configs are {', '.join(sorted(named))}"
        else:
            meant = f"did you mean {near if near in named else near + '=VALUE'}?"
        raise ConfigError(f"{show(word)} is neither a named config nor key=value; {meant}")
    if word in result.named:
        raise ConfigError(f"{word} is given twice; name a config once")
    result.named.append(word)


def _add_value(key: str, value: object, name: str, result: Words) -> None:
    if key in result.given:
        before = result.given[key]
        spellings = {name, result.spelled[key]}
        if before == value and len(spellings & set(ALIASES)) == 1 and len(spellings) == 2:
            return
        raise ConfigError(
            f"{key} is given twice: {show(before)} and {show(value)}"
            + (f" (by {name})" if name in ALIASES else "")
            + "; give it once"
        )
    result.given[key] = value
    result.spelled[key] = name


def _read_alias(name: str, text: str) -> tuple[str, object]:
    key, meanings = ALIASES[name]
    value = read_value(text)
    if not isinstance(value, bool):
        raise ConfigError(
            f"{name}: {show(value)} is refused; give true ({key}={meanings[True]}) or false "
            f"({key}={meanings[False]})"
        )
    return key, meanings[value]


def _read_pair(name: str, text: str) -> tuple[str, object]:
    key, value = full_name(name), read_value(text)
    allowed = {entry.allowed for entry in config_keys.all_keys() if entry.name == key}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and allowed & {"text", "text or null"}:
        return key, text
    return key, value


def full_name(name: str) -> str:
    """The dotted key that a name means; a name that fits no key is returned as it is.

    What follows a key that holds a dict is an entry of it: factory_kwargs.N.

    Raises:
        ConfigError: the name fits several keys.
    """
    matches = config_keys.with_name_ending(name)
    if not matches and "." in name:
        head, _, entry = name.rpartition(".")
        whole = full_name(head) if head else head
        return f"{whole}.{entry}" if whole in config_keys.names() else name
    if name in matches or not matches:
        return name
    if len(matches) > 1:
        raise ConfigError(f"{name} is ambiguous: write {' or '.join(matches)}")
    return matches[0]


def read_value(text: str) -> object:
    """A JSON or Python literal of plain data; text that is neither is itself."""
    words: dict[str, object] = {"true": True, "false": False, "null": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if _is_plain(value):
            return value
    return text


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)


def _flat(key: str, value: object) -> dict[str, object]:
    """Single keys of a section given as a dict; a leaf stays whole."""
    if key in config_keys.names() or not isinstance(value, dict):
        return {key: value}
    return {
        dotted: item
        for part, inner in value.items()
        for dotted, item in _flat(f"{key}.{part}", inner).items()
    }


def _is_unicode(word: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in word)
