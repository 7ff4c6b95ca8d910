"""The `marl` command line, in this process on small made-up runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import _rundir, cli
from experiments.tracking.spool import open_spool, read_heartbeat
from marlcore.config_errors import parse_config

ROOT = Path(__file__).resolve().parents[2]
GIT = {
    "commit": "c0ffee" * 6,
    "dirty": False,
    "diff": None,
    "diff_is_redacted": False,
    "untracked": {},
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MARL_MONGO_URI", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def make(run_id: str, *, name: str = "acppo", status: str = "COMPLETED", **changed: Any) -> Path:
    values = parse_config({"algorithm": {"name": name}, **changed}).model_dump(mode="json")
    path = _rundir.create(name, values, run_id)
    one = open_spool(path)
    provenance = {"git": GIT, "packages": {"numpy": "1"}, "argv": ["acppo.py"]}
    one.start(provenance=provenance, sources={})
    recorder = one.recorder(resumed_at=0)
    for step in range(1, 11):
        value = step / 10 + values["seed"]
        recorder.record({"rollout/return_mean": value, "time/env_s": 1.0}, step=step * 100)
    recorder.close()
    (path / "stdout.log").write_text("".join(f"line {n}\n" for n in range(100)))
    one.end(
        status, **({"fail_trace": ["Traceback\n", "ValueError: x\n"]} if status == "FAILED" else {})
    )
    one.close()
    return path


@pytest.fixture
def three(runs: Path) -> Path:
    make("alpha-1", seed=1)
    make("alpha-2", seed=2, status="FAILED")
    make("beta-1", name="mappo", seed=1)
    return runs


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def marl(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def listed(marl: Call, *words: str) -> list[str]:
    code, out, _ = marl("runs", "--json", *words)
    assert code == 0
    return [one["id"] for one in json.loads(out)]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"usage: marl {command}" in capsys.readouterr().out


def test_the_overview_names_every_command(marl: Call) -> None:
    for words in ((), ("--help",), ("help",)):
        code, out, _ = marl(*words)
        assert code == 0
        assert all(f"\n  {command} " in out for command in cli.COMMANDS)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["shwo"], "'shwo' is no command; did you mean show?"),
        (["runs", "--colums=x"], "did you mean --columns?"),
        (["runs", "sed=1"], "did you mean seed?"),
        (["runs", "seed"], "is no condition; write KEY=VALUE"),
        (["runs", "--limit", "0"], "--limit 0 is refused"),
        (["runs", "--limit", "x"], "invalid int value"),
        (["runs", "--sort", "nothing_here"], "is no field, metric or configuration key"),
        (["show", "alpha"], "alpha fits 2 runs: alpha-2, alpha-1; write more of it"),
        (["show", "alhpa-1"], "did you mean alpha-1?"),
        (["show", "zzz"], "there are"),
        (["show"], "required: RUN"),
        (["show", ""], "no run ''"),
        (["show", "\u4e2d" * 300], "no run"),
        (["diff", "alpha-1"], "required: RUN"),
        (["tail", "alpha-1", "-n", "-1"], "--lines -1 is refused"),
        (["tag", "alpha-1", "two words"], "is no tag"),
        (["compare"], "name runs, give conditions"),
        (["compare", "alpha-1", "--metric", "rollout/retrun_mean"], "rollout/return_mean"),
        (["compare", "status=RUNNING"], "no run fulfils the conditions"),
        (["export", "alpha-1", "--output", "x.txt"], "its ending says no format"),
        (["export", "alpha-1", "--output", "/nowhere/x.csv"], "/nowhere"),
        (["jobs", "tail", "alpha-1"], "run alpha-1 was never submitted to Slurm"),
        (["reproduce", "alpha-1"], "this repository has no commit c0ffeec0ffee"),
        (["sync"], "marl server start"),
        (["sync", "--offline"], "--offline is for --wandb"),
        (["sync", "--wandb"], "name the runs"),
        (["sync", "--wandb", "alpha-1"], "W&B has no key"),
        (["server", "strat"], "invalid choice: 'strat'"),
        (["browse", "--port", "99999"], "--port 99999 is refused"),
    ],
)
def test_bad_input_is_one_message(
    words: list[str], part: str, three: Path, marl: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", "/nowhere")
    before = sorted(path.name for path in three.iterdir())
    code, out, err = marl(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert part in err
    assert "Traceback" not in err
    after = sorted(path.name for path in three.iterdir() if path.name != ".index-3.sqlite")
    assert after == [name for name in before if name != ".index-3.sqlite"]


def test_without_runs_the_way_to_one_is_said(runs: Path, marl: Call) -> None:
    code, out, _ = marl("runs")
    assert code == 0
    assert "start one: python experiments/acppo.py" in out
    assert listed(marl) == []
    assert not runs.exists()


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ([], ["alpha-1", "alpha-2", "beta-1"]),
        (["status=COMPLETED"], ["alpha-1", "beta-1"]),
        (["status!=COMPLETED"], ["alpha-2"]),
        (["name=acppo", "seed>=2"], ["alpha-2"]),
        (["algorithm.name=mappo"], ["beta-1"]),
        (["rollout/return_mean>2.5"], ["alpha-2"]),
        (["id~ALPHA"], ["alpha-1", "alpha-2"]),
        (["--sort", "rollout/return_mean", "--limit", "2"], ["beta-1", "alpha-2"]),
        (["--sort", "rollout/return_mean", "--descending", "--limit", "1"], ["alpha-2"]),
        (["--sort", "seed", "--limit", "1"], ["alpha-2"]),
        (["--limit", "1"], ["beta-1"]),
        (["gamma_prime=0.99"], ["alpha-1", "alpha-2"]),
    ],
)
def test_runs_are_filtered_and_sorted(
    words: list[str], ids: list[str], three: Path, marl: Call
) -> None:
    assert listed(marl, *words) == ids


def test_the_table_shows_the_keys_that_differ(three: Path, marl: Call) -> None:
    _, out, _ = marl("runs", "name=acppo")
    header, first, *_ = out.splitlines()
    assert header.split() == [
        "id",
        "status",
        "started",
        "took",
        "env_steps",
        "return",
        "success",
        "seed",
    ]
    assert first.split()[:2] == ["alpha-1", "COMPLETED"]
    _, out, _ = marl("runs", "--columns", "id,clip_epsilon,rollout/return_mean")
    assert out.splitlines()[1].split() == ["alpha-1", "0.2", "2"]


def test_show_tells_everything_of_a_run(three: Path, marl: Call) -> None:
    _, out, _ = marl("show", "alpha-2")
    for part in ("FAILED (ValueError: x)", "seed  ", "rollout/return_mean", "Traceback", "c0ffee"):
        assert part in out
    code, out, _ = marl("show", "beta", "--json")
    assert code == 0
    shown = json.loads(out)
    assert (shown["id"], shown["status"], len(shown["events"])) == ("beta-1", "COMPLETED", 2)


def test_diff_shows_what_differs_alone(three: Path, marl: Call) -> None:
    _, out, _ = marl("diff", "alpha-1", "alpha-2", "--json")
    found = json.loads(out)
    assert found["configuration"] == {"seed": [1, 2]}
    assert found["packages"] == {}
    assert list(found["last metrics"]) == ["rollout/return_mean"]
    _, out, _ = marl("diff", "alpha-1", "alpha-2")
    assert "packages: no difference" in out


def test_tail_prints_the_last_lines(three: Path, marl: Call) -> None:
    assert marl("tail", "alpha-1", "-n", "2")[1] == "line 98\nline 99\n"
    assert marl("tail", "alpha-1", "-n", "0")[1] == ""
    code, out, err = marl("tail", "alpha-1", "-f", "-n", "1")
    assert (code, out) == (0, "line 99\n")
    assert "the run is COMPLETED" in err


def test_tags_and_notes_are_kept(three: Path, marl: Call) -> None:
    assert marl("tag", "alpha-1", "good", "best", "good")[1] == "alpha-1: good best\n"
    assert marl("tag", "alpha-1", "--remove", "best")[1] == "alpha-1: good\n"
    assert marl("note", "alpha-1", "worth a look")[0] == 0
    assert listed(marl, "tags~good") == ["alpha-1"]
    assert "worth a look" in marl("show", "alpha-1")[1]


def test_compare_writes_a_page_and_a_picture(three: Path, marl: Call, tmp_path: Path) -> None:
    code, out, _ = marl("compare", "--all", "--output", str(tmp_path / "c"))
    assert code == 0
    assert (tmp_path / "c.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "P(A above B)" in out
    code, out, _ = marl("compare", "--all", "--json")
    groups = json.loads(out)["groups"]
    assert sorted(group["label"] for group in groups) == ["acppo", "mappo"]


def test_export_writes_every_point(three: Path, marl: Call, tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    assert marl("export", "--all", "--output", str(path))[0] == 0
    assert len(path.read_text().splitlines()) == 1 + 3 * 10 * 2


def test_gc_removes_leftovers_and_empty_runs_alone(three: Path, marl: Call) -> None:
    (three / "alpha-1" / ".checkpoint_5.tmp").mkdir()
    _rundir.create("acppo", {"seed": 1}, "empty")
    (three / ".store" / "aa").mkdir(parents=True)
    for age_s, name in ((0, "b" * 64), (10**6, "a" * 64)):
        content = three / ".store" / "aa" / name
        content.write_bytes(b"x")
        os.utime(content, (time.time() - age_s,) * 2)
    code, out, _ = marl("gc", "--dry-run", "--empty", "--json")
    assert code == 0
    assert sorted(Path(one["path"]).name for one in json.loads(out)) == sorted(
        [".checkpoint_5.tmp", "empty", "a" * 64]
    )
    assert (three / "empty").exists()
    assert marl("gc", "--empty")[0] == 0
    assert listed(marl) == ["alpha-1", "alpha-2", "beta-1"]
    assert not (three / "alpha-1" / ".checkpoint_5.tmp").exists()
    assert marl("gc", "--empty")[1] == "0 removed, 0.0 MiB\n"


def test_gc_leaves_a_run_that_is_written(three: Path, marl: Call) -> None:
    one = open_spool(_rundir.create("acppo", {"seed": 1}, "fresh"))
    (three / "fresh" / ".checkpoint_5.tmp").mkdir()
    assert marl("gc", "--empty")[1] == "0 removed, 0.0 MiB\n"
    one.close()
    assert read_heartbeat(three / "fresh") is not None


def test_doctor_tells_of_damage_and_what_to_do(three: Path, marl: Call) -> None:
    path = three / "alpha-1" / "metrics.jsonl"
    path.write_text(path.read_text().replace(": 1.5,", ": 9.5,", 1))
    code, out, _ = marl("doctor", "--json")
    assert code == 1
    findings = json.loads(out)
    (damage,) = [f for f in findings if "damaged" in f["what"]]
    assert (damage["state"], "(5)" in damage["what"]) == ("WRONG", True)
    assert all(f["advice"] for f in findings if f["state"] == "WRONG")
    assert any("pictures are made" in f["what"] for f in findings)


def test_a_listing_can_be_cut_short(three: Path) -> None:
    command = f"{sys.executable} -m experiments.cli show alpha-1 | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env={**os.environ}, capture_output=True, text=True
    )
    assert done.stderr == ""
