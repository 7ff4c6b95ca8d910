"""Metrics of runs in formats of others: csv, parquet, and the JSON that marl-eval reads.

csv and parquet are one long table of all points: run, name, seed, step (env steps), time (seconds
since 1970), metric, value. Numbers that are not finite are `nan`, `inf` and `-inf` in csv, since an
empty cell could not tell them apart; parquet keeps them as they are. An unknown seed is an empty
cell, or null.

marl-eval (id-marl-eval 0.0.4, arXiv 2209.10485) takes one dict,
environment > task > algorithm > run > step, a run being `seed_<n>` (its id where that is taken), a
step `{"step_count": env steps, "elapsed_time": s, metric: [value]}`, as its JsonLogger writes (its
DiagnoseData takes elapsed_time for a metric that absolute_metrics lack; its plots do not mind).
Metrics are eval/* if every run was evaluated, else rollout/* of every run (the two do not mix),
named without phase and `_mean`: `return`, `success_rate`. marl-eval needs every metric at every
step: a metric that a run lacks, and a step at which one is missing or not finite, is left out.
`absolute_metrics` would be of ten times as many episodes with the best policy; here they are the
run's final scores as in `compare`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from experiments.tracking.compare import Run, finite_points
from experiments.tracking.groups import group_configs
from experiments.tracking.scores import final_score
from experiments.tracking.view import RunView, Series, flat
from marlcore import durable
from marlcore.config_errors import ConfigError, show
from marlcore.config_keys import nearest

FORMATS = ("csv", "parquet", "marl-eval")
COLUMNS = ("run", "name", "seed", "step", "time", "metric", "value")
STDOUT = "-"
_GROUP_ROWS = 1 << 17


def export(runs: Iterable[Run], path: Path | str, format: str) -> list[str]:
    """Write the runs; returns warnings.

    Args:
        runs: taken one at a time by csv and parquet, so a generator need not hold them all.
        path: a file, replaced only when the new one is whole; `-` is standard output.
        format: one of FORMATS.

    Raises:
        ConfigError: the format, the path or the runs are refused; an old file is as it was.
    """
    if format not in FORMATS:
        near = nearest(format, FORMATS)
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(f"format {show(format)} is refused; give {', '.join(FORMATS)}{hint}")
    if str(path) == STDOUT and format == "parquet":
        raise ConfigError("parquet goes to a file; name one instead of -")
    write = {"csv": _write_csv, "parquet": _write_parquet, "marl-eval": _write_marl_eval}[format]
    if str(path) == STDOUT:
        warnings = write(runs, sys.stdout)
        sys.stdout.flush()
        return warnings
    with _replaced(Path(path), binary=format == "parquet") as file:
        return write(runs, file)


def check_output(path: Path) -> None:
    """Refuse a path that cannot become a file, or is something else (/dev/null)."""
    if not os.path.isdir(path.parent):
        raise ConfigError(f"{path}: there is no directory {path.parent}")
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ConfigError(f"{path} is there and is no file; name another")


@contextmanager
def _replaced(path: Path, *, binary: bool) -> Iterator[IO[Any]]:
    """A file that takes the place of `path` once it is whole; on any error nothing changes."""
    check_output(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    text = {} if binary else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        with open(temporary, "wb" if binary else "w", **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        durable.sync(path.parent)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(runs: Iterable[Run], file: IO[str]) -> list[str]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for view, series in _some(runs):
        seed = _seed(view)
        head = (view.id, view.name, "" if seed is None else seed)
        for metric, one in series.items():
            points = zip(one.steps, one.times, one.values, strict=True)
            writer.writerows((*head, step, t, metric, float(value)) for step, t, value in points)
    return []


def _write_parquet(runs: Iterable[Run], file: IO[bytes]) -> list[str]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:  # 26 is installed beside numpy 1.26 and refuses it on import
        message = str(error).strip().splitlines()[0]
        raise ConfigError(f"parquet needs pyarrow; pip install 'pyarrow<26' ({message})") from None
    kinds = (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.float64(), pa.string())
    schema = pa.schema(list(zip(COLUMNS, (*kinds, pa.float64()), strict=True)))
    with parquet.ParquetWriter(file, schema) as writer:
        for view, series in _some(runs):
            head = (view.id, view.name, _seed(view))
            parts = [_batch(pa, schema, head, key, one) for key, one in series.items()]
            writer.write_table(pa.Table.from_batches(parts, schema), row_group_size=_GROUP_ROWS)
    return []


def _batch(pa: Any, schema: Any, head: Sequence[object], metric: str, series: Series) -> Any:
    count = len(series.steps)
    fixed = [pa.repeat(pa.scalar(x, schema.field(i).type), count) for i, x in enumerate(head)]
    points = [
        pa.array(values, schema.field(name).type)  # from_pandas stays off: NaN is no null
        for name, values in (("step", series.steps), ("time", series.times))
    ]
    name = pa.repeat(pa.scalar(metric, pa.string()), count)
    columns = [*fixed, *points, name, pa.array(series.values, pa.float64())]
    return pa.record_batch(columns, schema=schema)


def _some(runs: Iterable[Run]) -> Iterator[Run]:
    """The runs; that there is none is an error."""
    empty = True
    for run in runs:
        empty = False
        yield run
    if empty:
        raise ConfigError("no run to export; name at least one")


def _seed(view: RunView) -> int | None:
    seed = view.config.get("seed")
    return int(seed) if isinstance(seed, int | float) else None


def _write_marl_eval(runs: Iterable[Run], file: IO[str]) -> list[str]:
    document, warnings = marl_eval(list(_some(runs)))
    file.write(json.dumps(document, allow_nan=False) + "\n")
    return warnings


def marl_eval(runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """The dict that marl-eval reads, and warnings of what it will not like.

    Raises:
        ConfigError: the runs have no metric in common.
    """
    tables = [{key: one for key in series if (one := _finite(series[key]))} for _, series in runs]
    evaluated = all(any(key.startswith("eval/") for key in table) for table in tables)
    phase = "eval/" if evaluated else "rollout/"
    common = [k for k in tables[0] if k.startswith(phase) and all(k in table for table in tables)]
    if not common:
        raise ConfigError(f"the runs share no {phase} metric, and marl-eval needs one; export less")
    document: dict[str, Any] = {}
    warnings: list[str] = []
    places = _places([view.config for view, _ in runs])
    for (view, series), table, (environment, task, algorithm) in zip(
        runs, tables, places, strict=True
    ):
        tasks = document.setdefault(environment, {})
        named = tasks.setdefault(task, {}).setdefault(algorithm, {})
        key = f"seed_{_seed(view)}"
        steps = _steps({metric: table[metric] for metric in common})
        if not steps:
            raise ConfigError(f"{view.id}: no step has all of {', '.join(common)}; export less")
        left_out = len({step for metric in common for step in series[metric].steps}) - len(steps)
        if left_out:
            warnings.append(f"{view.id}: {left_out} steps without all metrics are left out")
        scores = {_short(k): [final_score(*finite_points(series[k]))] for k in common}
        named[view.id if key in named else key] = steps | {"absolute_metrics": scores}
    return document, [*warnings, *_uneven(document)]


Points = Mapping[int, tuple[float, float]]


def _finite(series: Series) -> Points:
    """Time and value by step."""
    points = zip(series.steps, series.times, series.values, strict=True)
    latest = {step: (time, value) for step, time, value in points}
    return {step: point for step, point in sorted(latest.items()) if math.isfinite(point[1])}


def _steps(table: Mapping[str, Points]) -> dict[str, Any]:
    shared = sorted(set.intersection(*(set(points) for points in table.values())))
    first = next(iter(table.values()))
    return {
        f"step_{index}": {
            "step_count": step,
            "elapsed_time": first[step][0] - first[shared[0]][0],
            **{_short(metric): [points[step][1]] for metric, points in table.items()},
        }
        for index, step in enumerate(shared)
    }


def _short(metric: str) -> str:
    return re.sub(r"_mean(?=$|/)", "", metric.partition("/")[2])


_TASK_KEYS = ("env.task", "env.game", "env.factory", "env.kind")


def _places(configs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Environment, task and algorithm of each: what differs in env makes tasks, the rest labels."""
    tasks, labels = [""] * len(configs), [""] * len(configs)
    envs = [{k: v for k, v in flat(c).items() if k.startswith("env.")} for c in configs]
    for part in group_configs(envs):
        extra = [f"{k.rpartition('.')[2]}={part.settings[k]}" for k in part.settings]
        extra = [x for x, k in zip(extra, part.settings, strict=True) if k not in _TASK_KEYS]
        for place in part.places:
            env = envs[place]
            task = next((str(env[key]) for key in _TASK_KEYS if key in env), "unknown")
            tasks[place] = " ".join([task, *extra])
    rest = [{k: v for k, v in flat(c).items() if not k.startswith("env.")} for c in configs]
    for part in group_configs(rest):
        for place in part.places:
            labels[place] = part.label.replace(",", ";")  # marl-eval joins names by commas
    for config, task, label in zip(configs, tasks, labels, strict=True):
        settings = flat(config)
        name = str(settings.get("algorithm.name", ""))
        full = label if label.split()[0] == name else f"{name} {label}".strip()
        yield str(settings.get("env.kind", "unknown")), task, full


def _uneven(document: Mapping[str, Any]) -> Iterator[str]:
    """What marl-eval refuses: it needs the same runs of the same length everywhere."""
    for environment, tasks in document.items():
        cells = [runs for algorithms in tasks.values() for runs in algorithms.values()]
        lengths = [len(steps) - 1 for runs in cells for steps in runs.values()]
        if len({tuple(sorted(runs)) for runs in cells}) > 1:
            yield f"{environment}: marl-eval needs the same seeds of every algorithm and task"
        if len({tuple(sorted(algorithms)) for algorithms in tasks.values()}) > 1:
            yield f"{environment}: marl-eval needs the same algorithms in every task"
        if len(set(lengths)) > 1:
            yield (
                f"{environment}: marl-eval needs as many steps in every run; they have "
                f"{min(lengths)} to {max(lengths)}"
            )
