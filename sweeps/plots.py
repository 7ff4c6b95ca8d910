"""Pictures of a study: history, importances, slices and parallel coordinates, as HTML and as PNG.

Optuna draws them. A parameter called `1 - gamma_prime` is on a logarithmic scale.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.trial import TrialState

from experiments.tracking import page
from marlcore.durable import write_whole
from sweeps.storage import quietly
from sweeps.study import Study

NAMES = {
    "history": "History: every trial in its order, and the best so far",
    "importance": "Importance of each parameter for the objective (PED-ANOVA)",
    "slice": "Slices: the objective over each parameter",
    "parallel": "Parallel coordinates: a line a trial",
}
"""What there is to see, and its title."""
_DRAWN_BY = {
    "history": "plot_optimization_history",
    "importance": "plot_param_importances",
    "slice": "plot_slice",
    "parallel": "plot_parallel_coordinate",
}
"""Functions of optuna.visualization, and of its matplotlib."""


def charts(study: Study) -> dict[str, str]:
    """Interactive charts by name, as parts of a page; what cannot be drawn yet is left out."""
    from optuna import visualization

    drawn: dict[str, str] = {}
    for name in _possible(study):
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            maker = getattr(visualization, _DRAWN_BY[name])
            figure = maker(study.optuna, target_name=study.sweep.metric)
        figure.update_layout(title=None, template="plotly_white", height=400, margin={"t": 20})
        drawn[name] = figure.to_html(
            full_html=False,
            include_plotlyjs=not drawn,  # once a page
            div_id=name,
            config=page.CHART,
        )
    return drawn


def write_pngs(study: Study, folder: Path) -> list[Path]:
    """Write a picture for each of NAMES that can be drawn yet; returns where."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as draw

    written: list[Path] = []
    for name in _possible(study):
        with quietly(), warnings.catch_warnings(), pyplot.style.context("default"):
            warnings.simplefilter("ignore")
            getattr(draw, _DRAWN_BY[name])(study.optuna, target_name=study.sweep.metric)
            figure = pyplot.gcf()
            figure.suptitle("")
            figure.set_size_inches(11 if name in ("slice", "parallel") else 8, 4.5)
            picture = io.BytesIO()
            figure.savefig(picture, dpi=120, bbox_inches="tight")
            pyplot.close(figure)
        path = folder / f"{name}.png"
        write_whole(path, picture.getvalue())
        written.append(path)
    return written


def importances(study: Study) -> dict[str, float]:
    """Share of each parameter in the variation of the objective; empty while there is none."""
    if "importance" not in _possible(study):
        return {}
    with quietly():
        return optuna.importance.get_param_importances(study.optuna)


def _possible(study: Study) -> Iterator[str]:
    complete = study.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = {trial.value for trial in complete}
    for name in NAMES:
        if complete and (name != "importance" or (len(complete) >= 4 and len(values) > 1)):
            yield name
