"""A study served to workers elsewhere: the same as at hand, for those who know the secret."""

from __future__ import annotations

import http.client
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from marlcore.config_errors import ConfigError
from sweeps import ledger
from sweeps.ledger import Owner, Unit
from sweeps.service import ADDRESS, RemoteStudy, serving
from sweeps.study import WAIT, HopelessError, Study
from sweeps.worker import work
from tests.sweeps.toy import formula, open_toy, toy

ME = Owner("elsewhere", 1, None)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.delenv("MARL_OPTUNA_URL", raising=False)
    return open_toy(tmp_path, trials=4)


@pytest.fixture
def remote(study: Study, tmp_path: Path) -> Iterator[RemoteStudy]:
    with serving(study, tmp_path, "127.0.0.1"):
        yield RemoteStudy(toy(trials=4), tmp_path, study.key)


def claim(remote: RemoteStudy) -> Unit:
    unit = remote.claim(ME)
    assert isinstance(unit, Unit)
    return unit


def test_workers_elsewhere_do_the_whole_study(study: Study, remote: RemoteStudy) -> None:
    def run(unit: Unit) -> None:
        assert remote.renew(unit, run=f"run-{unit.trial}")
        value = formula(study.definition.space.settings(remote.params(unit.trial)))
        assert not remote.report(unit, 0, value)
        assert remote.finish(unit, ledger.DONE, score=value)

    threads = [threading.Thread(target=work, args=(remote, run)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [trial.state.name for trial in study.optuna.trials] == ["COMPLETE"] * 4
    assert {unit.run for unit in study.ledger.units()} == {f"run-{n}" for n in range(4)}
    assert study.is_complete()


def test_leases_are_fenced_from_afar_too(study: Study, remote: RemoteStudy) -> None:
    old = claim(remote)
    new = study.ledger.take(study.ledger.units()[0], ME, lease_s=60)
    assert new is not None
    assert remote.renew(old) is None
    assert not remote.finish(old, ledger.DONE, score=1.0)
    assert remote.release(new)
    assert not remote.release(new)


def test_what_is_not_finite_fails_and_what_waits_waits(study: Study, remote: RemoteStudy) -> None:
    units = [claim(remote) for _ in range(4)]
    assert remote.claim(ME) == WAIT
    assert remote.finish(units[0], ledger.DONE, score=math.nan)
    assert not remote.report(units[1], 0, math.inf)
    assert study.ledger.units()[0].state == ledger.FAILED


def test_a_hopeless_sweep_is_told(tmp_path: Path) -> None:
    study = open_toy(tmp_path / "bad", trials=9)
    with serving(study, tmp_path / "bad", "127.0.0.1"):
        remote = RemoteStudy(toy(trials=9), tmp_path / "bad", study.key)
        with pytest.raises(HopelessError, match="no such camera"):
            work(remote, lambda u: print(remote.finish(u, ledger.FAILED, error="no such camera")))


def test_who_does_not_know_the_secret_is_refused(remote: RemoteStudy, tmp_path: Path) -> None:
    path = tmp_path / ADDRESS
    assert path.stat().st_mode & 0o777 == 0o600
    place = json.loads(path.read_text())
    path.write_text(json.dumps({**place, "secret": "guess"}))
    with pytest.raises(ConnectionError, match="401"):
        remote.claim(ME)
    for method, headers, status in (
        ("POST", {}, 401),
        ("POST", {"Content-Length": str(10**9)}, 413),
        ("GET", {}, 501),
    ):
        connection = http.client.HTTPConnection(place["host"], place["port"], timeout=10)
        connection.request(method, "/claim", b"", headers)
        assert connection.getresponse().status == status
        connection.close()


def test_workers_wait_for_a_launcher_that_comes_back(study: Study, tmp_path: Path) -> None:
    with serving(study, tmp_path, "127.0.0.1"):
        remote = RemoteStudy(toy(trials=4), tmp_path, study.key)
        unit = claim(remote)
        address = (tmp_path / ADDRESS).read_text()
    with pytest.raises(ConnectionError, match="does not say where the launcher is"):
        remote.renew(unit)
    (tmp_path / ADDRESS).write_text(address)  # a launcher that was killed leaves it
    with pytest.raises(ConnectionRefusedError):
        remote.renew(unit)
    with serving(study, tmp_path, "127.0.0.1"):
        assert remote.renew(unit) is not None


def test_an_address_of_another_machine_is_refused(study: Study, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"--serve 192\.0\.2\.1"),
        serving(study, tmp_path, "192.0.2.1"),
    ):
        pass
