"""What a study found: tables, pictures, and the line that repeats the winner.

    python sweeps/report.py acppo
    python sweeps/report.py acppo --all --json

Writes report.html (one page, offline) and PNGs into runs/sweeps/STUDY.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments._program import Parser, run_program
from experiments.commands import _print
from experiments.tracking import page
from experiments.tracking.compare import Estimate
from marlcore.durable import write_whole
from sweeps import ledger, plots, storage
from sweeps.results import Results, Row, command, read_results
from sweeps.study import Study
from sweeps.worker import open_here, read_definition

REPORT = "report.html"
_SHOWN = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Report; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_program(lambda: _report(_parser().parse_args(words)))


def _report(arguments: argparse.Namespace) -> int:
    folder = storage.find_study(arguments.study)
    opened = open_here(read_definition(folder), storage.storage_of(folder), folder)
    with closing(opened) as study:
        results = read_results(study)
        if arguments.json:
            _print.print_json(as_plain(study, results))
            return 0
        print_results(study, results, shown=None if arguments.all else _SHOWN)
        if results.rows:
            print_files(write(study, results, folder))
    print(f"\nbrowse: {dashboard(folder)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python sweeps/report.py", __doc__)
    parser.add_argument("study", metavar="STUDY", help="its name, its sweep file or its directory")
    parser.add_argument("--all", action="store_true", help=f"all trials, not {_SHOWN}")
    parser.add_argument("--json", action="store_true", help="print JSON, write no files")
    return parser


def dashboard(folder: Path) -> str:
    """The command that shows the study in optuna-dashboard; process lists show no password."""
    kept = storage.storage_of(folder)
    url = str(kept.url._replace(password=None))  # URL.set takes None for "as it is"
    how = "  (its password from PGPASSWORD or ~/.pgpass)" if kept.url.password else ""
    return f"optuna-dashboard {shlex.quote(url)}{how}"


def print_results(study: Study, results: Results, *, shown: int | None = _SHOWN) -> None:
    """Print the tables and the winner."""
    sweep = study.sweep
    counts = {
        state: sum(row.state == state for row in results.rows)
        for state in ("complete", "pruned", "failed", "running")
    }
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    print(f"study {study.definition.name}: {states or 'no trial yet'} of {sweep.trials} trials")
    print(f"{sweep.metric}, {sweep.direction}, {sweep.aggregate} over seeds [95 % interval]\n")
    rows = results.rows if shown is None else results.rows[:shown]
    if rows:
        _print.print_table(_heads(study), [_cells(row) for row in rows], fixed=3)
    if len(rows) < len(results.rows):
        print(f"({len(results.rows) - len(rows)} more: --all)")
    shares = plots.importances(study)
    if shares:
        texts = [f"{name} {share:.0%}" for name, share in shares.items()]
        print("\nimportance: " + ", ".join(texts))
    failed = [row for row in results.rows if row.error]
    for row in failed[:3]:
        print(f"trial {row.number} failed: {row.error}", file=sys.stderr)
    print("\n" + "\n".join(verdict(study, results)))


def verdict(study: Study, results: Results) -> list[str]:
    """Who won, by how much, and the line that repeats it."""
    row = results.winner
    if row is None:
        if results.is_complete:
            what = "finalist has all its test runs" if study.finalists() else "trial is complete"
            return [f"no winner: no {what}"]
        return ["no winner yet: the study is not complete (launch it again to go on)"]
    is_tested = row.test is not None
    where = "fresh seeds" if is_tested else "its tuning seeds, which flatter it: no test seeds"
    value = row.test if is_tested else row.tuning
    assert value is not None
    name = f"trial {row.number}" + (" (the experiment as it is)" if row.is_baseline else "")
    lines = [f"winner: {name}, {value.text()} on {where}"]
    baseline = results.baseline
    if baseline is not None and baseline.test is None and is_tested:
        lines.append(f"the experiment as it is {baseline.state}: nothing to compare with")
    if results.gain is not None:
        gain = results.gain
        doubt = "" if gain.low is not None and gain.low > 0 else "; this may be chance"
        lines.append(
            f"better than the experiment as it is by {gain.text()} on the same seeds{doubt}"
        )
    return [*lines, "", f"  {command(study, row)}"]


def _heads(study: Study) -> list[str]:
    keys = [axis.key.rpartition(".")[2] for axis in study.definition.space.axes]
    return ["trial", "test seeds", "tuning seeds", *keys]


def _cells(row: Row) -> list[str]:
    note = f" ({row.state})" if row.state != "complete" else ""
    name = f"{row.number}" + (" baseline" if row.is_baseline else "")
    values = [f"{v:g}" if isinstance(v, float) else str(v) for v in row.settings.values()]
    return [name, _text(row.test), _text(row.tuning) + note, *values]


def _text(value: Estimate | None) -> str:
    return "" if value is None else value.text().replace(" (one seed: no interval)", "")


def as_plain(study: Study, results: Results) -> dict[str, Any]:
    """Plain data, for other programs."""
    rows = [
        {
            "trial": row.number,
            "state": row.state,
            "is_baseline": row.is_baseline,
            "settings": row.settings,
            "tuning": _plain(row.tuning),
            "test": _plain(row.test),
            "error": row.error,
            "runs": [
                {"role": u.role, "seed": u.seed, "run": u.run, "state": u.state, "score": u.score}
                for u in row.units
            ],
        }
        for row in results.rows
    ]
    winner = results.winner
    return {
        "study": study.definition.name,
        "metric": study.sweep.metric,
        "direction": study.sweep.direction,
        "is_complete": results.is_complete,
        "winner": None if winner is None else winner.number,
        "command": None if winner is None else command(study, winner),
        "gain": _plain(results.gain),
        "importances": plots.importances(study),
        "trials": rows,
    }


def _plain(value: Estimate | None) -> dict[str, float | None] | None:
    return None if value is None else {"value": value.value, "low": value.low, "high": value.high}


def write(study: Study, results: Results, folder: Path) -> list[Path]:
    """Write the page and the pictures; returns where."""
    path = folder / REPORT
    write_whole(path, _page(study, results))
    return [path, *plots.write_pngs(study, folder)]


def print_files(paths: Sequence[Path]) -> None:
    """Say where a report is."""
    print(f"\nreport: {paths[0]}, " + ", ".join(path.name for path in paths[1:]))


def _page(study: Study, results: Results) -> bytes:
    sweep, name = study.sweep, escape(study.definition.name)
    lines = verdict(study, results)
    said = "<br>".join(escape(line) for line in lines[:2] if line)
    repeat = f"<pre>{escape(lines[-1].strip())}</pre>" if results.winner is not None else ""
    drawn = plots.charts(study)
    body = [
        f"<h1>Study {name}</h1>",
        f"<p>{escape(sweep.metric)}, {sweep.direction}; {sweep.aggregate} over "
        f"{len(sweep.tuning_seeds)} tuning seeds, the best {sweep.finalists} again on "
        f"{len(sweep.test_seeds)} fresh ones; sampler {sweep.sampler}, pruner "
        f"{sweep.pruner.kind}.</p>",
        f'<p class="winner">{said}</p>{repeat}',
        "<h2>Trials</h2>",
        _trials(study, results),
        *(f"<h2>{plots.NAMES[chart]}</h2>\n{html}" for chart, html in drawn.items()),
        f"<footer>{escape(_METHOD)}</footer>",
    ]
    return page.page(f"Study {name}", body)


_METHOD = (
    "A run's score is the mean of the metric over the last 10 % of its env steps. Brackets: 95 % "
    "intervals, Student's t for a mean, bootstrap for an IQM. The best trials were chosen by their "
    "tuning scores, which therefore flatter them; no search saw the test seeds. Choosing the "
    "winner among a few finalists by test scores flatters it a little, too."
)


def _trials(study: Study, results: Results) -> str:
    heads = [*map(escape, _heads(study)), "runs"]
    rows: list[list[str]] = []
    for row in results.rows:
        runs = ", ".join(
            escape(
                f"{u.run or '-'} ({u.state}" + (f", {u.score:.4g})" if u.score is not None else ")")
            )
            for u in row.units
            if u.state != ledger.WAITING
        )
        cells = [escape(cell) for cell in _cells(row)]
        error = f"<br>{escape(row.error)}" if row.error else ""
        rows.append(
            [*cells, f"<details><summary>{len(row.units)}</summary>{runs}{error}</details>"]
        )
    return page.table(heads, rows)


if __name__ == "__main__":
    sys.exit(main())
