"""The scripts as a user starts them: real processes for refusals, a fake run for the rest."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments import _docs, _rundir, _stop, acppo, evaluate, ippo, mappo
from experiments._experiment import Script, commandline
from experiments._program import last_words
from experiments.tracking.provenance import config_hash
from experiments.tracking.read import read_series, read_view
from experiments.tracking.spool import Spool, open_spool, read_events
from marlcore import config_keys

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "robosuite", "wandb", "tensorboard", "pymongo", "sacred", "mujoco")

RunFunction = Callable[..., dict[str, Any]]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of runs, which does not exist yet."""
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.delenv("MARL_MONGO_URI", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunFunction], None]:
    """Puts a function in the place of what runs and of what evaluates."""

    def install(function: RunFunction) -> None:
        for name in ("_run", "_evaluation"):
            module = types.ModuleType(f"experiments.{name}")
            module.run = module.evaluate_run = function  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, f"experiments.{name}", module)
            monkeypatch.setattr(experiments, name, module, raising=False)

    return install


def start(*words: str) -> int:
    return commandline(acppo.SCRIPT, words)


def process(script: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / script), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def finished(**_: Any) -> dict[str, Any]:
    return {"reason": "completed", "return_mean": 1.5, "num_episodes": 20, "num_successes": 18}


def trained(config: Any, *, run_dir: Path, **_: Any) -> dict[str, Any]:
    (run_dir / "checkpoint_1000").mkdir(exist_ok=True)
    print("output of the run")
    return finished()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gamma_prim=0.9", "gamma_prim: no such key; did you mean algorithm.gamma_prime?"),
        (
            "algorithm.clip_epsilom=0.3",
            "algorithm.clip_epsilom: no such key; did you mean algorithm.clip_epsilon?",
        ),
        (
            "algorithm.clip_epsilon=2.5",
            "algorithm.clip_epsilon: 2.5 is refused; give a number > 0 and < 1 (default 0.2)",
        ),
        (
            "seed=abc",
            "seed: 'abc' is refused; give an integer from 0 to 2147483647 (default 0)",
        ),
        (
            "gamma_prime=true",
            "algorithm.gamma_prime: true is refused; give a number from 0 to 1 or null "
            "(default 0.99)",
        ),
        (
            "gamma_prime=0,97",
            "algorithm.gamma_prime: (0, 97) is refused; give a number from 0 to 1 or null "
            "(default 0.99); write 0.97",
        ),
    ],
)
def test_a_bad_setting_ends_the_script_before_anything_is_made(
    word: str, message: str, runs: Path
) -> None:
    result = process("acppo.py", "with", "quickstart", word)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"error: {message}\n")
    assert not runs.exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["with", "quikstart"], "did you mean quickstart?"),
        (["with", "gamma=0.9"], "algorithm.gamma would be ignored"),
        (["with", "resume=nothing"], "there are no runs yet"),
        (["with", "seed="], "seed= has no value"),
        (["with", "seed=" + "9" * 5000], "seed: '999"),
        (["with", "seed=\u4e2d"], "seed: "),
        (["with"], "nothing follows"),
        (["gamma_prime=0.9"], "with gamma_prime=0.9"),
        (["prnt_config"], "did you mean print_config?"),
        (["print_config", "help"], "one command at a time"),
        (["--hepl"], "did you mean --help?"),
        (["--mongo_db=x"], "MARL_MONGO_URI"),
        (["--queue"], "not supported"),
        (["--id"], "--id needs a value"),
        (["--id", "../x"], "--id '../x' is refused"),
        (["--loglevel", "LOUD"], "--loglevel 'LOUD' is refused"),
        (["--help=yes"], "takes no value"),
        (["--id", "a", "--id", "b"], "--id is given twice"),
    ],
)
def test_a_bad_command_line_is_refused(
    words: list[str], part: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(*words) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert part in output.err
    assert len(output.err) < 1000
    assert not output.out
    assert not runs.exists()


def test_refusals_and_help_import_nothing_heavy(runs: Path) -> None:
    program = (
        "import sys; from experiments import acppo; from experiments._experiment import "
        "commandline; commandline(acppo.SCRIPT, ['--help']); "
        "commandline(acppo.SCRIPT, ['with', 'sed=1']); "
        f"sys.exit(','.join(m for m in {HEAVY!r} if m in sys.modules) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "did you mean seed?\n" in result.stderr
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("script", [mappo.SCRIPT, acppo.SCRIPT, ippo.SCRIPT])
def test_help_explains_every_key(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert commandline(script, ["-h"]) == 0
    output = capsys.readouterr().out
    for key in config_keys.all_keys():
        tag, kind = key.variant or (None, None)
        if tag != "algorithm.name" or kind == script.name:
            assert key.name in output
    assert f"python experiments/{script.name}.py with quickstart" in output


@pytest.mark.parametrize("script", ["mappo", "ippo", "evaluate"])
def test_every_script_runs_as_a_file_from_anywhere(script: str, tmp_path: Path) -> None:
    result = process(f"{script}.py", "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"experiments/{script}.py" in result.stdout


def test_print_config_marks_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert start("print_config", "with", "quickstart", "gamma_prime=0.97") == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "algorithm.gamma_prime" in line]
    assert line.split()[:3] == ["*", "algorithm.gamma_prime", "0.97"]
    (line,) = [line for line in lines if "algorithm.clip_epsilon" in line]
    assert line.split()[:2] == ["algorithm.clip_epsilon", "0.2"]
    assert not any("env.game" in line for line in lines)


def test_print_named_configs_lists_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert start("print_named_configs") == 0
    output = capsys.readouterr().out
    assert all(f"{name}: " in output for name in acppo.SCRIPT.named)


def test_a_run_is_recorded_with_its_resolved_configuration(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(trained)
    words = ["--id", "r1", "--comment", "a first try", "with", "quickstart", "gamma_prime=0.97"]
    assert start(*words) == 0
    output = capsys.readouterr().out
    assert "90.0% [69.9%, 97.2%] (18 of 20 episodes)" in output
    assert "python experiments/evaluate.py r1" in output
    assert "output of the run" in (runs / "r1" / "stdout.log").read_text()
    config = json.loads((runs / "r1" / "config.json").read_text())
    assert config["algorithm"]["gamma_prime"] == 0.97
    begin, end = read_events(runs / "r1")
    assert (end["event"], end["status"]) == ("end", "COMPLETED")
    assert begin["sacred"]["meta"]["comment"] == "a first try"
    assert begin["provenance"]["config_hash"] == config_hash(config)
    needed = {"experiments/acppo.py", "marlcore/config.py", "marlcore/policies/openvla/actors.py"}
    assert needed <= set(begin["sources"])


def test_an_id_is_taken_once(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(trained)
    assert start("--id", "r1") == 0
    assert start("--id", "r1") == 2
    assert "with resume=r1" in capsys.readouterr().err


def test_resuming_goes_on_in_the_same_directory(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(trained)
    assert start("--id", "r1", "with", "seed=7") == 0
    calls: list[dict[str, Any]] = []

    def again(config: Any, **arguments: Any) -> dict[str, Any]:
        calls.append({"config": config, **arguments})
        return finished()

    fake_run(again)
    assert start("with", "resume=r1", "total_timesteps=300000") == 0
    (call,) = calls
    assert call["resume_from"] == runs / "r1" / "checkpoint_1000"
    assert call["run_dir"] == runs / "r1"
    assert (call["config"].seed, call["config"].training.total_timesteps) == (7, 300_000)
    attempts = [e["attempt"] for e in read_events(runs / "r1") if e["event"] == "start"]
    assert attempts == [1, 2]
    assert start("with", "resume=r1", "seed=3") == 2
    assert "seed: it changes what was computed so far" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [("SIGTERM", 143, "PREEMPTED"), ("SIGINT", 130, "INTERRUPTED"), ("SIGXCPU", 152, "TIMEOUT")],
)
def test_a_signal_ends_the_run_in_order(
    name: str,
    code: int,
    status: str,
    runs: Path,
    fake_run: Callable[[RunFunction], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(config: Any, *, run_dir: Path, **_: Any) -> dict[str, Any]:
        assert _stop.stop_requested() is None
        os.kill(os.getpid(), signal.Signals[name])
        (run_dir / "checkpoint_1000").mkdir()
        return {"reason": _stop.stop_requested()}

    fake_run(stopped)
    before = signal.getsignal(signal.Signals[name])
    assert start("--id", "r1") == code
    assert signal.getsignal(signal.Signals[name]) is before
    error = capsys.readouterr().err
    assert f"stopped by {name} after saving a checkpoint" in error
    assert "python experiments/acppo.py with resume=r1" in error
    assert read_events(runs / "r1")[-1]["status"] == status


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(
    runs: Path, fake_run: Callable[[RunFunction], None]
) -> None:
    def stopped(config: Any, *, spool: Spool, **_: Any) -> dict[str, Any]:
        spool.recorder(resumed_at=0).record({"rollout/return_mean": 1.0}, step=100)
        return {"reason": "SIGUSR2"}

    fake_run(stopped)
    assert start("--id", "r1") == 140
    assert read_view(runs / "r1").status == "PREEMPTED"

    def again(config: Any, *, spool: Spool, resume_from: Path | None, **_: Any) -> dict[str, Any]:
        assert resume_from is None
        spool.recorder(resumed_at=0).record({"rollout/return_mean": 2.0}, step=100)
        return {"reason": "completed"}

    fake_run(again)
    assert start("with", "resume=r1") == 0
    one = read_view(runs / "r1")
    assert (one.status, one.attempt) == ("COMPLETED", 2)
    assert read_series(runs / "r1")["rollout/return_mean"].values == [2.0]


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("SIGTERM", "PREEMPTED", 143),
        ("SIGUSR2", "PREEMPTED", 140),
        ("SIGINT", "INTERRUPTED", 130),
        ("SIGXCPU", "TIMEOUT", 152),
        ("time limit", "TIMEOUT", 152),
    ],
)
def test_why_a_run_stopped_is_its_status_and_exit_code(
    runs: Path, fake_run: Callable[[RunFunction], None], reason: str, status: str, code: int
) -> None:
    """The reason is what all processes agreed on; the signal may have come to another one."""
    fake_run(lambda config, **_: {"reason": reason})
    assert start("--id", "r1") == code
    assert read_view(runs / "r1").status == status


def test_a_warning_near_the_time_limit_is_a_timeout(
    runs: Path, fake_run: Callable[[RunFunction], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stop, "_limits", [])
    _stop.set_time_limit(time.time() + 100, warned_s=60)
    fake_run(lambda config, **_: {"reason": "SIGUSR2"})
    start("--id", "r1")
    assert read_view(runs / "r1").status == "TIMEOUT"


def test_a_scheduler_may_repeat_itself(
    runs: Path, fake_run: Callable[[RunFunction], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends SIGTERM at the end of the time of grace, when the run may still be saving."""
    monkeypatch.setattr(_stop, "_limits", [])
    _stop.set_time_limit(math.inf, warned_s=60)

    def saving(config: Any, **_: Any) -> dict[str, Any]:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        return {"reason": _stop.stop_requested()}

    fake_run(saving)
    assert start() == 140


def test_a_second_signal_ends_the_run_at_once(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def stubborn(config: Any, **_: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    fake_run(stubborn)
    assert start() == 130
    assert "(from the beginning: nothing is saved yet)" in capsys.readouterr().err


def test_a_signal_that_comes_twice_at_once_is_one(
    runs: Path, fake_run: Callable[[RunFunction], None]
) -> None:
    def stopped(config: Any, *, run_dir: Path, **_: Any) -> dict[str, Any]:
        for _ in range(3):  # to the process group, to this process, and handed on by a launcher
            os.kill(os.getpid(), signal.SIGTERM)
        return {"reason": _stop.stop_requested()}

    fake_run(stopped)
    assert start("--id", "r1") == 143
    assert read_events(runs / "r1")[-1]["status"] == "PREEMPTED"


def test_a_refused_resume_leaves_the_run_as_it_was(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(trained)
    assert start("--id", "r1") == 0

    def refused(config: Any, **_: Any) -> dict[str, Any]:
        raise ValueError("the checkpoint is damaged")

    fake_run(refused)
    assert start("with", "resume=r1") == 2
    assert [e["attempt"] for e in read_events(runs / "r1")] == [1, 1]
    assert read_events(runs / "r1")[-1]["status"] == "COMPLETED"
    assert start("with", "resume=r1", "total_timesteps=1000") == 2
    assert "the run has done 1,000 env steps; give more" in capsys.readouterr().err


def test_a_result_that_is_no_number_is_recorded(
    runs: Path, fake_run: Callable[[RunFunction], None]
) -> None:
    def diverged(config: Any, **_: Any) -> dict[str, Any]:
        return {"reason": "completed", "return_mean": float("nan")}

    fake_run(diverged)
    assert start("--id", "r1") == 0
    end = read_events(runs / "r1")[-1]
    assert (end["status"], end["result"]["return_mean"]) == ("COMPLETED", "nan")


def test_what_set_up_refuses_is_one_message(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(config: Any, **_: Any) -> dict[str, Any]:
        raise ValueError("there is no camera x")

    fake_run(refused)
    assert start("--id", "r1") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there is no camera x\n")
    assert "Traceback" not in error
    assert "Traceback" in (runs / "r1" / "stdout.log").read_text()


def test_a_failure_prints_its_traceback(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def late(config: Any, *, run_dir: Path, **_: Any) -> dict[str, Any]:
        (run_dir / _rundir.METRICS).write_text("{}\n")
        raise ValueError("a fault of ours")

    fake_run(late)
    assert start("--id", "r1") == 1
    assert "Traceback" in capsys.readouterr().err
    assert "a fault of ours" in (runs / "r1" / "stdout.log").read_text()
    end = read_events(runs / "r1")[-1]
    assert end["status"] == "FAILED"
    assert "a fault of ours" in end["fail_trace"][-1]


@pytest.mark.parametrize(
    "uri",
    ["mongodb://user:hush@h:99999/x", "mongo:hush", "mongodb://user:hu/hush@h/x"],
)
def test_a_malformed_mongo_uri_is_refused_without_its_password(
    uri: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MARL_MONGO_URI", uri)
    assert start() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: MARL_MONGO_URI is no MongoDB URI")
    assert "hush" not in error
    assert not runs.exists()


def test_a_mongo_server_that_is_away_does_not_stop_a_run(
    runs: Path,
    fake_run: Callable[[RunFunction], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("experiments.tracking.mongo.TIMEOUT_S", 0.2)
    monkeypatch.setenv("MARL_MONGO_URI", "mongodb://user:hushhush@127.0.0.1:1/x?appName=hushhush")
    fake_run(trained)
    assert start("--id", "r1") == 0
    error = capsys.readouterr().err
    assert "warning: MongoDB is not up to date" in error
    assert "the run's directory has" in error
    assert "hushhush" not in error
    assert read_events(runs / "r1")[-1]["status"] == "COMPLETED"


@pytest.mark.parametrize("uri", ["mongodb://example.org/x", "mongodb+srv://example.org/x"])
def test_a_server_elsewhere_needs_credentials(
    uri: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MARL_MONGO_URI", uri)
    assert start() == 2
    assert "without user and password" in capsys.readouterr().err


def test_a_run_is_written_by_one_process(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(trained)
    assert start("--id", "r1") == 0
    spool = open_spool(runs / "r1")
    assert start("with", "resume=r1") == 2
    assert f"is being written by process {os.getpid()} on" in capsys.readouterr().err
    spool.close()
    assert start("with", "resume=r1") == 0


def test_evaluate_prints_the_interval(
    runs: Path, fake_run: Callable[[RunFunction], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(trained)
    assert start("--id", "r1") == 0
    (runs / "r1" / "checkpoint_best").mkdir()
    calls: list[Any] = []

    def measured(checkpoint: Path, **arguments: Any) -> dict[str, Any]:
        calls.append((checkpoint, arguments))
        return {"return_mean": 1.0, "num_episodes": 10, "num_successes": 10}

    fake_run(measured)
    capsys.readouterr()
    assert evaluate.main(["r1", "--episodes", "10", "--no-video", "--seed", "4"]) == 0
    assert "100.0% [72.2%, 100.0%] (10 of 10 episodes)" in capsys.readouterr().out
    expected = {"num_episodes": 10, "seed": 4, "deterministic": True, "video": None}
    assert calls == [(runs / "r1" / "checkpoint_best", expected)]
    assert evaluate.main(["r1", "--checkpoint", "1000", "--no-video", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["checkpoint"] == str(runs / "r1" / "checkpoint_1000")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "required: RUN_OR_CHECKPOINT"),
        (["nothing"], "no run 'nothing'"),
        (["x", "--episodes", "0"], "an integer from 1"),
        (["x", "--seed", "abc"], "'abc' is refused"),
        (["x", "--epsodes=3"], "did you mean --episodes?"),
        (["x", "--video", "a.mp4", "--no-video"], "not allowed with"),
    ],
)
def test_evaluate_refuses_bad_input(
    words: list[str], part: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error


def test_what_the_documentation_takes_from_the_schema_is_current() -> None:
    for page, text in ((_docs.PAGE, _docs.configuration_page()), (_docs.README, _docs.readme())):
        assert page.read_text(encoding="utf-8") == text, "renew it: make docs"


def test_scripts_differ_in_a_few_lines() -> None:
    texts = [
        (ROOT / "experiments" / f"{name}.py").read_text().splitlines() for name in ("mappo", "ippo")
    ]
    assert all(len(text) <= 80 for text in texts)
    assert len(set(texts[0]) ^ set(texts[1])) < 20


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (b"", "it said nothing"),
        (b"one\n  two \n\n", "two"),
        (b"error: first\nerror: why\nlater\n", "error: why"),
        (b"\xff\n", "\N{REPLACEMENT CHARACTER}"),
        (b"x" * 5000, "x" * 1000),
        (b"mongodb://user:hidden-word@host/db", "mongodb://user:[redacted]@host/db"),
    ],
)
def test_the_last_words_of_a_program_that_failed(output: bytes, told: str) -> None:
    assert last_words(output) == told
