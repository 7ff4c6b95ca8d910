"""The documents in MongoDB, field by field beside those of Sacred's own MongoObserver."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gridfs
import pymongo
import pytest

from experiments import _output, _rundir, _sacred, acppo
from experiments.tracking import documents, mongo, server
from experiments.tracking.catalog import Catalog
from experiments.tracking.replicator import Replicator
from experiments.tracking.select import select
from experiments.tracking.spool import OUTPUT, TRIAL, open_spool
from marlcore.config_errors import parse_config

OURS_ALONE = {"run_id", "attempts", "provenance"}


@pytest.fixture
def database(
    mongod_directory: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """A client of the real server whose databases `sacred` and `reference` are empty."""
    monkeypatch.setenv("MARL_RUNS_DIR", str(mongod_directory))
    uri = server.start(mongod_directory).uri("admin")
    client: Any = pymongo.MongoClient(uri)
    for name in ("sacred", "reference"):
        client.drop_database(name)
    yield client
    client.close()


def record_with_both(
    database: Any, runs: Path, *, fails: bool = False, trial: dict[str, Any] | None = None
) -> Path:
    """One Sacred run, observed by our spool and by the real MongoObserver."""
    _sacred._import_sacred()
    from sacred.observers import MongoObserver

    config = parse_config({"algorithm": {"name": "acppo"}, "seed": 3}).model_dump(mode="json")
    run_dir = _rundir.create("acppo", config)
    reference = MongoObserver(client=database, db_name="reference")
    if trial is not None:
        (run_dir / TRIAL).write_text(json.dumps(trial))
    spool = open_spool(run_dir)
    recorder = spool.recorder(resumed_at=0)

    def main(sacred_run: Any) -> dict[str, Any]:
        print("said")
        for step in range(1, 6):
            values = {"rollout/return_mean": step / 3, "update/approx_kl": math.nan}
            recorder.record(values, step=step * 100)
            for name, value in values.items():
                sacred_run.log_scalar(name, value, step * 100)
        (run_dir / "evaluation.json").write_text('{"a": 1}')
        recorder.add_artifact(run_dir / "evaluation.json")
        sacred_run.add_artifact(str(run_dir / "evaluation.json"))
        sacred_run._emit_heartbeat()
        if fails:
            raise RuntimeError("a fault")
        return {"reason": "completed", "num": 3, "checkpoint": None}

    with _output.copied_to(run_dir / OUTPUT), contextlib.suppress(RuntimeError):
        _sacred.run(
            acppo.SCRIPT,
            config,
            argv=["acppo"],
            spool=spool,
            options={"--comment": "c", "--name": "acppo"},
            main=main,
            observers=(reference,),
        )
    recorder.close()
    spool.close()
    replicator = Replicator(
        run_dir, mongo.Target(server.start(runs).uri(), "sacred", embedded=True)
    )
    assert replicator.step()
    replicator.close()
    return run_dir


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_stands_in_mongodb_as_sacred_would_have_written_it(
    database: Any, mongod_directory: Path, fails: bool
) -> None:
    run_dir = record_with_both(database, mongod_directory, fails=fails)
    (ours,) = database.sacred.runs.find()
    (theirs,) = database.reference.runs.find()
    assert set(ours) == set(theirs)
    assert [type(ours[key]) for key in ours] == [type(theirs[key]) for key in ours]
    for key in ("format", "command", "host", "config", "meta", "status", "resources"):
        assert ours[key] == theirs[key], key
    assert ours.get("result") == theirs.get("result")
    assert ours.get("fail_trace") == theirs.get("fail_trace")
    for key in ("name", "base_dir", "dependencies", "repositories", "mainfile"):
        assert ours["experiment"][key] == theirs["experiment"][key], key
    assert set(ours["experiment"]) == set(theirs["experiment"])
    for key in ("start_time", "stop_time", "heartbeat"):
        assert abs(ours[key] - theirs[key]) < datetime.timedelta(seconds=30), key
    assert set(ours["info"]) - set(theirs["info"]) == OURS_ALONE
    assert ours["captured_out"] == (run_dir / OUTPUT).read_text()
    assert "said\n" in ours["captured_out"]


def test_a_run_of_a_sweep_is_found_by_study_and_trial(
    database: Any, mongod_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"study": "wide", "trial": 7, "role": "test", "settings": {"algorithm.gamma": 0.9}}
    run_dir = record_with_both(database, mongod_directory, trial={**facts, "argv": ["acppo"]})
    (document,) = database.sacred.runs.find()
    expected = {**facts, "settings": {"algorithm,gamma": 0.9}}
    assert document["info"]["trial"] == expected
    monkeypatch.setenv("MARL_MONGO_URI", server.start(mongod_directory).uri())
    for catalog in (Catalog(mongod_directory, remote=False), Catalog(tmp_path)):
        (one,) = select(catalog.views(), ["study=wide", "trial=7", "role=test"])
        assert (one.id, one.study, one.trial) == (run_dir.name, "wide", 7)


def test_metrics_have_the_same_points(database: Any, mongod_directory: Path) -> None:
    record_with_both(database, mongod_directory)
    for one in (database.sacred, database.reference):
        (run,) = one.runs.find()
        for reference in run["info"]["metrics"]:
            assert set(reference) == {"name", "id"}
    ours, theirs = (
        {m["name"]: m for m in one.metrics.find()} for one in (database.sacred, database.reference)
    )
    assert set(ours) == set(theirs) == {"rollout/return_mean", "update/approx_kl"}
    for name in ours:
        assert set(ours[name]) == set(theirs[name])
        assert ours[name]["steps"] == theirs[name]["steps"]
        assert repr(ours[name]["values"]) == repr(theirs[name]["values"])
        for a, b in zip(ours[name]["timestamps"], theirs[name]["timestamps"], strict=True):
            assert abs(a - b) < datetime.timedelta(seconds=30)
        (run,) = database.sacred.runs.find()
        assert ours[name]["run_id"] == run["_id"] == 1


def test_sources_and_artifacts_have_the_same_content(database: Any, mongod_directory: Path) -> None:
    record_with_both(database, mongod_directory)
    files = [files_of(one) for one in (database.sacred, database.reference)]
    diff = [name for name in files[0] if name.endswith("code.diff")]
    for name in diff:  # more than Sacred keeps: what was changed since the commit
        del files[0][name]
    assert files[0] == files[1]
    assert any(name.endswith("experiments/acppo.py") for name in files[0])


def files_of(database: Any) -> dict[str, tuple[set[str], bytes, Any]]:
    """Filename -> (fields, content, content type) of all that a run refers to."""
    (run,) = database.runs.find()
    fs = gridfs.GridFS(database)
    ids = [file_id for _, file_id in run["experiment"]["sources"]]
    ids += [artifact["file_id"] for artifact in run["artifacts"]]
    result = {}
    for file_id in ids:
        fields = database.fs.files.find_one({"_id": file_id})
        content = fs.get(file_id).read()
        result[fields["filename"]] = (set(fields), content, fields.get("contentType"))
    return result


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"a.b": 1, "$c": 2}, {"a,b": 1, "@c": 2}),
        (2**70, str(2**70)),
        ([True, None, 1.5, "x"], [True, None, 1.5, "x"]),
    ],
)
def test_values_that_bson_lacks_are_texts(value: Any, stored: Any) -> None:
    assert documents.storable(value) == stored


def test_a_long_output_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    (tmp_path / OUTPUT).write_bytes(b"begin\n" + b"x" * 50_000_000 + b"\nend\n")
    text = documents.output(tmp_path)
    assert text.startswith("begin\n")
    assert text.endswith("\nend\n")
    assert "49,500,011 bytes are left out here" in text
    assert len(text) < 510_000


def test_ids_follow_from_the_parts_and_their_borders() -> None:
    assert documents.identity("a", "b") == documents.identity("a", b"b")
    assert documents.identity("ab", "c") != documents.identity("a", "bc")
