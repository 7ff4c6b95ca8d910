"""A study, declared: one small YAML file, read and checked before anything starts.

algorithms:
  MAPPO: {script: mappo}
  ACPPO without beliefs: {script: acppo, with: [ablation=gae_only]}
environments:
  partition: [partition]
seeds: [0, 1, 2]
metric: rollout/return_mean
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, model_validator

from experiments._experiment import resolve_command
from experiments._script import Script, find_script
from experiments._words import full_name
from experiments._yaml import convert, find_yaml, read_yaml, yaml_names
from marlcore import config_keys, metrics
from marlcore.config_env import Section
from marlcore.config_errors import ConfigError, show

FOLDER = Path(__file__).parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_LABEL = r"^[A-Za-z0-9][A-Za-z0-9 ,.=+()_-]{0,39}$"
_Word = str | int | float | bool
_T = TypeVar("_T", str, int)
_Label = Annotated[str, Field(pattern=_LABEL)]


class Contestant(Section):
    """An algorithm of a study."""

    script: str
    """The training script: acppo, mappo or ippo."""
    settings: tuple[_Word, ...] = Field((), alias="with")
    """Named configs and key=value that this algorithm has in every environment."""


class StudyFile(Section):
    """The keys of a study file."""

    about: str = ""
    """What is asked, for the report."""
    settings: tuple[_Word, ...] = Field((), alias="with")
    """Named configs and key=value that every run has, the budget for example."""
    algorithms: dict[_Label, Contestant] = Field(min_length=1)
    """Label -> script and settings."""
    environments: dict[_Label, tuple[_Word, ...]] = Field(min_length=1)
    """Label -> named configs and key=value."""
    seeds: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] = Field(min_length=1)
    """Seeds that each algorithm has in each environment."""
    metric: str
    """What curves and final scores are of: a metric of marlcore/metrics.py."""
    solved: float | None = None
    """Value of the metric from which a run counts as solved; the report says when it was; null:
    no value does."""

    @model_validator(mode="after")
    def _fits(self) -> StudyFile:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds names a seed twice")
        if self.metric.partition("/agent_")[0] not in metrics.MEANINGS:
            near = config_keys.nearest(self.metric, metrics.MEANINGS)
            meant = f"did you mean {near}?" if near else "marlcore/metrics.py has them all"
            raise ValueError(f"metric: there is no {show(self.metric)}; {meant}")
        return self


@dataclass(frozen=True)
class Part:
    """What of a study is wanted; where nothing is named, all that its file names."""

    algorithms: Sequence[str] = ()
    environments: Sequence[str] = ()
    seeds: Sequence[int] = ()

    def of(self, file: StudyFile) -> StudyFile:
        """The file with this part alone, in its order.

        Raises:
            ConfigError: the file has not what is named.
        """
        algorithms = _chosen("algorithm", self.algorithms, list(file.algorithms))
        environments = _chosen("environment", self.environments, list(file.environments))
        return file.model_copy(
            update={
                "algorithms": {label: file.algorithms[label] for label in algorithms},
                "environments": {label: file.environments[label] for label in environments},
                "seeds": tuple(_chosen("seed", self.seeds, file.seeds)),
            }
        )


@dataclass(frozen=True)
class Unit:
    """A run that the study wants."""

    algorithm: str
    environment: str
    seed: int
    script: Script
    words: tuple[str, ...]
    """What follows `with`."""
    config: Mapping[str, Any]
    """The resolved configuration."""
    name: str
    """Of its run, where that is free."""

    def __str__(self) -> str:
        return f"{self.algorithm}, {self.environment}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A study with all that its file does not say."""

    name: str
    file: StudyFile
    units: tuple[Unit, ...]
    """Seed by seed, so that every algorithm has something to show early."""

    def of(self, environment: str) -> list[Unit]:
        """The units of an environment, algorithm by algorithm."""
        order = list(self.file.algorithms)
        found = [unit for unit in self.units if unit.environment == environment]
        return sorted(found, key=lambda unit: (order.index(unit.algorithm), unit.seed))


_WHOLE = Part()


def names() -> list[str]:
    """The study files that come with the project."""
    return yaml_names(FOLDER)


def read_study(
    text: str, *, words: Sequence[str] = (), name: str | None = None, part: Part = _WHOLE
) -> Study:
    """The study of a file.

    Args:
        text: a path, or the name of a file in experiments/studies/.
        words: what every run has besides, behind all that the file says.
        name: of the study; the file's unless given.
        part: what of it is wanted.

    Raises:
        ConfigError: the file, or one of its runs, is refused.
    """
    path = find_yaml(text, FOLDER, what="study")
    name = name or path.stem
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name {show(name)} is refused; give 1 to 40 letters, digits, '-', '_' or '.', not "
            "starting with a sign"
        )
    file = part.of(convert(StudyFile, read_yaml(path), place=lambda _: path))
    units = [
        _unit(name, file, algorithm, environment, seed, words)
        for seed in file.seeds
        for environment in file.environments
        for algorithm in file.algorithms
    ]
    taken: dict[str, Unit] = {}
    for unit in units:
        other = taken.setdefault(unit.name, unit)
        if other is not unit:
            raise ConfigError(f"{path}: {other} and {unit} would have one name; change a label")
    return Study(name, file, tuple(units))


def _unit(
    study: str, file: StudyFile, algorithm: str, environment: str, seed: int, words: Sequence[str]
) -> Unit:
    contestant = file.algorithms[algorithm]
    script = find_script(contestant.script)
    parts = (file.environments[environment], contestant.settings, file.settings, words)
    said = tuple(str(word) for part in parts for word in part)
    if any(_key(word) == "seed" for word in said):
        raise ConfigError("seed= is refused in a study: its seeds are those of the key seeds")
    # A key that is set twice is refused by the scripts; here what stands nearer to the run wins.
    chosen = (*_last_of_each(said), f"seed={seed}")
    try:
        config = resolve_command(script, ["with", *chosen]).model_dump(mode="json")
    except ConfigError as error:
        raise ConfigError(f"{algorithm}, {environment}: {error}") from None
    name = "-".join(map(slug, (study, algorithm, environment, f"s{seed}")))
    return Unit(algorithm, environment, seed, script, chosen, config, name)


def _chosen(what: str, wanted: Sequence[_T], known: Sequence[_T]) -> Sequence[_T]:
    """What is wanted of what the file names, in its order; all of it where nothing is."""
    for one in wanted:
        if one not in known:
            raise ConfigError(
                f"--{what} {show(one)}: the study has no such {what}; it has "
                + ", ".join(map(show, known))
            )
    return [one for one in known if one in wanted] if wanted else known


def _last_of_each(words: Sequence[str]) -> list[str]:
    """Named configs once, in order; of the words that set one key the last."""
    latest = {_key(word): word for word in words}
    return list(latest.values())


def _key(word: str) -> str:
    name, equals, _ = word.partition("=")
    return (full_name(name.strip().lstrip(".")) or name) if equals else word


def slug(text: str) -> str:
    """A label as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_")
