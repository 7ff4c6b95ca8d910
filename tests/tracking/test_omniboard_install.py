"""Installing Omniboard: whole or not at all, with errors that say the way out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from experiments.tracking import _omniboard_install, omniboard
from marlcore.config_errors import ConfigError


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is PATH, with a node in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fake(folder, "node", "echo v20.1.0")
    for name in ("sh", "mkdir", "sleep"):
        (folder / name).symlink_to(shutil.which(name, path=os.defpath) or f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_without_node_or_npm_the_error_says_how_to_get_them(tools: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"npm, which is not on PATH; install.*apt-get"):
        omniboard.install(tmp_path)
    fake(tools, "node", "echo v12.22.0")
    with pytest.raises(ConfigError, match=r"another node than .*v12\.22\.0.*apt-get"):
        omniboard.install(tmp_path)
    (tools / "node").unlink()
    with pytest.raises(ConfigError, match="needs node, which is not on PATH"):
        omniboard.install(tmp_path)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("npm error code ENOTFOUND", "cannot reach its registry .ENOTFOUND.*connect"),
        ("npm error code ENOSPC", "no room on the disk"),
        ("npm error get https://me:secret@host/x 403", "code 1 .*: get https://host/x 403"),
    ],
)
def test_a_failed_installation_leaves_nothing(
    tools: Path, tmp_path: Path, said: str, expected: str
) -> None:
    fake(tools, "npm", f"mkdir -p node_modules/omniboard; echo '{said}' >&2; exit 1")
    with pytest.raises(ConfigError, match=expected):
        omniboard.install(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_page_that_differs_is_installed_with_a_warning(tools: Path, tmp_path: Path) -> None:
    fake(tools, "npm", "mkdir -p node_modules/omniboard")
    said: list[str] = []
    page = omniboard.install(tmp_path / "cache", said.append)
    assert page.is_dir()
    assert any("warning" in line and "NaN" in line for line in said)
    assert omniboard.install(tmp_path / "cache", said.append) == page


def test_an_installation_that_was_faster_is_taken(tools: Path, tmp_path: Path) -> None:
    fake(tools, "npm", "mkdir -p node_modules/omniboard")
    page = omniboard.install(tmp_path / "cache", list)
    target, other = page.parents[1], tmp_path / "cache" / ".omniboard-other"
    other.mkdir()
    _omniboard_install._put(other, target)
    assert page.is_dir()


def test_what_a_killed_installation_left_is_removed_after_a_day(
    tools: Path, tmp_path: Path
) -> None:
    fake(tools, "npm", "mkdir -p node_modules/omniboard")
    old, new = tmp_path / ".omniboard-old", tmp_path / ".omniboard-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    omniboard.install(tmp_path, list)
    assert not old.exists()
    assert new.exists()


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("MARL_CACHE_DIR", raising=False)
    assert omniboard.cache_dir() == Path("/somewhere/marlcore")
    monkeypatch.setenv("MARL_CACHE_DIR", "/elsewhere")
    assert omniboard.cache_dir() == Path("/elsewhere")


def test_the_lock_names_no_registry() -> None:
    text = (_omniboard_install.SOURCE / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert '"integrity"' in text
