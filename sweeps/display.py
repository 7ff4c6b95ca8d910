"""What is seen of a study while workers work on it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence

from rich.progress import BarColumn, Progress, TextColumn

from experiments.console import format_seconds
from sweeps import ledger
from sweeps.ledger import Unit
from sweeps.patience import DATABASE_ERRORS
from sweeps.study import TEST, TUNING, Study

_LOOK_EVERY_S = 1.0


class Display:
    """A line for every trial that ends and every test of a finalist; on a terminal a bar as well.

    A context manager.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._started = time.monotonic()
        self._look_at = 0.0
        self._units = self._read()
        self._done_before = _count_done(self._units)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}")
        )
        self._task = self._bar.add_task(study.definition.name, left="")

    def __enter__(self) -> Display:
        if sys.stdout.isatty():
            self._bar.start()
        if self._done_before:
            self.say(f"going on: {self._done_before} runs are done")
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        if self._bar.live.is_started:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def look(self, *, at_once: bool = False) -> None:
        """Say what is new."""
        if time.monotonic() < self._look_at and not at_once:
            return
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        with contextlib.suppress(*DATABASE_ERRORS):  # workers say so
            units = self._read()
            news, self._units = self._news(self._units, units), units
            for line in news:
                self._say(line)
            self._show()

    def _news(self, before: Sequence[Unit], now: Sequence[Unit]) -> list[str]:
        known = {unit.key: unit.state for unit in before}
        lines: list[str] = []
        for unit in now:
            if unit.role == TEST and unit.is_final and known.get(unit.key) != unit.state:
                value = f"{unit.score:.4g}" if unit.score is not None else unit.error or unit.state
                lines.append(f"finalist {unit.trial}, fresh seed {unit.seed}: {value}")
        ended_before = _ended(before)
        for trial, units in _ended(now).items():
            if trial not in ended_before:
                lines.append(self._describe(trial, units))
        return lines

    def _read(self) -> list[Unit]:
        return self._study.ledger.units()

    def _describe(self, trial: int, units: Sequence[Unit]) -> str:
        settings = self._study.definition.space.settings(self._study.params(trial))
        words = " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in settings.items())
        scores = [unit.score for unit in units if unit.score is not None]
        if all(unit.state == ledger.DONE for unit in units):
            single = " ".join(f"{score:.4g}" for score in scores)
            what = f"{self._study.aggregate(scores):.4g} ({single})"
        else:
            error = next((unit.error for unit in units if unit.error), None)
            what = f"failed: {error}" if error else "pruned"
        return f"trial {trial}: {what}  {words}"

    def _say(self, text: str) -> None:
        done, total, left = self._progress()
        self.say(text if self._bar.live.is_started else f"[{done} of {total} runs{left}] {text}")

    def _show(self) -> None:
        done, total, left = self._progress()
        self._bar.update(
            self._task, completed=done, total=total, left=f"{done} of {total} runs{left}"
        )

    def _progress(self) -> tuple[int, int, str]:
        """Runs that are done, all of them, and the time that is left as a text."""
        sweep, units = self._study.sweep, self._units
        trials = {unit.trial for unit in units if unit.role == TUNING}
        tests = sum(unit.role == TEST for unit in units)
        if not tests:
            baseline = 1 if sweep.baseline else 0
            tests = (sweep.finalists + baseline) * len(sweep.test_seeds)
        missing = max(0, sweep.trials - len(trials)) * len(sweep.tuning_seeds)
        total = sum(unit.role == TUNING for unit in units) + missing + tests
        done = _count_done(units)
        new, passed = done - self._done_before, time.monotonic() - self._started
        left = (
            f", left {format_seconds(passed / new * (total - done))}"
            if new and total > done
            else ""
        )
        return done, total, left


def _count_done(units: Sequence[Unit]) -> int:
    return sum(unit.is_final for unit in units)


def _ended(units: Sequence[Unit]) -> dict[int, list[Unit]]:
    groups = ledger.by_trial(units, TUNING)
    return {n: group for n, group in groups.items() if all(unit.is_final for unit in group)}
