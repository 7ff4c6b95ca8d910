"""A study: which unit comes next, and what becomes of a trial when its units are finished.

Optuna chooses parameters and remembers values; who works on what is the ledger's. What a worker
that died between the two left half done is settled by the next claim, whoever makes it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from marlcore.config_errors import ConfigError, show
from sweeps import ledger
from sweeps.definition import Definition, Sweep
from sweeps.ledger import Ledger, Owner, Unit
from sweeps.samplers import make_pruner, make_sampler
from sweeps.storage import Storage, quietly

TUNING, TEST = "tuning", "test"
WAIT: Final = "wait"
"""Others work on what is left."""
_ATTRIBUTE = "marl"
_HOPELESS = 5
"""So many trials that all failed end the sweep."""
_MOST_TAKEOVERS = 20
"""A unit that was taken from so many dead workers may be what kills them: its trial is given up."""


class Shared(Protocol):
    """What a worker needs of a study, wherever it is kept."""

    definition: Definition
    sweep: Sweep
    key: str

    def claim(self, owner: Owner) -> Unit | str | None:
        """The next unit, WAIT, or None if nothing is left to do."""
        ...

    def renew(self, unit: Unit, *, run: str | None = None) -> Unit | None:
        """Stay the owner of a unit; None if the lease is lost."""
        ...

    def finish(
        self, unit: Unit, state: str, *, score: float | None = None, error: str | None = None
    ) -> bool:
        """Say what became of a unit; False if its lease was lost."""
        ...

    def release(self, unit: Unit, *, was_killed: str | None = None) -> bool:
        """Give a unit back, to be gone on with."""
        ...

    def report(self, unit: Unit, point: int, value: float) -> bool:
        """Record a point of a learning curve; whether the trial is to be pruned."""
        ...

    def params(self, trial: int) -> dict[str, Any]:
        """What Optuna has drawn for a trial."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class HopelessError(RuntimeError):
    """Every trial fails."""


class Study:
    """One study, opened; makes it if there is none.

    Raises:
        ConfigError: there is one of this name that asks for something else.
    """

    def __init__(self, definition: Definition, storage: Storage) -> None:
        self.definition, self.sweep = definition, definition.sweep
        self._storage = storage.open()
        try:
            with quietly(), storage.exclusive():
                self.optuna = optuna.create_study(
                    study_name=definition.name,
                    storage=self._storage,
                    direction=self.sweep.direction,
                    pruner=make_pruner(self.sweep),
                    load_if_exists=True,
                )
                self.key = self._identify()
            self.ledger = Ledger(storage.url, self.key, storage.lock)
        except BaseException:
            self._disconnect()
            raise

    def close(self) -> None:
        """Close all connections."""
        self.ledger.close()
        self._disconnect()

    def _disconnect(self) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _identify(self) -> str:
        """The study's key, drawn when it is made; later, that it is the same sweep."""
        identity = self.definition.identity()
        known = self.optuna.user_attrs.get(_ATTRIBUTE)
        if known is None:
            if self.optuna.get_trials(deepcopy=False):
                raise ConfigError(
                    f"study {self.definition.name} was made by something else; give another name "
                    "by --study"
                )
            known = {"key": f"{self.definition.name}-{secrets.token_hex(4)}", "sweep": identity}
            self.optuna.set_user_attr(_ATTRIBUTE, known)
        elif (before := known["sweep"]) != identity:
            differing = [k for k in identity if identity[k] != before.get(k)]
            differing += [k for k in before if k not in identity]
            which = "; ".join(
                f"{k} was {show(before.get(k))} and is {show(identity.get(k))}" for k in differing
            )
            raise ConfigError(
                f"study {self.definition.name} has begun with another sweep: {which}. Take that "
                "back, or begin another study by --study NAME"
            )
        return str(known["key"])

    def claim(self, owner: Owner) -> Unit | str | None:
        """The next unit, WAIT, or None if nothing is left to do.

        Raises:
            HopelessError: every trial so far has failed.
        """
        with self.ledger.exclusive(), quietly():
            num_known = self.settle()
            units = self.ledger.units()
            mine = self._take([unit for unit in units if unit.role == TUNING], owner)
            if mine is not None:
                return mine
            if len({unit.trial for unit in units}) < self.sweep.trials:
                self._check_hope(units)
                return self._new_trial(num_known, owner)
            if not all(unit.is_final for unit in units if unit.role == TUNING):
                return WAIT
            self.ledger.add(
                [Unit(t, TEST, seed) for t in self.finalists() for seed in self.sweep.test_seeds]
            )
            units = self._wanted()
            mine = self._take(units, owner)
            if mine is not None:
                return mine
            return None if all(unit.is_final for unit in units) else WAIT

    def renew(self, unit: Unit, *, run: str | None = None) -> Unit | None:
        """Stay the owner of a unit; None if the lease is lost."""
        return self.ledger.renew(unit, lease_s=self.sweep.lease_s, run=run)

    def finish(
        self, unit: Unit, state: str, *, score: float | None = None, error: str | None = None
    ) -> bool:
        """Say what became of a unit; False if its lease was lost, and nothing is changed.

        A score that is not finite fails the unit.
        """
        if state == ledger.DONE and (score is None or not math.isfinite(score)):
            state, error = ledger.FAILED, error or f"the objective is {score}"
        if score is not None and not math.isfinite(score):
            score = None
        with self.ledger.exclusive(), quietly():
            if not self.ledger.finish(unit, state, score=score, error=error):
                return False
            if unit.role == TUNING:
                if state == ledger.DONE:
                    self._report_seed(unit, score)
                self.settle(unit.trial)
        return True

    def release(self, unit: Unit, *, was_killed: str | None = None) -> bool:
        """Give a unit back, to be gone on with.

        `was_killed` says how its run was killed; a unit that is killed again and again has failed.
        """
        failures = unit.failures + (was_killed is not None)
        if was_killed is not None and failures >= self.sweep.max_failures:
            return self.finish(unit, ledger.FAILED, error=f"{was_killed}, {failures} times")
        return self.ledger.finish(unit, ledger.WAITING, failures=failures)

    def report(self, unit: Unit, point: int, value: float) -> bool:
        """Record a point of a learning curve; whether the trial is to be pruned."""
        with self.ledger.exclusive(), quietly():
            return self.renew(unit) is not None and self._report(unit.trial, point, value)

    def finalists(self) -> list[int]:
        """The trials that are run again on the test seeds, the best first, the baseline last."""
        if not self.sweep.test_seeds:
            return []
        chosen: list[FrozenTrial] = []
        for trial in self.ranked():
            settings = [one.params for one in chosen]
            if len(chosen) < self.sweep.finalists and trial.params not in settings:
                chosen.append(trial)
        numbers = [trial.number for trial in chosen]
        baseline = self.baseline()
        is_complete = baseline is not None and baseline in [t.number for t in self.ranked()]
        return numbers + ([baseline] if is_complete and baseline not in numbers else [])

    def ranked(self) -> list[FrozenTrial]:
        """Complete trials, the best on the tuning seeds first."""
        complete = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = -1.0 if self.sweep.direction == "maximize" else 1.0
        return sorted(complete, key=lambda trial: (sign * float(trial.value or 0.0), trial.number))

    def baseline(self) -> int | None:
        """The trial that is the experiment as it is; None where there is none."""
        trials = self.optuna.get_trials(deepcopy=False)
        return next((t.number for t in trials if t.user_attrs.get("baseline")), None)

    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        units = self.ledger.units()
        tuning = [unit for unit in units if unit.role == TUNING]
        trials = self.optuna.get_trials(deepcopy=False)
        if not all(trial.state.is_finished() for trial in trials):  # a claim settles it
            return False
        if len({unit.trial for unit in tuning}) < self.sweep.trials:
            return False
        tests = {(t, TEST, seed) for t in self.finalists() for seed in self.sweep.test_seeds}
        done = {unit.key for unit in units if unit.is_final}
        return tests <= done and all(unit.is_final for unit in tuning)

    def params(self, trial: int) -> dict[str, Any]:
        """What Optuna has drawn for a trial."""
        return dict(self.optuna.get_trials(deepcopy=False)[trial].params)

    def settle(self, only: int | None = None) -> int:
        """Have Optuna's trials follow the units; may be done again and again. Returns their number.

        `only` one of them, if it is given.
        """
        units = ledger.by_trial(self.ledger.units(), TUNING)
        trials = self.optuna.get_trials(deepcopy=False)
        for trial in trials if only is None else [trials[only]]:
            if trial.state == TrialState.RUNNING:
                self._settle(trial, units.get(trial.number, []))
        return len(trials)

    def aggregate(self, scores: Sequence[float]) -> float:
        """One number of the scores of a trial's runs."""
        array = np.array(scores, dtype=np.float64)
        if self.sweep.aggregate == "mean":
            return float(array.mean())
        from marlcore.statistics import interquartile_mean  # torch comes with it, which is slow

        return interquartile_mean(array)

    def _settle(self, trial: FrozenTrial, units: Sequence[Unit]) -> None:
        if not units:  # its maker died before it could add them, perhaps while it drew parameters
            self.optuna.sampler = make_sampler(self.sweep, trial.number)
            half = optuna.trial.Trial(self.optuna, trial._trial_id)
            for name, distribution in self.definition.space.distributions.items():
                half._suggest(name, distribution)  # as Study.ask does
            self.ledger.add(self._units_of(trial.number))
            return
        states = {unit.state for unit in units}
        for state, what in (
            (ledger.FAILED, TrialState.FAIL),
            (ledger.PRUNED, TrialState.PRUNED),
            (ledger.CANCELLED, TrialState.PRUNED),
        ):
            if state in states:
                errors = [f"seed {unit.seed}: {unit.error}" for unit in units if unit.error]
                self._end(trial, units, what, errors)
                return
        scores = [unit.score for unit in units if unit.score is not None]
        if states == {ledger.DONE} and len(scores) == len(units):
            runs = {str(unit.seed): [unit.run, unit.score] for unit in units}
            self._attribute(trial, "runs", runs)
            self.optuna.tell(trial.number, self.aggregate(scores), skip_if_finished=True)

    def _end(
        self, trial: FrozenTrial, units: Sequence[Unit], state: TrialState, errors: list[str]
    ) -> None:
        for unit in units:
            self.ledger.cancel(unit)  # if it is not final
        if errors:
            self._attribute(trial, "error", errors[0][:1000])
        self.optuna.tell(trial.number, state=state, skip_if_finished=True)

    def _attribute(self, trial: FrozenTrial, name: str, value: Any) -> None:
        self.optuna._storage.set_trial_user_attr(trial._trial_id, name, value)

    def _take(self, units: Sequence[Unit], owner: Owner) -> Unit | None:
        for unit in units:
            if not ledger.is_free(unit):
                continue
            mine = self.ledger.take(unit, owner, lease_s=self.sweep.lease_s)
            if mine is not None and mine.takeovers > _MOST_TAKEOVERS:
                self.finish(mine, ledger.FAILED, error=f"{mine.takeovers} workers died at it")
            elif mine is not None:
                return mine
        return None

    def _new_trial(self, number: int, owner: Owner) -> Unit:
        """Ask for a trial, and take its first unit."""
        self.optuna.sampler = make_sampler(self.sweep, number)
        baseline = self.definition.baseline() if self.sweep.baseline and number == 0 else None
        if baseline is not None:
            self.optuna.enqueue_trial(baseline, {"baseline": True})
        trial = self.optuna.ask(self.definition.space.distributions)
        first, *others = self._units_of(trial.number)
        mine = ledger.taken(first, owner, lease_s=self.sweep.lease_s)
        self.ledger.add([mine, *others])
        return mine

    def _units_of(self, trial: int) -> list[Unit]:
        return [Unit(trial, TUNING, seed) for seed in self.sweep.tuning_seeds]

    def _wanted(self) -> list[Unit]:
        """Units of the tests that count now; the best may be others than when some were added."""
        chosen = self.finalists()
        units = [u for u in self.ledger.units() if u.role == TEST and u.trial in chosen]
        return sorted(units, key=lambda u: (chosen.index(u.trial), u.seed))

    def _check_hope(self, units: Sequence[Unit]) -> None:
        """Trials that are not ended yet tell nothing."""
        groups = ledger.by_trial(units, TUNING).values()
        ended = [one for one in groups if all(unit.is_final for unit in one)]
        failed = [one for one in ended if any(unit.state == ledger.FAILED for unit in one)]
        if len(failed) >= _HOPELESS and len(failed) == len(ended):
            error = next(u for u in failed[-1] if u.state == ledger.FAILED)
            raise HopelessError(
                f"all {len(failed)} trials so far failed; the last one (run {error.run}): "
                f"{error.error}. Mend that, then begin another study by --study NAME"
            )

    def _report_seed(self, unit: Unit, score: float | None) -> None:
        """For pruners that compare seeds."""
        if self.sweep.pruner.kind == "none" or self.sweep.pruner.by != "seed":
            return
        mine = [u for u in self.ledger.units() if u.trial == unit.trial and u.role == TUNING]
        done = [u.score for u in mine if u.state == ledger.DONE and u.score is not None]
        value = score if self.sweep.pruner.kind == "wilcoxon" else self.aggregate(done)
        assert value is not None
        step = self.sweep.tuning_seeds.index(unit.seed)
        if self._report(unit.trial, step, value):
            for other in mine:
                self.ledger.cancel(other)  # those that are not final

    def _report(self, number: int, step: int, value: float) -> bool:
        """Record a value; whether the pruner, which judges the last one, is against the trial."""
        trial = self.optuna.get_trials(deepcopy=False)[number]
        if trial.state.is_finished() or not math.isfinite(value):
            return False
        storage = self.optuna._storage
        if step not in trial.intermediate_values:
            storage.set_trial_intermediate_value(trial._trial_id, step, value)
        if trial.user_attrs.get("baseline"):  # it is what the winner is measured against
            return False
        return bool(self.optuna.pruner.prune(self.optuna, storage.get_trial(trial._trial_id)))
