"""Conditions on runs: `status=COMPLETED`, `gamma_prime>0.9`, `rollout/success_rate>=0.5`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from experiments._words import read_value
from experiments.tracking.view import RunView
from marlcore import config_keys
from marlcore.config_errors import ConfigError, show

_MISSING = object()
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "~": lambda value, part: str(part).lower() in str(value).lower(),
}
_CONDITION = re.compile(r"\s*([\w./-]+?)\s*(!=|>=|<=|=|>|<|~)\s*(.*)", re.DOTALL)

FIELDS: dict[str, Callable[[RunView], Any]] = {
    "id": lambda one: one.id,
    "name": lambda one: one.name,
    "status": lambda one: one.status,
    "host": lambda one: one.host,
    "where": lambda one: one.where,
    "number": lambda one: one.mongo_id,
    "attempt": lambda one: one.attempt,
    "env_steps": lambda one: one.env_steps,
    "started": lambda one: one.started,
    "seconds": lambda one: one.seconds,
    "study": lambda one: one.study,
    "trial": lambda one: one.trial,
    "role": lambda one: one.role,
    "tags": lambda one: " ".join(one.tags),
    "notes": lambda one: one.notes,
    "commit": lambda one: one.commit,
    "dirty": lambda one: one.dirty,
    "error": lambda one: one.error,
}


class Lookup:
    """Values of runs by name: a field, a metric, or a configuration key (its end suffices)."""

    def __init__(self, views: Sequence[RunView]) -> None:
        self._configs = [one.config for one in views]
        self.keys = sorted(set().union(*self._configs))
        self.metrics = sorted(set().union(*(one.metrics for one in views)))

    def getter(self, name: str) -> Callable[[RunView], Any]:
        """What reads `name` of a run; None where the run has no such thing.

        Raises:
            ConfigError: no run has it, or several keys end so.
        """
        if name in FIELDS:
            return FIELDS[name]
        if name in self.metrics:
            return lambda one: one.metrics.get(name)
        keys = [key for key in self.keys if key == name or key.endswith("." + name)]
        if len(keys) > 1 and name not in keys:
            raise ConfigError(f"{name} is ambiguous: write {' or '.join(keys)}")
        if keys:
            key = name if name in keys else keys[0]
            return lambda one: one.config.get(key)
        near = config_keys.nearest(name, [*FIELDS, *self.metrics, *self.keys])
        meant = f"did you mean {near}?" if near else f"fields are {', '.join(FIELDS)}"
        raise ConfigError(f"{show(name)} is no field, metric or configuration key; {meant}")

    def differing(self) -> list[str]:
        """Keys whose values are not the same in all runs that have them."""
        return [key for key in self.keys if self._differs(key)]

    def _differs(self, key: str) -> bool:
        values = [config.get(key, _MISSING) for config in self._configs]
        present = next(value for value in values if value is not _MISSING)
        return values.count(present) + values.count(_MISSING) < len(values)


def select(views: Sequence[RunView], conditions: Sequence[str]) -> list[RunView]:
    """The runs that fulfil all conditions.

    Raises:
        ConfigError: a condition is none, or names what no run has.
    """
    result = list(views)
    lookup = Lookup(views) if conditions else None
    for text in conditions:
        assert lookup is not None
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"{show(text)} is no condition; write KEY=VALUE, or != > >= < <= ~ (contains)"
            )
        name, sign, wanted = match[1], match[2], read_value(match[3])
        get = lookup.getter(name)
        result = [one for one in result if _holds(get(one), sign, wanted, match[3])]
    return result


def _holds(value: Any, sign: str, wanted: Any, text: str) -> bool:
    if sign == "~":
        return value is not None and bool(_OPERATORS["~"](value, text))
    if isinstance(value, str):
        value, wanted = value.lower(), text.strip().lower()
    try:
        return bool(_OPERATORS[sign](value, wanted))
    except TypeError:  # of different kinds, such as nothing and a number
        return sign == "!="
