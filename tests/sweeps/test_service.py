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
from sweeps import ledger, service
from sweeps.ledger import Owner, Unit
from sweeps.service import ADDRESS, RemoteStudy, serving
from sweeps.study import WAIT, HopelessError, Study
from sweeps.worker import work
from tests.sweeps.toy import evaluate, formula, open_toy, toy

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
    with pytest.raises(ConfigError, match=r"refuses this worker \(401\)"):
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


def test_a_call_counts_once_and_an_answer_must_be_signed(
    study: Study, remote: RemoteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, bytes, str]] = []
    post = service._post

    def record(*call: object) -> tuple[int, bytes, str]:
        sent.append(post(*call))  # type: ignore[arg-type]
        sent.append(post(*call))  # type: ignore[arg-type]
        return sent[0]

    monkeypatch.setattr(service, "_post", record)
    claim(remote)
    assert [status for status, _, _ in sent] == [200, 403]
    assert len(study.ledger.units()) == 1
    monkeypatch.setattr(service, "_post", lambda *_: (200, b'{"result": null}', "guess"))
    with pytest.raises(ConnectionError, match="or another program does"):
        remote.claim(ME)


def test_workers_end_once_the_study_is_complete_and_its_launcher_gone(
    study: Study, tmp_path: Path
) -> None:
    remote = RemoteStudy(toy(trials=4), tmp_path, study.key)
    with serving(study, tmp_path, "127.0.0.1"):
        unit = claim(remote)
        for _ in range(3):
            evaluate(study)(claim(remote))
        assert remote.finish(unit, ledger.DONE, score=1.0)
    assert remote.claim(ME) is None
    assert remote.renew(unit) is None


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


@pytest.mark.parametrize("address", ["192.0.2.1", "0.0.0.0", ""])
def test_an_address_that_is_not_this_machines_is_refused(
    study: Study, tmp_path: Path, address: str
) -> None:
    with (
        pytest.raises(ConfigError, match=f"--serve '?{address}.*give a name or an address"),
        serving(study, tmp_path, address),
    ):
        pass
    assert not (tmp_path / ADDRESS).exists()
