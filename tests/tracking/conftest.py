"""A real mongod, a real Omniboard and a real browser, for the tests that need them."""

from __future__ import annotations

import base64
import datetime
import http.client
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from experiments.tracking import omniboard, server
from marlcore.config_errors import ConfigError

STARTED = datetime.datetime(2026, 11, 20, 10, 0, 0)


@pytest.fixture(scope="session")
def mongod() -> Iterator[Callable[[], Path]]:
    """Call it for a new runs directory whose database runs; all are removed at the end."""
    if server.find_mongod() is None:
        pytest.skip("there is no mongod")
    made: list[Path] = []

    def make() -> Path:
        directory = Path(tempfile.mkdtemp(prefix="marl-mongod-"))
        made.append(directory)
        server.start(directory)
        return directory

    try:
        yield make
    finally:
        for directory in made:
            server.stop(directory)
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def mongod_directory(mongod: Callable[[], Path]) -> Path:
    """One runs directory with a running database, shared by all tests of the session."""
    return mongod()


@pytest.fixture(scope="session")
def write_run() -> Callable[..., int]:
    """Writes one run, exactly as Sacred's MongoObserver does; returns its id."""
    return _write_run


def _write_run(database: Any, run_id: int, **changes: Any) -> int:
    import gridfs

    files = gridfs.GridFS(database)
    source = files.put(b"def main():\n    return 42\n", filename="/code/experiments/mappo.py")
    prefix = f"artifact://runs/{run_id}/"
    artifact = files.put(b"the note of this run\n", filename=prefix + "note.txt")
    empty = files.put(b"", filename=prefix + "empty.txt")
    metrics = {
        "rollout/return_mean": [math.nan, 1.0, 2.0, math.nan, 4.0],
        "update/policy_loss/agent_1": [0.5, 0.4, 0.3, 0.2, 0.1],
    }
    run = {
        "_id": run_id,
        "format": "MongoObserver-0.7.0",
        "command": "main",
        "status": "COMPLETED",
        "start_time": STARTED,
        "heartbeat": STARTED + datetime.timedelta(minutes=5),
        "stop_time": STARTED + datetime.timedelta(minutes=5),
        "result": None,
        "captured_out": f"the output of run {run_id}\nsecond line\n",
        "config": {"seed": 7, "ppo": {"clip_epsilon": 0.2, "num_epochs": 4}, "tags": ["baseline"]},
        "meta": {"command": "main", "options": {}, "comment": "a comment"},
        "host": {"hostname": "node17", "os": ["Linux", "6.1"], "cpu": "x", "gpus": {}},
        "experiment": {
            "name": "mappo",
            "base_dir": "/code",
            "mainfile": "experiments/mappo.py",
            "dependencies": ["torch==2.6"],
            "repositories": [],
            "sources": [["experiments/mappo.py", source]],
        },
        "resources": [],
        "artifacts": [
            {"name": "note.txt", "file_id": artifact},
            {"name": "empty.txt", "file_id": empty},
        ],
        "info": {"metrics": _write_metrics(database, run_id, metrics)},
    }
    database.runs.insert_one({**run, **changes})
    return run_id


def _write_metrics(database: Any, run_id: int, metrics: dict[str, list[float]]) -> list[Any]:
    references = []
    for name, values in metrics.items():
        times = [STARTED + datetime.timedelta(seconds=i) for i in range(len(values))]
        steps = [256 * (i + 1) for i in range(len(values))]
        document = {"run_id": run_id, "name": name, "steps": steps, "values": values}
        added = database.metrics.insert_one({**document, "timestamps": times})
        references.append({"name": name, "id": str(added.inserted_id)})
    return references


@pytest.fixture(scope="module")  # while it runs, no test could use asyncio
def browser() -> Iterator[Any]:
    """A headless Chromium (playwright's Browser)."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    options = """
        --headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
        --disable-background-networking --disable-component-update
    """
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=options.split())
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="session")
def screenshot() -> Callable[[Any, str], None]:
    """Saves a picture of a page into the folder MARL_SCREENSHOTS, if that is set."""

    def save(page: Any, name: str) -> None:
        folder = os.environ.get("MARL_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(Path(folder) / f"{name}.png"))

    return save


@pytest.fixture(scope="session")
def listeners() -> Callable[[int], set[str]]:
    """The addresses on which something listens to a port."""

    def find(port: int) -> set[str]:
        found = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            if not Path(table).exists():
                continue
            for line in Path(table).read_text().splitlines()[1:]:
                address, _, number = line.split()[1].rpartition(":")
                if line.split()[3] == "0A" and int(number, 16) == port:
                    found.add(address)
        return {"127.0.0.1" if address == "0100007F" else address for address in found}

    return find


@pytest.fixture(scope="session")
def omniboard_cache() -> Path:
    """Where Omniboard is installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no node or npm")
    try:
        omniboard.install(omniboard.cache_dir())
    except ConfigError as error:
        if "registry" not in str(error):
            raise
        pytest.skip(str(error))
    return omniboard.cache_dir()


@pytest.fixture(scope="session")
def sacred_runs(
    mongod: Callable[[], Path], write_run: Callable[..., int], omniboard_cache: Path
) -> server.Server:
    """A database with three runs."""
    running = server.start(mongod())
    with pymongo.MongoClient(running.uri()) as client:
        write_run(client.sacred, 1)
        write_run(client.sacred, 2, status="PREEMPTED")
        write_run(client.sacred, 3, status="FAILED", fail_trace=["Traceback\n", "ValueError: x\n"])
    return running


@pytest.fixture(scope="session")
def omniboard_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "omniboard.log"


@pytest.fixture(scope="session")
def page(sacred_runs: server.Server, omniboard_log: Path) -> Iterator[omniboard.Page]:
    page = omniboard.start(sacred_runs.uri(), log=omniboard_log)
    yield page
    page.stop()


@pytest.fixture(scope="session")
def read_only_page(sacred_runs: server.Server) -> Iterator[omniboard.Page]:
    page = omniboard.start(sacred_runs.uri("reader"), read_only=True)
    yield page
    page.stop()


@pytest.fixture(scope="session")
def ask() -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """Sends a request to a page."""
    return _ask


def _ask(
    page: omniboard.Page,
    path: str,
    method: str = "GET",
    *,
    password: str | None = "",
    timeout_s: float = 10.0,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; with the right password, another one, or none."""
    if password is not None:
        login = f"marl:{password or page.password}".encode()
        headers = {"Authorization": "Basic " + base64.b64encode(login).decode(), **headers}
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=timeout_s)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()
