"""Run directories: made once, found again."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments import _rundir
from marlcore.config_errors import ConfigError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def make(runs: Path, *ids: str) -> list[Path]:
    return [_rundir.create("acppo", {"seed": 1}, run_id) for run_id in ids]


def test_an_id_holds_the_time_and_the_script(runs: Path) -> None:
    path = _rundir.create("acppo", {})
    assert re.fullmatch(r"\d{8}-\d{6}-acppo-[0-9a-f]{4}", path.name)
    assert path.parent == runs


def test_runs_started_together_never_share_a_directory(runs: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: _rundir.create("acppo", {}), range(100)))
    assert len(set(paths)) == 100


def test_a_collision_takes_another_id(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("experiments._rundir.secrets.token_hex", lambda _: next(tokens))
    monkeypatch.setattr("experiments._rundir.time.strftime", lambda _: "20260101-000000")
    names = [_rundir.create("ippo", {}).name[-4:] for _ in range(2)]
    assert names == ["aaaa", "bbbb"]


def test_the_configuration_is_written_whole(runs: Path) -> None:
    (path,) = make(runs, "r1")
    assert _rundir.read_config(path) == {"seed": 1}
    _rundir.write_config(path, {"seed": 2})
    assert _rundir.read_config(path) == {"seed": 2}
    assert [item.name for item in path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_damaged_configuration_is_refused(runs: Path, text: str) -> None:
    (path,) = make(runs, "r1")
    (path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        _rundir.read_config(path)


def test_a_run_is_found_by_path_id_prefix_and_checkpoint(runs: Path) -> None:
    path, _ = make(runs, "20260101-acppo-1a2b", "20260102-acppo-3c4d")
    (path / "checkpoint_50").mkdir()
    for text in (str(path), path.name, "20260101", str(path / "checkpoint_50")):
        assert _rundir.find_run(text).resolve() == path.resolve()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("2026", "fits 2 runs"),
        ("20260101-acpo-1a2b", "did you mean 20260101-acppo-1a2b?"),
        ("zzz", "there are 20260102-acppo-3c4d, 20260101-acppo-1a2b"),
        ("", "no run ''"),
        ("x" * 5000, "no run 'xxx"),
        ("/", "no run '/'"),
        ("\u4e2d", "no run"),
    ],
)
def test_a_run_that_is_not_found_is_refused_with_what_there_is(
    runs: Path, text: str, part: str
) -> None:
    make(runs, "20260101-acppo-1a2b", "20260102-acppo-3c4d")
    with pytest.raises(ConfigError, match=re.escape(part)):
        _rundir.find_run(text)


def test_a_checkpoint_is_found_by_its_kind_its_step_and_its_path(runs: Path) -> None:
    (path,) = make(runs, "r1")
    for name in ("checkpoint_900", "checkpoint_1000", "checkpoint_best", ".checkpoint_2000.tmp"):
        (path / name).mkdir()
    assert list(_rundir.checkpoints(path)) == [900, 1000]
    assert _rundir.find_checkpoint("r1").name == "checkpoint_1000"
    assert _rundir.find_checkpoint("r1", "best").name == "checkpoint_best"
    assert _rundir.find_checkpoint("r1", "900").name == "checkpoint_900"
    assert _rundir.find_checkpoint(str(path / "checkpoint_900")) == path / "checkpoint_900"
    with pytest.raises(ConfigError, match="choose one of best, latest, 900, 1000"):
        _rundir.find_checkpoint("r1", "901")


def test_a_run_without_checkpoints_says_so(runs: Path) -> None:
    make(runs, "r1")
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        _rundir.find_checkpoint("r1")


def test_a_directory_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/runs")):
        monkeypatch.setenv("MARL_RUNS_DIR", str(place))
        with pytest.raises(ConfigError, match="set MARL_RUNS_DIR"):
            _rundir.create("acppo", {})


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "-x", "a b", "x" * 101])
def test_an_id_is_a_plain_name(runs: Path, run_id: str) -> None:
    with pytest.raises(ConfigError, match="is refused"):
        _rundir.check_id(run_id)
