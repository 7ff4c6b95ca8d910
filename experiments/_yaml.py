"""YAML files of users, read as plain data without YAML's traps.

24:00:00 is a text, not the number 86400; `no` is not false; 1e-4 is a number; a key that stands
twice is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from marlcore import config_keys
from marlcore.config_env import Section
from marlcore.config_errors import ConfigError, show

_S = TypeVar("_S", bound=Section)


class _Loader(yaml.SafeLoader):
    """Plain data alone."""


_OWN = (
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("bool", r"^(true|false)$", "tTfF"),
    ("float", r"^([-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?|[-+]?\.inf|\.nan)$", "-+.0123456789"),
)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, p) for tag, p in resolvers if not tag.endswith((":int", ":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _first in _OWN:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(_pattern, re.IGNORECASE), list(_first)
    )


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
    if twice is not None:
        raise yaml.constructor.ConstructorError(
            None, None, f"{twice} stands there twice", node.start_mark
        )
    return loader.construct_mapping(node, deep=deep)


_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
    lambda loader, node: _mapping(loader, node, deep=True),
)


def find_yaml(text: str, folder: Path, *, what: str) -> Path:
    """The file that a path, or the name of one in a folder of the project's, means.

    Args:
        text: of the user.
        folder: of the project's own files.
        what: they are, for the message: sweep, study.

    Raises:
        ConfigError: there is none.
    """
    path = Path(text)
    for candidate in (path, folder / f"{path.name.removesuffix('.yaml')}.yaml"):
        is_plain = candidate == path or path.parent.name in ("", folder.name)
        if candidate.suffix in (".yaml", ".yml") and is_plain and candidate.is_file():
            return candidate
    names = yaml_names(folder)
    near = config_keys.nearest(path.stem, names)
    meant = f"did you mean {folder.name}/{near}.yaml? " if near else ""
    raise ConfigError(
        f"there is no {what} file {show(text)}; {meant}there are {', '.join(names)}; your own is "
        "a file that ends in .yaml"
    )


def yaml_names(folder: Path) -> list[str]:
    """The files of a folder, without their ending."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be read, or does not hold keys and values.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} does not hold keys and values (key: value, a line each)")
    return values


def convert(
    section: type[_S], values: Mapping[str, Any], *, place: Callable[[str], str | Path]
) -> _S:
    """Keys and values as a section.

    Args:
        section: the model of it.
        values: plain data.
        place: where the value of a key came from, for the message; may be empty.

    Raises:
        ConfigError: a line for each key that is unknown, missing, or has a wrong value.
    """
    try:
        return section.model_validate_json(json.dumps(values))
    except ValidationError as error:
        faults = [_explain(section, f, place) for f in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(faults))) from None
    except TypeError as error:  # a date, for example
        raise ConfigError(f"{place('')}: {error}; put such values in quotes") from None


def _explain(section: type[Section], fault: Any, place: Callable[[str], str | Path]) -> str:
    parts = [str(part) for part in fault["loc"]]
    where = f"{place(parts[0] if parts else '')}: "
    where = "" if where == ": " else where
    model, meaning, leaf = _lookup(section, parts)
    dotted = ".".join(parts[: leaf + 1])
    if fault["type"] == "value_error":
        inner = f"{dotted}: " if model is not section else ""
        return f"{where}{inner}{fault['ctx']['error']}"
    if fault["type"] == "extra_forbidden":
        return f"{where}{dotted}: no such key; {_known(parts[leaf], _names(model))}"
    if fault["type"] == "missing":
        return f"{where}{dotted} is missing; {meaning}"
    return f"{where}{dotted}: {show(fault.get('input'))} is refused; {meaning}"


def _lookup(section: type[Section], parts: list[str]) -> tuple[type[BaseModel], str, int]:
    """(The model that has the key, the key's meaning, the place of its name in `parts`)."""
    model: type[BaseModel] = section
    meaning, leaf = "", 0
    for index, part in enumerate(parts):
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        if field is None:
            return model, meaning, index if not meaning or _is_model(model) else leaf
        meaning, leaf = _sentence(field.description or ""), index
        if not _is_model(field.annotation):
            is_entry = get_origin(field.annotation) is dict and len(parts) > index + 1
            return model, meaning, index + is_entry
        model = field.annotation  # pyright: ignore[reportAssignmentType]
    return model, meaning, leaf


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sentence(description: str) -> str:
    text = description.split("\n\n")[0].replace("\n", " ").rstrip(".")
    return text[:1].lower() + text[1:]


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _known(name: str, names: Iterable[str]) -> str:
    near = config_keys.nearest(name, names := list(names))
    return f"did you mean {near}?" if near else f"there are {', '.join(names)}"
