"""Files that outlive crashes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlcore import durable
from marlcore.durable import AppendFile, LineFile, patiently, read_lines, seal, unseal, write_whole

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(document=st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_a_sealed_line_gives_back_its_object(document: dict[str, object]) -> None:
    document.pop("crc32", None)
    line = seal(document)
    assert line.count("\n") == 1
    assert unseal(line) == document


@given(position=st.integers(0, 40), character=st.characters(codec="ascii", exclude_characters="\n"))
def test_a_changed_line_is_refused_or_means_the_same(position: int, character: str) -> None:
    line = seal({"step": 12, "text": 'a", "crc32": "x'})
    changed = line[:position] + character + line[position + 1 :]
    if changed != line:
        with pytest.raises(ValueError):
            unseal(changed)


def test_every_beginning_of_a_file_gives_the_lines_that_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    file = LineFile(path)
    for n in range(3):
        file.append({"n": n, "text": "\u4e2d\n"})
    file.close()
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        documents, damaged = read_lines(path)
        assert [d["n"] for d in documents] == list(range(content[:size].count(b"\n")))
        assert not damaged


def test_a_damaged_line_is_numbered_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text(
        seal({"n": 0}) + "rubbish\n" + seal({"n": 2}).replace("2", "3", 1) + seal({"n": 3})
    )
    documents, damaged = read_lines(path)
    assert [d["n"] for d in documents] == [0, 3]
    assert damaged == [2, 3]


def test_a_writer_goes_on_behind_what_the_killed_one_finished(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text(seal({"n": 0}) + seal({"n": 1})[:-9])
    file = LineFile(path)
    file.append({"n": 2})
    file.close()
    assert [d["n"] for d in read_lines(path)[0]] == [0, 2]


def test_a_process_that_is_killed_leaves_all_that_it_wrote(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from marlcore.durable import LineFile\n"
        f"file = LineFile(Path({str(tmp_path / 'lines')!r}))\n"
        "for n in range(10**9):\n    file.append({'n': n}); print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    seen = [int(next(writer.stdout)) for _ in range(2000)][-1]
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    documents, damaged = read_lines(tmp_path / "lines")
    assert not damaged
    assert [d["n"] for d in documents] == list(range(len(documents)))
    assert len(documents) > max([seen, *(int(n) for n in rest if n.isdecimal())])


def test_a_small_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "a" * 100_000)
    contents: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            contents.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for character in "bcdefgh":
        write_whole(path, character * 100_000)
    stop.set()
    reader.join()
    assert all(len(set(content)) == 1 and len(content) == 100_000 for content in contents)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_takes_back_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = AppendFile(tmp_path / "file")
    file.append(b"whole\n")
    write, calls = os.write, [0]

    def short(descriptor: int, data: bytes) -> int:
        calls[0] += 1
        if calls[0] == 1:
            return write(descriptor, data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="No space"):
        file.try_append(b"second\n")
    monkeypatch.undo()
    assert file.read() == b"whole\n"
    file.append(b"third\n")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"whole\nthird\n"


def test_a_full_disk_is_waited_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(durable, "_POLL_S", 0.001)
    attempts: list[str | None] = []

    def write() -> str:
        attempts.append(durable.paused())
        if len(attempts) < 3:
            raise RuntimeError("io: No space left on device (os error 28)")
        return "done"

    assert patiently(write, place=tmp_path / "not" / "there", what="the thing") == "done"
    error = capsys.readouterr().err
    assert error.count("PAUSED") == 1
    assert "the thing cannot be written; nothing is lost" in error
    assert "space is back: the thing is written" in error
    assert durable.paused() is None


def test_a_process_that_is_being_ended_waits_for_no_disk(tmp_path: Path) -> None:
    def fails() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    durable.set_patience(False)
    try:
        with pytest.raises(OSError, match="No space"):
            patiently(fails, place=tmp_path, what="x")
    finally:
        durable.set_patience(True)


def test_a_line_without_checksum_is_damage_behind_one_that_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text('{"n": 0}\n' + seal({"n": 1}) + '{"n": 2}\n')
    documents, damaged = read_lines(path)
    assert ([d["n"] for d in documents], damaged) == ([0, 1], [3])


def test_other_errors_are_not_waited_for(tmp_path: Path) -> None:
    def fails() -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        patiently(fails, place=tmp_path, what="x")
