"""A sweep, declared: one small YAML file, read and checked before anything starts.

experiment: acppo
with: [sum_coordination, total_timesteps=16000]
space:
  gamma_prime: {low: 0.5, high: 0.999, scale: log_complement}
metric: rollout/return_mean
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from experiments._experiment import resolve_command
from experiments._script import Script, find_script
from experiments._words import full_name
from experiments._yaml import convert, find_yaml, read_yaml, yaml_names
from experiments.tracking.provenance import ROOT
from experiments.tracking.view import flat
from marlcore import config_keys, metrics
from marlcore.config import ExperimentConfig
from marlcore.config_env import Count, Section
from marlcore.config_errors import ConfigError, show
from sweeps.space import Space, read_space

FOLDER = ROOT / "sweeps"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
_Seeds = Annotated[tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Field(min_length=1)]


class Pruner(Section):
    """Whether trials that look bad are ended early."""

    kind: Literal["none", "median", "percentile", "successive_halving", "hyperband", "wilcoxon"] = (
        "none"
    )
    """One of none, median, percentile, successive_halving, hyperband (by curve) and wilcoxon (by
    seed); median and percentile do both."""
    by: Literal["curve", "seed"] = "curve"
    """What is compared: the learning curve of each trial's first seed while it trains, or the
    finished seeds of a trial."""
    num_points: Annotated[int, Field(ge=2, le=1000)] = 10
    """Points of a learning curve, evenly over the env steps of a run."""
    num_startup_trials: Annotated[int, Field(ge=0)] = 5
    """Trials that must be complete before median and percentile prune any."""
    num_warmup_points: Annotated[int, Field(ge=0)] = 0
    """Points of the curve, or seeds, that median and percentile let pass."""
    percentile: Annotated[float, Field(ge=0, le=100)] = 25.0
    """Share of the trials, the best, that percentile keeps."""
    p_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Below this p-value wilcoxon takes a trial for worse than the best."""

    @model_validator(mode="after")
    def _fits(self) -> Pruner:
        if self.kind == "wilcoxon" and self.by != "seed":
            raise ValueError("kind=wilcoxon compares seeds; give by: seed")
        if self.kind in ("hyperband", "successive_halving") and self.by != "curve":
            raise ValueError(f"kind={self.kind} is of learning curves; give by: curve")
        used = {
            "by": self.kind != "none",
            "num_points": self.kind != "none" and self.by == "curve",
            "num_startup_trials": self.kind in ("median", "percentile"),
            "num_warmup_points": self.kind in ("median", "percentile"),
            "percentile": self.kind == "percentile",
            "p_threshold": self.kind == "wilcoxon",
        }
        for name in sorted(self.model_fields_set - {"kind"}):
            if not used[name]:
                raise ValueError(f"{name} has no effect with kind={self.kind}, by={self.by}")
        return self


class Sweep(Section):
    """The keys of a sweep file."""

    experiment: str
    """The training script: acppo, mappo or ippo."""
    settings: tuple[str | int | float | bool, ...] = Field((), alias="with")
    """Named configs and key=value that every trial has, as on the script's command line; of a key
    that is searched, the value of the baseline."""
    space: dict[str, Any]
    """Keys that are searched: {low, high, scale} or {choices}."""
    metric: str
    """What a run is judged by: a metric of marlcore/metrics.py, its mean over the last tenth of the
    run's env steps (of an evaluation at the end, its value)."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Maximize or minimize."""
    aggregate: Literal["mean", "iqm"] = "mean"
    """How the runs of a trial become one number: mean or iqm (inter-quartile mean)."""
    sampler: Literal["tpe", "gp", "random", "qmc"] = "tpe"
    """One of tpe, gp (Gaussian process, takes noise into account), random and qmc."""
    sampler_seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of the sampler."""
    num_startup_trials: Annotated[int, Field(ge=0)] = 10
    """Trials that tpe and gp draw at random before they begin to learn."""
    pruner: Pruner = Pruner()
    """Whether trials that look bad are ended early; none unless it is given."""
    trials: Count = 40
    """Configurations that are tried."""
    tuning_seeds: _Seeds = (0, 1, 2)
    """Seeds of each trial; the search sees these alone."""
    test_seeds: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] = (100, 101, 102, 103, 104)
    """Fresh seeds on which the best are run again before a winner is named; may be empty."""
    finalists: Annotated[int, Field(ge=1)] = 3
    """How many of the best are run again."""
    baseline: bool = True
    """Whether the first trial is the experiment as it is without the sweep."""
    lease_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Seconds after which a worker that gave no sign of life loses what it works on."""
    max_failures: Count = 3
    """How often a run may be killed (out of memory, for example) before its trial is given up."""

    @model_validator(mode="after")
    def _fits(self) -> Sweep:
        for name, seeds in (("tuning_seeds", self.tuning_seeds), ("test_seeds", self.test_seeds)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{name} names a seed twice")
        both = sorted({*self.tuning_seeds} & {*self.test_seeds})
        if both:
            raise ValueError(
                f"seed {both[0]} is in tuning_seeds and in test_seeds; fresh seeds are others"
            )
        if "finalists" in self.model_fields_set and not self.test_seeds:
            raise ValueError("finalists has no effect without test_seeds")
        if "num_startup_trials" in self.model_fields_set and self.sampler not in ("tpe", "gp"):
            raise ValueError(f"num_startup_trials has no effect with sampler={self.sampler}")
        p, num = self.pruner.p_threshold, len(self.tuning_seeds)
        if self.pruner.kind == "wilcoxon" and 0.5 ** (num - 1) >= p:
            raise ValueError(
                f"pruner: wilcoxon with p_threshold={p:g} cannot prune before the last of {num} "
                f"tuning_seeds; give {math.floor(-math.log2(p)) + 2} or more"
            )
        if self.metric.partition("/agent_")[0] not in metrics.MEANINGS:
            near = config_keys.nearest(self.metric, metrics.MEANINGS)
            meant = f"did you mean {near}?" if near else "marlcore/metrics.py has them all"
            raise ValueError(f"metric: there is no {show(self.metric)}; {meant}")
        return self


CHANGEABLE = ("trials", "finalists", "test_seeds", "lease_s", "max_failures")
"""What a study that has begun may change: it is longer then, or more is tested."""


@dataclass(frozen=True)
class Definition:
    """A sweep with all that its file does not say."""

    name: str
    """Of the study."""
    sweep: Sweep
    script: Script
    base: ExperimentConfig
    """The experiment without the sweep."""
    space: Space
    place: str
    """Of the file."""

    def words(self, params: Mapping[str, Any], seed: int) -> list[str]:
        """What follows `with` on the command line of a run; what the sweep sets comes last."""
        fixed = _without(self.sweep.settings, {axis.key for axis in self.space.axes})
        return [*fixed, *self.space.words(params), f"seed={seed}"]

    def identity(self) -> dict[str, Any]:
        """Plain data that two launches of one study share."""
        values = self.sweep.model_dump(mode="json", by_alias=True)
        for name in CHANGEABLE:
            del values[name]
        return values

    def baseline(self) -> dict[str, Any] | None:
        """Optuna's values of the experiment as it is; None where it lies outside the space."""
        try:
            return self.space.params(flat(self.base.model_dump(mode="json")))
        except ConfigError:
            return None


def names() -> list[str]:
    """The sweep files that come with the project."""
    return yaml_names(FOLDER)


def read_file(
    text: str, *, changes: Mapping[str, Any], words: Sequence[str] = (), name: str | None = None
) -> Definition:
    """The sweep of a file.

    Args:
        text: a path, or the name of a file in sweeps/.
        changes: keys of `Sweep` that the command line sets.
        words: what the command line has after `with`: over the file's, or in place of all of it
            if a config is named.
        name: of the study; the file's unless given.

    Raises:
        ConfigError: the file, or what it asks for, is refused.
    """
    path = find_yaml(text, FOLDER, what="sweep")
    values = {**read_yaml(path), **changes}
    if words:
        given = values.get("with") or []
        given = given if isinstance(given, list) else [given]
        kept = _without(given, {_key(word) for word in words})
        names_a_config = any("=" not in word for word in words)
        values["with"] = [*(() if names_a_config else kept), *words]
    return define(values, name=name or path.stem, place=str(path), changed=changes)


def _without(words: Iterable[object], keys: Collection[str | None]) -> list[str]:
    """Words that set none of these keys."""
    return [str(word) for word in words if _key(word) not in keys]


def _key(word: object) -> str | None:
    """The key that a word sets; of a named config, itself."""
    name = str(word).partition("=")[0].strip().lstrip(".")
    return full_name(name) if name else None


def define(
    values: Mapping[str, Any],
    *,
    name: str,
    place: str,
    changed: Mapping[str, Any] | None = None,
) -> Definition:
    """The sweep of keys and values."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--study {show(name)} is refused; give 1 to 60 letters, digits, '-', '_' or '.', not "
            "starting with a sign"
        )
    changed = changed or {}
    sweep = convert(Sweep, values, place=lambda key: f"--{key}" if key in changed else place)
    try:
        script = find_script(sweep.experiment)
    except ConfigError as error:
        raise ConfigError(f"{place}: experiment: {error}") from None

    def resolve(words: list[str]) -> ExperimentConfig:
        fixed = _without(sweep.settings, {_key(word) for word in words})
        return resolve_command(script, ["with", *fixed, *words] if fixed or words else [])

    try:
        base = resolve([])
    except ConfigError as error:
        raise ConfigError(f"{place}: with: {error}") from None
    given = [word for word in map(str, sweep.settings) if re.match(r"\.?seed\s*=", word)]
    if given:
        raise ConfigError(f"{place}: with: {given[0]}: seeds are tuning_seeds and test_seeds")
    space = read_space(sweep.space, place=place, resolve=resolve)
    return Definition(name, sweep, script, base, space, place)
