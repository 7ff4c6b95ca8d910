"""Claims and leases: one contract, on both storages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps import ledger
from sweeps.ledger import Owner, Unit
from tests.sweeps.conftest import OpenStudy

ME, OTHER = Owner("here", 1, None), Owner("there", 2, None)


@pytest.fixture
def rows(open_study: OpenStudy) -> ledger.Ledger:
    found = open_study().ledger
    found.add([Unit(0, "tuning", 0), Unit(0, "tuning", 1)])
    return found


def test_what_is_added_twice_is_there_once_as_it_was(rows: ledger.Ledger) -> None:
    mine = rows.take(rows.units()[0], ME, lease_s=60)
    rows.add([Unit(0, "tuning", 0), Unit(1, "tuning", 0)])
    assert [unit.key for unit in rows.units()] == [
        (0, "tuning", 0),
        (0, "tuning", 1),
        (1, "tuning", 0),
    ]
    assert rows.units()[0] == mine


def test_of_two_who_saw_the_same_one_gets_it(rows: ledger.Ledger) -> None:
    seen = rows.units()[0]
    assert rows.take(seen, ME, lease_s=60) is not None
    assert rows.take(seen, OTHER, lease_s=60) is None


def test_whoever_lost_the_lease_changes_nothing(rows: ledger.Ledger) -> None:
    old = rows.take(rows.units()[0], ME, lease_s=60)
    assert old is not None
    new = rows.take(rows.units()[0], OTHER, lease_s=60)  # the lease was over
    assert new is not None
    assert new.token == old.token + 1
    assert rows.renew(old, lease_s=60) is None
    assert not rows.finish(old, ledger.DONE, score=1.0)
    assert rows.units()[0] == new
    assert rows.finish(new, ledger.DONE, score=2.0)
    assert not rows.finish(new, ledger.DONE, score=3.0)
    assert rows.units()[0].score == 2.0


def test_renewing_keeps_it_and_may_name_the_run(rows: ledger.Ledger) -> None:
    mine = rows.take(rows.units()[0], ME, lease_s=-1)
    assert mine is not None
    assert ledger.is_free(mine)
    assert rows.renew(mine, lease_s=60, run="a-run") is not None
    there = rows.units()[0]
    assert (there.run, ledger.is_free(there)) == ("a-run", False)
    assert rows.renew(mine, lease_s=60) is not None  # as it was taken, without the run
    assert rows.units()[0].run == "a-run"


def test_what_is_cancelled_is_lost_for_who_works_on_it(rows: ledger.Ledger) -> None:
    mine = rows.take(rows.units()[0], ME, lease_s=60)
    assert mine is not None
    assert rows.cancel(rows.units()[0])
    assert rows.renew(mine, lease_s=60) is None
    assert not rows.finish(mine, ledger.DONE, score=1.0)


def test_a_dead_owner_on_this_machine_is_known_at_once() -> None:
    me = Owner.of_this_process()
    unit = Unit(0, "tuning", 0, state=ledger.RUNNING, owner=me.text, expires=1e12)
    assert not ledger.is_free(unit)
    assert ledger.is_free(replace(unit, owner=replace(me, started=1).text))  # another process now
    elsewhere = replace(me, place="elsewhere", started=1)
    assert not ledger.is_free(replace(unit, owner=elsewhere.text))
    assert ledger.is_free(replace(unit, owner=elsewhere.text, expires=0.0))
