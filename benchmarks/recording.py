"""What recording costs: a metric call, a training loop of 1 ms steps, a listing of 10,000 runs.

    python benchmarks/recording.py
    python benchmarks/recording.py --rounds 3 --steps 20000 --markdown

Every recorder runs in a process of its own, one after the other, round after round: none, ours
(spool, heartbeat, and the replica in a real MongoDB), Sacred with its FileStorageObserver, Sacred
with its MongoObserver on the same MongoDB. A step spins for 1 ms and records one metric; ours is
also measured with the 40 metrics that an update of a real run has. Sacred keeps a metric in memory
for up to ten seconds, ours is in the file when the call returns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import _report
from benchmarks._report import Row

STEP_S = 0.001
TARGET_CALL_MS, TARGET_SHARE, TARGET_LISTING_S = 5.0, 0.98, 1.0
NAMES = {
    "none": "no recorder",
    "ours": "spool and MongoDB",
    "ours40": "the same, 40 metrics a call",
    "files": "Sacred, FileStorage",
    "mongo": "Sacred, MongoObserver",
}
Record = Callable[[int], None]


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def loop(record: Record, num_steps: int) -> dict[str, float]:
    """Steps of 1 ms, each recorded: steps a second, and milliseconds of a call."""
    calls: list[float] = []
    began = time.perf_counter()
    for step in range(num_steps):
        spin(STEP_S)
        start = time.perf_counter()
        record(step)
        calls.append(time.perf_counter() - start)
    seconds = time.perf_counter() - began
    calls.sort()
    return {
        "steps_per_s": num_steps / seconds,
        "median_ms": statistics.median(calls) * 1e3,
        "p999_ms": calls[int(0.999 * len(calls))] * 1e3,
        "worst_ms": calls[-1] * 1e3,
    }


def with_none(place: Path, num_steps: int) -> dict[str, float]:
    return loop(lambda step: None, num_steps)


def with_ours(place: Path, num_steps: int, num_metrics: int = 1) -> dict[str, float]:
    from experiments import _rundir
    from experiments.tracking.follower import Follower
    from experiments.tracking.spool import open_spool
    from marlcore.config_errors import parse_config

    config = parse_config({"algorithm": {"name": "acppo"}})
    values = config.model_dump(mode="json")
    run_dir = _rundir.create("acppo", values)
    spool = open_spool(run_dir)
    sacred = {"experiment": {"name": "acppo", "base_dir": "/"}, "command": "train", "host": {}}
    spool.start(
        sacred={**sacred, "meta": {}, "start_time": "2026-01-01T00:00:00"},
        sources={},
        provenance={},
    )
    follower = Follower(run_dir, values, config.logging)
    recorder = spool.recorder(resumed_at=0)
    metrics = {f"update/metric_{i}": 1.2345678 * i for i in range(num_metrics)}
    result = loop(lambda step: recorder.record(metrics, step=step), num_steps)
    recorder.close()
    spool.end("COMPLETED")
    follower.close()
    spool.close()
    return result


def with_sacred(observer: Any, num_steps: int) -> dict[str, float]:
    import sacred

    experiment = sacred.Experiment("benchmark", save_git_info=False)
    experiment.observers.append(observer)

    @experiment.main
    def main(_run: Any) -> dict[str, float]:
        return loop(lambda step: _run.log_scalar("update/metric", 1.2345678, step), num_steps)

    return experiment.run(options={"--loglevel": "ERROR", "--capture": "no"}).result


def with_files(place: Path, num_steps: int) -> dict[str, float]:
    from sacred.observers import FileStorageObserver

    return with_sacred(FileStorageObserver(str(place / "files")), num_steps)


def with_mongo(place: Path, num_steps: int) -> dict[str, float]:
    import pymongo
    from sacred.observers import MongoObserver

    from experiments.tracking import server

    client: Any = pymongo.MongoClient(server.start(place).uri("admin"))
    return with_sacred(MongoObserver(client=client, db_name="benchmark"), num_steps)


WAYS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "none": with_none,
    "ours": with_ours,
    "ours40": lambda place, num_steps: with_ours(place, num_steps, 40),
    "files": with_files,
    "mongo": with_mongo,
}


def in_a_process(way: str, place: Path, num_steps: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--way", way, "--place", str(place)]
    done = subprocess.run(
        [*command, "--steps", str(num_steps)],
        env={**os.environ, "MARL_RUNS_DIR": str(place)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_recorders(rounds: int, num_steps: int) -> dict[str, dict[str, float]]:
    """Medians over rounds; of the worst call, the worst."""
    from experiments.tracking import server

    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="marl-recording-") as place:
        server.start(Path(place))
        try:
            for number in range(rounds):
                for way in WAYS:
                    results[way].append(in_a_process(way, Path(place), num_steps))
                    _report.say(f"round {number + 1}: {NAMES[way]}: {results[way][-1]}")
        finally:
            server.stop(Path(place))
    base = results["none"]
    return {
        way: {
            **{key: statistics.median(one[key] for one in found) for key in found[0]},
            "worst_ms": max(one["worst_ms"] for one in found),
            "share": statistics.median(
                one["steps_per_s"] / none["steps_per_s"]
                for one, none in zip(found, base, strict=True)
            ),
        }
        for way, found in results.items()
    }


def measure_listing(num_runs: int) -> tuple[float, float]:
    """Seconds of `marl runs --all` on so many runs: the first time, and later ones (best of 3)."""
    with tempfile.TemporaryDirectory(prefix="marl-listing-") as place:
        _make_runs(Path(place), num_runs)
        command = [sys.executable, "-m", "experiments.cli", "runs", "--all"]
        seconds: list[float] = []
        for _ in range(4):
            start = time.perf_counter()
            done = subprocess.run(
                command,
                env={**os.environ, "MARL_RUNS_DIR": place},
                cwd=_report.ROOT,
                stdout=subprocess.PIPE,
                check=True,
            )
            seconds.append(time.perf_counter() - start)
            assert done.stdout.count(b"\n") == num_runs + 1
    return seconds[0], min(seconds[1:])


def _make_runs(place: Path, num_runs: int) -> None:
    from marlcore.config_errors import parse_config
    from marlcore.durable import seal

    values = parse_config({"algorithm": {"name": "acppo"}}).model_dump(mode="json")
    metrics = {f"rollout/metric_{i}": i / 7 for i in range(38)} | {"rollout/return_mean": 1.5}
    lines = "".join(
        seal({"step": step, "time": 1.0, "metrics": metrics}) for step in range(100, 1100, 100)
    )
    for number in range(num_runs):
        run_dir = place / f"20261126-{number:06}-acppo-0000"
        run_dir.mkdir()
        values["seed"] = number
        (run_dir / "config.json").write_text(json.dumps(values))
        (run_dir / "metrics.jsonl").write_text(lines)
        begin = {"event": "start", "time": 1.0 * number, "attempt": 1, "host": "h"}
        end = {"event": "end", "time": 1.0 * number + 60, "status": "COMPLETED"}
        provenance = {"provenance": {"git": None}, "sources": {}}
        (run_dir / "events.jsonl").write_text(seal(begin | provenance) + seal(end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--markdown", action="store_true", help="print rows for BENCHMARKS.md")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = WAYS[arguments.way](arguments.place, arguments.steps)
        print(json.dumps(result))
        return
    found = measure_recorders(arguments.rounds, arguments.steps)
    first, later = measure_listing(arguments.runs)
    if arguments.markdown:
        _report.print_markdown(_rows(found, first, later, arguments.runs))
        return
    rows = [
        [
            *(NAMES[way], f"{one['share']:.3f}", f"{one['median_ms'] * 1e3:.1f}"),
            *(f"{one['p999_ms']:.2f}", f"{one['worst_ms']:.2f}"),
        ]
        for way, one in found.items()
    ]
    header = ["recorder", "share of no recorder", "median us", "99.9 % ms", "worst ms"]
    _report.print_table(header, rows)
    print(f"marl runs --all, {arguments.runs:,} runs: {first:.2f} s at first, {later:.2f} s later")


def _rows(
    found: dict[str, dict[str, float]], first: float, later: float, num_runs: int
) -> list[Row]:
    ours, files, mongo = found["ours"], found["files"], found["mongo"]
    shares = [f"{one['share']:.3f}" for one in (ours, files, mongo)]
    return [
        Row(
            "recording, 1 ms steps: steps/s over those without a recorder (target 0.98)",
            f"{shares[0]} (40 metrics a call: {found['ours40']['share']:.3f})",
            f"Sacred's files {shares[1]}, its MongoDB {shares[2]}",
            f"{ours['share'] / files['share']:.2f}, {ours['share'] / mongo['share']:.2f}",
        ),
        Row(
            "recording: worst of all calls (target 5 ms); median",
            f"{ours['worst_ms']:.2f} ms; {ours['median_ms'] * 1e3:.1f} us",
            f"files {files['worst_ms']:.2f} ms; {files['median_ms'] * 1e3:.1f} us, MongoDB "
            f"{mongo['worst_ms']:.2f} ms; {mongo['median_ms'] * 1e3:.1f} us",
            f"{files['worst_ms'] / ours['worst_ms']:.1f}, "
            f"{mongo['worst_ms'] / ours['worst_ms']:.1f}",
        ),
        Row(
            f"`marl runs --all`, {num_runs:,} runs (target 1 s)",
            f"{later:.2f} s; {first:.2f} s the first time",
            "-",
            "-",
        ),
    ]


if __name__ == "__main__":
    main()
