"""A comparison as a picture (PNG) and as one page that needs nothing else (HTML, offline).

Thick lines are inter-quartile means over runs, bands their bootstrap intervals, thin lines single
runs. Colours are those of Okabe and Ito, which colour-blind people tell apart; with more groups
than colours the lines are dashed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.tracking import page
from experiments.tracking.compare import Comparison, Group, Member
from experiments.tracking.export import check_output
from marlcore.config_errors import ConfigError
from marlcore.durable import write_whole

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"), ("-.", "dashdot"))
"""Of matplotlib and of plotly."""
_LEGEND_CHARS = 60
_BAND_ALPHA = 0.16


def write_png(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write the curves as a picture, a panel each; all of the same groups.

    Raises:
        ConfigError: matplotlib is missing, or the path cannot be written to.
    """
    check_output(path)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("a PNG needs matplotlib; pip install matplotlib") from None
    groups = comparisons[0].groups
    size = (9.0 if len(comparisons) == 1 else 6.0 * len(comparisons), 5.4 + 0.12 * len(groups))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    canvas, panels = FigureCanvasAgg(figure), figure.subplots(1, len(comparisons), squeeze=False)
    handles: list[Any] = []
    for axes, comparison in zip(panels[0], comparisons, strict=True):
        handles = _panel(axes, comparison)
    labels = [_short(f"{group.label} ({group.size})") for group in groups]
    columns = 2 if max(map(len, labels)) < 45 else 1
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    legend = figure.legend(handles, labels, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for it
        canvas.print_png(picture)
    write_whole(path, picture.getvalue())


def _panel(axes: Any, comparison: Comparison) -> list[Any]:
    """Draw a comparison; returns what stands for its groups in the legend."""
    handles = [_draw(axes, group, *_style(i)) for i, group in enumerate(comparison.groups)]
    axes.set_title(_title(comparison), parse_math=False, loc="left", fontsize=12)
    axes.set_xlabel(comparison.axis, parse_math=False)
    axes.set_ylabel(_axis(comparison), parse_math=False)
    axes.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return handles


def _draw(axes: Any, group: Group, colour: str, dash: tuple[str, str]) -> Any:
    """Draw a group; returns what stands for it in the legend."""
    for member in group.members:
        style = {"color": colour, "alpha": 0.35, "linewidth": 0.7, "markersize": 4}
        axes.plot(member.steps, member.values, marker=_marker(member), **style)
    if group.low is not None and group.high is not None:
        band = (group.steps, group.low, group.high)
        axes.fill_between(*band, color=colour, alpha=_BAND_ALPHA, linewidth=0)
        if len(group.steps) == 1:
            axes.vlines(*band, color=colour, alpha=0.6)
    style = {"color": colour, "linestyle": dash[0], "linewidth": 2.2, "markersize": 8}
    (line,) = axes.plot(group.steps, group.values, marker=_marker(group), **style)
    return line


def _marker(curve: Group | Member) -> str:
    """One point alone, as of an evaluation at the end, would be no line."""
    return "o" if len(curve.steps) == 1 else ""


def _style(index: int) -> tuple[str, tuple[str, str]]:
    return _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]


def _short(text: str) -> str:
    """For a legend; a leading underscore would hide it from matplotlib's."""
    text = text if len(text) <= _LEGEND_CHARS else f"{text[: _LEGEND_CHARS - 3]}..."
    return " " + text if text.startswith("_") else text


def _title(comparison: Comparison) -> str:
    if comparison.title:
        return comparison.title
    runs = sum(len(group.members) for group in comparison.groups)
    return f"{comparison.metric} of {runs} run" + "s" * (runs > 1)


def _axis(comparison: Comparison) -> str:
    """The metric with what the band is; its unit is in its meaning."""
    return f"{comparison.metric}\n(IQM, {comparison.level:.0%} bootstrap interval)"


def _thousands(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def write_html(comparison: Comparison, path: Path) -> None:
    """Write an interactive page: the curves, the table of groups, what the metric means.

    Raises:
        ConfigError: plotly is missing, or the path cannot be written to.
    """
    check_output(path)
    title = escape(_title(comparison))
    body = [
        f"<h1>{title}</h1>",
        f"<p>{escape(comparison.meaning)}</p>" if comparison.meaning else "",
        warning_boxes(comparison.warnings),
        chart(comparison),
        group_table(comparison),
        pair_table(comparison),
        f"<footer>{escape(method(comparison))}</footer>",
    ]
    write_whole(path, page.page(title, body))


def warning_boxes(texts: Sequence[str]) -> str:
    """Each in a box; many of them folded."""
    boxes = "\n".join(f'<p class="warning">{escape(text)}</p>' for text in texts)
    if len(texts) <= _SHOWN_WARNINGS:
        return boxes
    return f"<details><summary>{len(texts)} warnings</summary>\n{boxes}\n</details>"


_SHOWN_WARNINGS = 3


def chart(comparison: Comparison, *, name: str = "chart", is_first: bool = True) -> str:
    """The curves as interactive HTML.

    Args:
        comparison: what to draw.
        name: unique on its page.
        is_first: on its page; further ones use the script that it brings.
    """
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise ConfigError("an HTML page needs plotly; pip install plotly") from None
    figure = go.Figure()
    for index, group in enumerate(comparison.groups):
        for trace in _traces(group, *_style(index)):
            figure.add_trace(go.Scatter(**trace))
    grid = {"gridcolor": "#e6e6e6", "zerolinecolor": "#cccccc"}
    figure.update_layout(
        height=560,
        template="none",
        margin={"l": 70, "r": 20, "t": 30, "b": 60},
        hovermode="closest",
        legend={"orientation": "h", "y": -0.15, "yanchor": "top", "x": 0},
        xaxis={"title": {"text": escape(comparison.axis)}, **grid},
        yaxis={"title": {"text": escape(comparison.metric)}, **grid},
    )
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=is_first,
        div_id=name,  # not a random one: the same comparison is the same page
        config=page.CHART,
    )
    return html


def _traces(group: Group, colour: str, dash: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """Arguments of plotly's Scatter: the runs, the band, the mean; plotly reads tags in texts."""
    label = escape(group.label)
    shared = {"legendgroup": label, "mode": "lines+markers" if _marker(group) else "lines"}
    for member in group.members:
        yield {
            **shared,
            "x": member.steps,
            "y": member.values,
            "line": {"color": colour, "width": 1},
            "opacity": 0.35,
            "showlegend": False,
            "hovertemplate": f"{_hover(member)}<br>{label}<br>%{{y:.4g}} at %{{x:,}}"
            "<extra></extra>",
        }
    if group.low is not None and group.high is not None:
        yield {
            **shared,
            "x": group.steps + group.steps[::-1],
            "y": group.high + group.low[::-1],
            "fill": "toself",
            "fillcolor": _faint(colour),
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    bounds = list(zip(group.low or (), group.high or (), strict=True))
    texts = [f" [{low:.4g}, {high:.4g}]" for low, high in bounds] or [""] * len(group.steps)
    bars = {}
    if len(bounds) == 1:  # a band of one point cannot be seen
        (low, high), (middle,) = bounds[0], group.values
        bars = {"error_y": {"array": [high - middle], "arrayminus": [middle - low]}}
    yield {
        **shared,
        "x": group.steps,
        "y": group.values,
        "name": escape(_short(f"{group.label} ({group.size})")),
        "text": texts,
        **bars,
        "line": {"color": colour, "width": 3, "dash": dash[1]},
        "hovertemplate": f"{label}<br>IQM %{{y:.4g}}%{{text}} at %{{x:,}}<extra></extra>",
    }


def _hover(member: Member) -> str:
    seed = "unknown" if member.seed is None else member.seed
    return f"<b>{escape(member.run)}</b>, seed {seed}"


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {_BAND_ALPHA})"


def group_table(comparison: Comparison) -> str:
    """Final scores, as HTML."""
    rows: list[Sequence[str]] = []
    for index, group in enumerate(comparison.groups):
        swatch = f'<span class="swatch" style="background:{_style(index)[0]}"></span>'
        runs = (
            f"{escape(m.run)} (seed {'unknown' if m.seed is None else m.seed}, {m.score:.4g}, "
            f"{m.steps[-1]:,} steps, {escape(m.status)})"
            for m in group.members
        )
        rows.append(
            (swatch + escape(group.label), group.score.text(), group.size, "<br>".join(runs))
        )
    heads = ("group", "final score", "seeds", "runs (seed, final score)")
    return "<h2>Final scores</h2>\n" + page.table(heads, rows)


def pair_table(comparison: Comparison) -> str:
    """Probabilities of improvement, as HTML; empty for one group."""
    if not comparison.pairs:
        return ""
    rows = [
        (f"{escape(pair.a)} above {escape(pair.b)}", pair.probability.text())
        for pair in comparison.pairs
    ]
    heads = ("a random run of the first above one of the second", "probability")
    return "<h2>Probability of improvement</h2>\n" + page.table(heads, rows)


def method(comparison: Comparison) -> str:
    """How curves, scores and intervals come about."""
    return (
        "Thick lines: inter-quartile mean over runs (IQM), with points of a run joined by straight "
        "lines inside the range of env steps that all runs of a group cover. Bands and brackets: "
        f"{comparison.level:.0%} bootstrap intervals ({comparison.num_resamples:,} resamples, seed "
        f"{comparison.seed}). Thin lines: single runs. Final score of a run: mean over the last "
        "10 % of its env steps; of a group: IQM over its runs."
    )
