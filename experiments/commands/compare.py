"""Groups of runs over seeds: IQM with bootstrap intervals, and learning curves.

    marl compare RUN RUN RUN ...
    marl compare env.kind=peg_in_hole --by algorithm.name --metric eval/success_rate

Runs are named, or chosen by conditions as in `marl runs`. Two runs are of one group if they differ
in nothing but the seed and in what changes no result. The score of a run is its mean over the last
tenth of its env steps. Writes NAME.html and NAME.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.commands import _print
from experiments.commands._choose import add_choice, choose
from experiments.tracking.catalog import Catalog
from experiments.tracking.compare import Comparison, compare
from experiments.tracking.plots import write_html, write_png
from marlcore.config_errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_choice(parser)
    parser.add_argument("--metric", metavar="KEY", help="success rate where all have it, or return")
    parser.add_argument("--by", metavar="KEY,KEY", help="configuration keys that make the groups")
    parser.add_argument("--output", "-o", metavar="NAME", help="RUNS/compare")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (0)")
    parser.add_argument("--json", action="store_true", help="print JSON, write no files")


def run(arguments: argparse.Namespace) -> int:
    """Compare."""
    catalog = Catalog()
    runs = [(one, catalog.series(one)) for one in choose(catalog, arguments)]
    if arguments.seed < 0:
        raise ConfigError(f"--seed {arguments.seed} is refused; give a number from 0")
    by = [key.strip() for key in (arguments.by or "").split(",") if key.strip()]
    comparison = compare(runs, metric=arguments.metric, by=by, seed=arguments.seed)
    if arguments.json:
        _print.print_json(comparison.to_json())
        return 0
    _print_comparison(comparison)
    base = (
        (arguments.output or str(catalog.runs / "compare"))
        .removesuffix(".html")
        .removesuffix(".png")
    )
    pages = [Path(base + ".html"), Path(base + ".png")]
    write_html(comparison, pages[0])
    write_png([comparison], pages[1])
    print(f"\ncurves: {pages[0]}, {pages[1]}")
    return 0


def _print_comparison(comparison: Comparison) -> None:
    print(f"{comparison.metric}: mean over the last tenth of each run, IQM over seeds\n")
    rows = [[group.label, group.size, group.score.text()] for group in comparison.groups]
    _print.print_table(["group", "runs", "IQM [95 % interval]"], rows, fixed=3)
    if comparison.pairs:
        print()
        pairs = [[pair.a, pair.b, pair.probability.text()] for pair in comparison.pairs]
        _print.print_table(["A", "B", "P(A above B)"], pairs, fixed=3)
    for warning in comparison.warnings:
        print(f"warning: {warning}", file=sys.stderr)
