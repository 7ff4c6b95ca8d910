"""What a sweep searches: dimensions of configuration keys, checked against the experiment's schema.

    gamma_prime: {low: 0.5, high: 0.999, scale: log_complement}     1 - gamma_prime log-uniform
    actor_lr: {low: 1e-5, high: 1e-2, scale: log}
    num_epochs: {low: 1, high: 15}                                  integers, as the key's are
    belief: {choices: [estimate, learned]}

Optuna sees a dimension of scale log_complement under the name `1 - gamma_prime`, for which it is
the plain logarithmic scale: its samplers, importances and plots then need to know nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna import distributions
from pydantic import Field, model_validator

from experiments._words import full_name
from experiments._yaml import convert
from marlcore import config_keys
from marlcore.config_env import Section
from marlcore.config_errors import ConfigError, show

_DIGITS = 4
"""Significant digits of a value that is tried: its command line is short, and exact."""
_Number = int | float
Params = Mapping[str, Any]
"""Optuna's names -> Optuna's values."""


class Dimension(Section):
    """The values of one key: a range, or choices."""

    low: float | int | None = None
    """The smallest value."""
    high: float | int | None = None
    """The largest value."""
    scale: Literal["linear", "log", "log_complement"] = "linear"
    """One of linear, log, and log_complement (1 - value on a logarithmic scale)."""
    choices: tuple[bool | int | float | str | None, ...] = Field((), min_length=2)
    """At least two values, in place of low and high."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Dimension:
        if self.choices:
            if self.low is not None or self.high is not None or self.scale != "linear":
                raise ValueError("choices stand alone; leave low, high and scale out")
            if len({json.dumps(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("a choice stands there twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low={show(self.low)} is not below high={show(self.high)}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"scale log needs low > 0, not {show(self.low)}; give a small number")
        if self.scale == "log_complement" and self.high >= 1:
            raise ValueError(
                f"scale log_complement needs high < 1, not {show(self.high)}; give 0.999, for "
                "example"
            )
        return self


@dataclass(frozen=True)
class Axis:
    """A dimension with its key."""

    key: str
    """Dotted, of the configuration."""
    name: str
    """Optuna's: the last part of the key where that is unique, with `1 - ` before a complement."""
    dimension: Dimension
    is_integer: bool

    @property
    def distribution(self) -> distributions.BaseDistribution:
        """What Optuna samples from."""
        d = self.dimension
        if d.choices:
            return distributions.CategoricalDistribution(d.choices)
        assert d.low is not None
        assert d.high is not None
        if self.is_integer:
            return distributions.IntDistribution(int(d.low), int(d.high), log=d.scale == "log")
        if d.scale == "log_complement":
            low, high = round(1 - d.high, 12), round(1 - d.low, 12)
            return distributions.FloatDistribution(low, high, log=True)
        return distributions.FloatDistribution(d.low, d.high, log=d.scale == "log")

    def value(self, sampled: Any) -> Any:
        """The value of the key for what Optuna sampled, rounded and inside the bounds."""
        d = self.dimension
        if d.choices or self.is_integer:
            return sampled
        assert d.low is not None
        assert d.high is not None
        rounded = float(f"{sampled:.{_DIGITS}g}")
        if d.scale == "log_complement":
            rounded = round(1 - rounded, 12)
        return min(max(rounded, float(d.low)), float(d.high))

    def sampled(self, value: Any) -> Any:
        """The other way: what Optuna would have sampled.

        Raises:
            ConfigError: the value does not lie in the dimension.
        """
        d = self.dimension
        if d.choices:
            if value not in d.choices:
                raise ConfigError(f"{self.key}={show(value)} is none of its choices")
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not d.low <= value <= d.high:  # pyright: ignore[reportOperatorIssue]
            raise ConfigError(
                f"{self.key}={show(value)} does not lie in [{show(d.low)}, {show(d.high)}]"
            )
        return round(1 - value, 12) if d.scale == "log_complement" else value


@dataclass(frozen=True)
class Space:
    """All axes, in the order of the file."""

    axes: tuple[Axis, ...]

    @property
    def distributions(self) -> dict[str, distributions.BaseDistribution]:
        """By Optuna's names."""
        return {axis.name: axis.distribution for axis in self.axes}

    def settings(self, params: Params) -> dict[str, Any]:
        """Configuration keys and values of a trial."""
        return {axis.key: axis.value(params[axis.name]) for axis in self.axes}

    def words(self, params: Params) -> list[str]:
        """The same as words of a command line."""
        return [f"{key}={_written(value)}" for key, value in self.settings(params).items()]

    def params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna would have sampled to make this flat configuration.

        Raises:
            ConfigError: it does not lie in the space.
        """
        return {axis.name: axis.sampled(config.get(axis.key)) for axis in self.axes}


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_space(
    values: Mapping[str, Any], *, place: str, resolve: Callable[[list[str]], Any]
) -> Space:
    """The space that a sweep file gives.

    Args:
        values: of the file's `space`.
        place: of the file, for messages.
        resolve: the configuration that words mean; refuses what the schema refuses.

    Raises:
        ConfigError: a dimension makes no sense, or reaches beyond what its key may be.
    """
    if not values:
        raise ConfigError(f"{place}: space is empty; give a key at least, with low and high")
    axes: list[Axis] = []
    for text, given in values.items():
        where = f"{place}: space: {text}"
        if not isinstance(given, dict):
            raise ConfigError(f"{where}: {show(given)} is refused; give {{low: .., high: ..}}")
        try:
            key = full_name(text)
        except ConfigError as error:
            raise ConfigError(f"{place}: space: {error}") from None
        if key not in config_keys.names():
            near = config_keys.nearest(text)
            meant = f"; did you mean {near}?" if near else ", --help of the script lists them"
            raise ConfigError(f"{where}: no such key{meant}")
        if key == "seed":
            raise ConfigError(f"{where}: the seed is no dimension; see tuning_seeds and test_seeds")
        if any(axis.key == key for axis in axes):
            raise ConfigError(f"{where}: {key} stands there twice")
        axes.append(_axis(key, convert(Dimension, given, place=lambda _, w=where: w), where))
    space = Space(tuple(_named(axes)))
    for axis in space.axes:
        _check_ends(axis, place, resolve)
    return space


def _axis(key: str, dimension: Dimension, where: str) -> Axis:
    kinds = {entry.allowed for entry in config_keys.all_keys() if entry.name == key}
    is_integer = all(kind.startswith("an integer") for kind in kinds)
    if is_integer and not dimension.choices:
        if not all(float(end).is_integer() for end in (dimension.low, dimension.high)):  # type: ignore[arg-type]
            raise ConfigError(f"{where}: {key} is an integer; give integers as low and high")
        if dimension.scale == "log_complement":
            raise ConfigError(f"{where}: {key} is an integer; scale log_complement is of fractions")
    elif not dimension.choices and not any("a number" in kind for kind in kinds):
        raise ConfigError(
            f"{where}: {key} is no number but {' or '.join(sorted(kinds))}; give choices"
        )
    return Axis(key, key, dimension, is_integer)


def _named(axes: list[Axis]) -> list[Axis]:
    """With names: as short as they are unique."""
    bare = [axis.key.rpartition(".")[2] for axis in axes]
    result: list[Axis] = []
    for axis, short in zip(axes, bare, strict=True):
        name = short if bare.count(short) == 1 else axis.key
        name = f"1 - {name}" if axis.dimension.scale == "log_complement" else name
        result.append(Axis(axis.key, name, axis.dimension, axis.is_integer))
    return result


def _check_ends(axis: Axis, place: str, resolve: Callable[[list[str]], Any]) -> None:
    """Have the schema look at the ends of a dimension, or at each of its choices."""
    d = axis.dimension
    for end in d.choices or (d.low, d.high):
        word = f"{axis.key}={_written(end)}"
        try:
            resolve([word])
        except ConfigError as error:
            raise ConfigError(f"{place}: space: {word}: {error}") from None
