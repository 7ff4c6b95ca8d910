"""What guards Omniboard: who may ask it, what it survives, when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymongo
import pytest

from experiments.tracking import omniboard, server
from marlcore.config_errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = "0" * 24


def api(path: str) -> str:
    return f"/sacred/api/v1/{path}"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"files/{UNKNOWN}", 404),
        (f"files/download/{UNKNOWN}/x.txt", 404),
        (f"files/download/{UNKNOWN}/a/b.py", 404),
        (f"files/preview/{UNKNOWN}", 404),
        ("files/nonsense", 404),
        ("files/download/nonsense/x", 404),
        ("files/source/nonsense", 500),
        ("files/source/99", 500),
        ("files/artifacts/99", 500),
        ("files/downloadAll/99/artifacts", 500),
        ("Runs?query=%7Bbad", 500),
        ("Runs/99", 200),
    ],
)
def test_what_is_unknown_is_answered_and_survived(
    ask: Any, page: omniboard.Page, path: str, status: int
) -> None:
    assert ask(page, api(path))[0] == status
    assert ask(page, api("Runs/1"))[0] == 200
    assert page.is_up


def test_a_file_is_read_by_its_id(
    ask: Any, sacred_runs: server.Server, page: omniboard.Page
) -> None:
    with pymongo.MongoClient(sacred_runs.uri()) as client:
        run = client.sacred.runs.find_one({"_id": 1})
    name, source = run["experiment"]["sources"][0]
    status, headers, body = ask(page, api(f"files/download/{source}/{name}"))
    assert (status, body) == (200, b"def main():\n    return 42\n")
    assert headers["Content-Disposition"] == "attachment; filename=mappo.py"
    assert "sandbox" in headers["Content-Security-Policy"]
    empty = run["artifacts"][1]["file_id"]
    assert ask(page, api(f"files/preview/{empty}"))[::2] == (200, b"")


def test_nobody_enters_without_the_password(ask: Any, page: omniboard.Page) -> None:
    for path in ("/", "/sacred", api("Runs"), "/?token=wrong", "/?token="):
        assert ask(page, path, password=None)[0] == 401
        assert ask(page, path, password="wrong")[0] == 401
    assert ask(page, "/", password=None, Cookie=f"marl_{page.port}={page.password}")[0] == 401
    assert ask(page, "/", password=None, Authorization="Basic %%%")[0] == 401
    assert ask(page, "/sacred")[0] == 200


def test_the_link_sets_a_cookie_that_scripts_and_other_sites_cannot_use(
    ask: Any,
    page: omniboard.Page,
) -> None:
    status, headers, body = ask(page, page.url.removeprefix(page.address[:-1]), password=None)
    assert status == 200
    assert b'content="0;url=/sacred"' in body
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert page.password not in cookie
    entry = cookie.partition(";")[0]
    assert ask(page, "/sacred", password=None, Cookie=entry)[0] == 200


def test_other_hosts_and_origins_are_refused(ask: Any, page: omniboard.Page) -> None:
    own = [f"127.0.0.1:{page.port}", f"localhost:{page.port}"]
    for host in ("evil.example", f"evil.example:{page.port}", "127.0.0.1", "127.0.0.1:1"):
        assert ask(page, "/", Host=host)[0] == 403
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"https://{own[0]}"):
        assert ask(page, "/", Origin=origin)[0] == 403
    for host in own:
        status, headers, _ = ask(page, api("Runs"), Host=host, Origin=f"http://{host}")
        assert status == 200
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_it_listens_on_loopback_alone(
    page: omniboard.Page, listeners: Callable[[int], set[str]]
) -> None:
    assert listeners(page.port) == {"127.0.0.1"}


def test_no_secret_shows(
    ask: Any, sacred_runs: server.Server, page: omniboard.Page, omniboard_log: Path
) -> None:
    ask(page, page.url.removeprefix(page.address[:-1]), password=None)
    shown = (
        Path(f"/proc/{page.process.pid}/cmdline").read_text()
        + omniboard_log.read_text()
        + repr(page)
    )
    for secret in (page.password, sacred_runs.settings.passwords["marl"]):
        assert secret not in shown


def test_a_page_that_only_reads_refuses_changes(
    ask: Any, sacred_runs: server.Server, read_only_page: omniboard.Page
) -> None:
    for method in ("DELETE", "PUT", "POST", "PATCH"):
        assert ask(read_only_page, api("Runs/3"), method)[0] == 403
    overridden = {"X-HTTP-Method-Override": "DELETE"}
    assert ask(read_only_page, api("Runs/3"), **overridden)[0] == 200
    with pymongo.MongoClient(sacred_runs.uri()) as client:
        assert client.sacred.runs.count_documents({"_id": 3}) == 1


def test_a_whole_collection_cannot_be_deleted(
    ask: Any, sacred_runs: server.Server, page: omniboard.Page
) -> None:
    for query in ("", "?query={}", "?query=%7B%22$or%22:[]%7D", "?query=x", "/"):
        assert ask(page, api("Metrics") + query, "DELETE")[0] == 403
    override = {"X-HTTP-Method-Override": "DELETE", "Content-Type": "application/json"}
    ask(page, api("Metrics"), "POST", **override)
    with pymongo.MongoClient(sacred_runs.uri()) as client:
        assert client.sacred.metrics.count_documents({"run_id": {"$gte": 1}}) == 6
        client.sacred.runs.insert_one({"_id": 1000})
        assert ask(page, api("Runs/1000"), "DELETE")[0] == 204
        assert client.sacred.runs.count_documents({"_id": 1000}) == 0


def test_a_port_that_is_taken_is_refused_if_named_and_avoided_if_not(
    sacred_runs: server.Server, page: omniboard.Page
) -> None:
    with pytest.raises(ConfigError, match=rf"port {page.port} is taken"):
        omniboard.start(sacred_runs.uri(), port=page.port)
    other = omniboard.start(sacred_runs.uri())
    try:
        assert other.port != page.port
    finally:
        other.stop()
    assert not other.is_up


@pytest.mark.slow
def test_it_survives_a_restart_of_the_database(
    ask: Any, mongod: Callable[[], Path], omniboard_cache: Path, write_run: Callable[..., int]
) -> None:
    directory = mongod()
    with pymongo.MongoClient(server.start(directory).uri()) as client:
        write_run(client.sacred, 1)
    page = omniboard.start(server.start(directory).uri())
    try:
        server.stop(directory)
        with pytest.raises(TimeoutError):  # it waits for the database
            ask(page, api("Runs/1"), timeout_s=2.0)
        server.start(directory)
        assert ask(page, api("Runs/1"), timeout_s=60.0)[0] == 200
    finally:
        page.stop()


def test_it_ends_with_the_process_that_started_it(
    sacred_runs: server.Server, listeners: Callable[[int], set[str]]
) -> None:
    code = (
        "import os; from experiments.tracking import omniboard;"
        "print(omniboard.start(os.environ['URI']).port, flush=True); os._exit(0)"
    )
    environment = {**os.environ, "URI": sacred_runs.uri()}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, timeout=60
    )
    port = int(done.stdout)
    deadline = time.monotonic() + 10
    while listeners(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_database_that_is_away_or_refuses_is_an_error(
    sacred_runs: server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = sacred_runs.uri().replace(sacred_runs.settings.passwords["marl"], "wrong")
    with pytest.raises(ConfigError, match=r"cannot read the database.*Authentication failed"):
        omniboard.start(wrong)
    monkeypatch.setattr(omniboard, "START_S", 4.0)
    with pytest.raises(ConfigError, match="is the database up"):
        omniboard.start("mongodb://127.0.0.1:1/sacred")
