"""What a study found: tables and curves, in Markdown, PNG, HTML and marl-eval's JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np

from experiments.console import format_seconds
from experiments.studies.definition import Study, slug
from experiments.studies.running import Place
from experiments.tracking import page, plots, view
from experiments.tracking.catalog import Catalog
from experiments.tracking.compare import Comparison, Run, compare, finite_points
from experiments.tracking.export import export
from experiments.tracking.view import Series
from marlcore.config_errors import ConfigError
from marlcore.durable import write_whole
from marlcore.statistics import wilson_interval

_ELAPSED = "time/elapsed_s"
_SHORT_S = 20.0
"""Training that is shorter is not drawn over seconds."""
_WINDOW = 5
"""Points whose mean must reach the value that counts as solved."""


@dataclass(frozen=True)
class Row:
    """An algorithm in an environment."""

    algorithm: str
    score: str
    """Final score: IQM over seeds, and its interval."""
    evaluation: str
    """Of all seeds' evaluations at the end, together."""
    worst: str
    """The seed whose evaluation is the worst."""
    solved: str
    """How many seeds were solved, after how many env steps and seconds."""
    seconds: str
    """Of training, median over seeds."""
    commits: str


@dataclass(frozen=True)
class Section:
    """An environment: what the runs there came to."""

    environment: str
    rows: tuple[Row, ...]
    over_steps: Comparison
    over_seconds: Comparison | None
    """None where training was too short for it."""
    runs: tuple[Run, ...]
    num_missing: int


_HEADS = {
    "algorithm": "algorithm",
    "score": "final score, IQM [95 %]",
    "evaluation": "evaluation, all seeds",
    "worst": "worst seed",
    "solved": "solved, median (last)",
    "seconds": "training, median",
    "commits": "commit",
}


def sections(study: Study, found: Sequence[Place]) -> list[Section]:
    """What is known of the environments in which at least one run is complete."""
    catalog = Catalog(remote=False)
    by_unit = {place.unit.name: place for place in found}
    result: list[Section] = []
    for environment in study.file.environments:
        units = study.of(environment)
        done = [p for u in units if (p := by_unit[u.name]).status == view.COMPLETED and p.found]
        if done:
            runs = [(p.found, catalog.series(p.found)) for p in done if p.found]
            labels = [place.unit.algorithm for place in done]
            result.append(_section(study, environment, runs, labels, len(units) - len(done)))
    return result


def write(study: Study, found: Sequence[Section], base: Path) -> list[Path]:
    """Write the report; returns its files.

    Args:
        study: of the report.
        found: its environments.
        base: path of the files without what tells them apart.

    Raises:
        ConfigError: a file cannot be written.
    """
    files = [base.with_name(f"{base.name}{end}") for end in (".md", ".html", ".json")]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    write_whole(files[0], markdown(study, found))
    write_whole(files[1], _html(study, found))
    export([run for section in found for run in section.runs], files[2], "marl-eval")
    for section in found:
        name = slug(section.environment)
        picture = base.with_name(f"{base.name}-{name}.png")
        plots.write_png([c for c in (section.over_steps, section.over_seconds) if c], picture)
        files.append(picture)
    return files


def markdown(study: Study, found: Sequence[Section]) -> str:
    """The tables, to be printed or kept."""
    lines = [f"# {study.name}", "", study.file.about, ""]
    for section in found:
        rows = _table(section.rows)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [f"## {section.environment}", ""]
        if section.num_missing:
            lines += [f"{section.num_missing} runs are missing.", ""]
        for number, row in enumerate(rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append(f"| {' | '.join(cells)} |")
            if number == 0:
                lines.append(f"| {' | '.join('-' * width for width in widths)} |")
        lines.append("")
        for pair in section.over_steps.pairs:
            lines.append(f"P({pair.a} above {pair.b}) = {pair.probability.text()}")
        lines.append("")
    return "\n".join(lines)


def _section(
    study: Study, environment: str, runs: Sequence[Run], labels: Sequence[str], num_missing: int
) -> Section:
    metric = study.file.metric
    try:
        over_steps = compare(runs, metric=metric, labels=labels)
    except ConfigError as error:
        raise ConfigError(f"{study.name}, {environment}: {error}") from None
    title = f"{study.name}, {environment}"
    over_seconds = None
    if all(_seconds(series) >= _SHORT_S for _, series in runs):
        timed = [_over_seconds(run, metric) for run in runs]
        over_seconds = replace(
            compare(timed, metric=metric, labels=labels),
            title=title,
            axis="seconds of training",
            warnings=(),  # they speak of env steps
        )
    rows: list[Row] = []
    for group in over_steps.groups:
        own = [run for run, label in zip(runs, labels, strict=True) if label == group.label]
        rows.append(_row(group.label, group.score.text(), own, study))
    over_steps = replace(over_steps, title=title)
    return Section(environment, tuple(rows), over_steps, over_seconds, tuple(runs), num_missing)


def _seconds(series: Mapping[str, Series]) -> float:
    """Of training; 0 where they are unknown."""
    return series[_ELAPSED].values[-1] if _ELAPSED in series else 0.0


def _over_seconds(run: Run, metric: str) -> Run:
    """The run with the metric over whole seconds of training in place of env steps."""
    one, series = run
    steps, values = finite_points(series[metric])
    seconds = np.interp(steps, series[_ELAPSED].steps, series[_ELAPSED].values).round()
    timed = Series([int(second) for second in seconds], [0.0] * len(seconds), values.tolist())
    return one, {metric: timed}


def _row(algorithm: str, score: str, runs: Sequence[Run], study: Study) -> Row:
    ends = [seconds for _, series in runs if (seconds := _seconds(series))]
    return Row(
        algorithm=algorithm,
        score=score,
        evaluation=_evaluation([one.metrics for one, _ in runs]),
        worst=_worst([one.metrics for one, _ in runs]),
        solved=_solved(study, [series for _, series in runs]),
        seconds=format_seconds(statistics.median(ends)) if ends else "",
        commits=", ".join(sorted({_commit(one) for one, _ in runs})),
    )


def _evaluation(finals: Sequence[Mapping[str, float]]) -> str:
    """Success at the end of the episode with its Wilson interval, or the mean return."""
    if all("eval/success_held_rate" in one for one in finals):
        total = sum(round(one["eval/num_episodes"]) for one in finals)
        held, reached = (sum(_count(one, key) for one in finals) for key in ("_held", ""))
        low, high = wilson_interval(held, total)
        return f"held {held} of {total} [{low:.1%}, {high:.1%}], reached {reached}"
    returns = [one["eval/return_mean"] for one in finals if "eval/return_mean" in one]
    return f"return {statistics.mean(returns):.4g}" if returns else ""


def _worst(finals: Sequence[Mapping[str, float]]) -> str:
    if all("eval/success_held_rate" in one for one in finals):
        count, total = min(
            (_count(one, "_held"), round(one["eval/num_episodes"])) for one in finals
        )
        return f"held {count} of {total}"
    returns = [one["eval/return_mean"] for one in finals if "eval/return_mean" in one]
    return f"return {min(returns):.4g}" if returns else ""


def _count(final: Mapping[str, float], which: str) -> int:
    return round(final[f"eval/success{which}_rate"] * final["eval/num_episodes"])


def _solved(study: Study, runs: Sequence[Mapping[str, Series]]) -> str:
    """`5 of 5, 62,000 (80,000) env steps, 64 (81) s`: medians, and the last seed's."""
    if study.file.solved is None:
        return ""
    moments = [
        m for series in runs if (m := solved_at(series, study.file.metric, study.file.solved))
    ]
    text = f"{len(moments)} of {len(runs)}"
    if not moments:
        return text
    steps, seconds = ([moment[i] for moment in moments] for i in (0, 1))
    text += f", {statistics.median(steps):,.0f} ({max(steps):,}) env steps"
    return f"{text}, {statistics.median(seconds):.0f} ({max(seconds):.0f}) s"


def solved_at(series: Mapping[str, Series], metric: str, value: float) -> tuple[int, float] | None:
    """Env steps and seconds at which the mean of the newest points first reached a value."""
    steps, values = finite_points(series[metric])
    width = min(_WINDOW, len(values))
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    reached = np.flatnonzero(means >= value - 1e-9)
    if not reached.size:
        return None
    step = int(steps[reached[0] + width - 1])
    elapsed = series.get(_ELAPSED)
    return step, float(np.interp(step, elapsed.steps, elapsed.values)) if elapsed else 0.0


def _commit(one: view.RunView) -> str:
    return (one.commit or "unknown")[:7] + ("+" if one.dirty else "")


def _table(rows: Sequence[Row]) -> list[list[str]]:
    """Heads and cells, without columns that are empty everywhere."""
    kept = [name for name in _HEADS if any(getattr(row, name) for row in rows)]
    return [[_HEADS[name] for name in kept], *([getattr(row, n) for n in kept] for row in rows)]


def _html(study: Study, found: Sequence[Section]) -> bytes:
    body = [f"<h1>{escape(study.name)}</h1>", f"<p>{escape(study.file.about)}</p>"]
    number = 0
    for section in found:
        heads, *rows = ([escape(cell) for cell in row] for row in _table(section.rows))
        body.append(f"<h2>{escape(section.environment)}</h2>")
        if section.num_missing:
            body.append(f'<p class="warning">{section.num_missing} runs are missing</p>')
        body += [page.table(heads, rows), plots.pair_table(section.over_steps)]
        for comparison in (section.over_steps, section.over_seconds):
            if comparison is not None:
                name, is_first = f"chart-{number}", number == 0
                body.append(plots.chart(comparison, name=name, is_first=is_first))
                number += 1
        body += [plots.group_table(section.over_steps)]
        body.append(plots.warning_boxes(section.over_steps.warnings))
    if found:
        footer = f"{escape(plots.method(found[0].over_steps))} {escape(_solved_means(study))}"
        body.append(f"<footer>{footer}</footer>")
    return page.page(escape(study.name), body)


def _solved_means(study: Study) -> str:
    if study.file.solved is None:
        return ""
    return (
        f"Solved: the mean of {_WINDOW} points of {study.file.metric} in a row is at least "
        f"{study.file.solved:g}."
    )
