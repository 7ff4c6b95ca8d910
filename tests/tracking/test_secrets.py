"""Canary secrets in all places where secrets are: found in no record."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pymongo
import pytest
from bson import json_util

from experiments.tracking import server
from experiments.tracking.read import read_view
from tests.tracking.faults import Run

CANARY = "Canary" + secrets.token_hex(8)
"""Made anew, since the sources of the tests are recorded as well."""


def holders(root: Path) -> list[str]:
    """Files with the canary in them, or in their name."""
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if CANARY in path.name or (path.is_file() and CANARY.encode() in path.read_bytes())
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_secrets_are_found_in_no_record(mongod: Callable[[], Path], tmp_path: Path) -> None:
    elsewhere = mongod()
    with pymongo.MongoClient(server.start(elsewhere).uri("admin")) as client:
        client.admin.command(
            "createUser",
            "canary",
            pwd=f"{CANARY}%pass",
            roles=[{"role": "readWrite", "db": "sacred"}],
        )
        port = server.start(elsewhere).port
        runs = tmp_path / "runs"
        run = Run(
            runs,
            "env.kind=pettingzoo",
            "env.factory=tests.tracking.leaky:leaky",
            "num_workers=0",
            "num_envs=1",
            "num_steps_per_rollout=1000",
            "logging.tensorboard=true",
            "logging.wandb=offline",
            MARL_MONGO_URI=f"mongodb://canary:{CANARY}%25pass@127.0.0.1:{port}/sacred"
            "?authSource=admin&replicaSet=rs0",
            WANDB_API_KEY=f"{CANARY}0123456789abcdef0123456789abcdef",
            MARL_OPTUNA_URL=f"postgresql://canary:{CANARY}-url@127.0.0.1/sweeps",
            MY_SERVICE_PASSWORD=f"{CANARY}-password",
        )
        assert run.process.wait(180) == 1, run.output()
        found = read_view(run.directory)
        assert found.status == "FAILED"
        assert found.error is not None and found.error.endswith(
            "['[redacted]', '[redacted]', '[redacted]', '[redacted]']"
        )
        log = (run.directory / "stdout.log").read_text()
        assert log.count("whole [redacted]") == 4
        assert list((run.directory / "wandb").rglob("*.wandb"))
        assert holders(runs) == []
        documents = {
            name: list(client.sacred[name].find()) for name in client.sacred.list_collection_names()
        }
        assert len(documents["runs"]) == 1
        assert CANARY not in json_util.dumps(documents)
        assert not any(CANARY.encode() in chunk["data"] for chunk in documents["fs.chunks"])


def test_a_secret_in_the_configuration_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    kwargs = json.dumps({"api_key": CANARY})
    run = Run(
        runs, "env.kind=pettingzoo", "env.factory=a:b", f"env.factory_kwargs={kwargs}", "seed=3"
    )
    assert run.process.wait(60) == 2
    assert "env.factory_kwargs.api_key holds a secret" in run.output() or (
        "env.factory_kwargs holds a secret" in run.output()
    )
    assert CANARY not in run.output()
    assert not runs.exists()
