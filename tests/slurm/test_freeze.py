"""Code and packages are kept as they are at submission."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.tracking import provenance
from experiments.tracking.store import Store
from marlcore.config_errors import ConfigError
from slurm import freeze

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository in the place of this one."""
    root = tmp_path / "repository"
    (root / "marlcore").mkdir(parents=True)
    (root / "marlcore" / "a.py").write_text("A = 1\n")
    (root / "marlcore" / "ignored.log").write_text("x")
    (root / ".gitignore").write_text("*.log\n__pycache__\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(root), *names, *words], check=True)
    monkeypatch.setattr(freeze, "ROOT", root)
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def test_what_is_edited_later_is_not_in_the_copy(repository: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (repository / "marlcore" / "new.py").write_text("NEW = 1\n")  # not committed
    (repository / ".env").write_text("TOKEN=1\n")
    code = freeze.freeze_code(runs)
    assert not (code / ".env").exists()
    (repository / "marlcore" / "a.py").write_text("A = 2\n")
    assert (code / "marlcore" / "a.py").read_text() == "A = 1\n"
    assert (code / "marlcore" / "new.py").exists()
    assert not (code / "marlcore" / "ignored.log").exists()
    assert freeze.freeze_code(runs) != code
    (repository / "marlcore" / "a.py").write_text("A = 1\n")
    assert freeze.freeze_code(runs) == code


def test_the_copy_knows_the_commit_and_the_changes(repository: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (repository / "marlcore" / "a.py").write_text("A = 2\n")
    code = freeze.freeze_code(runs)
    found = provenance.git(code, Store(runs))
    assert found == provenance.git(repository, Store(runs))
    assert found is not None and found["dirty"]
    assert json.loads((code / provenance.ORIGIN).read_text()) == found


def test_without_git_the_packages_are_copied(repository: Path, tmp_path: Path) -> None:
    subprocess.run(["rm", "-rf", str(repository / ".git")], check=True)
    code = freeze.freeze_code(tmp_path / "runs")
    assert (code / "marlcore" / "a.py").exists()
    assert provenance.git(code, Store(tmp_path / "runs")) is None


def test_what_numba_compiled_goes_along_with_its_times(repository: Path, tmp_path: Path) -> None:
    cache = repository / "marlcore" / "__pycache__"
    cache.mkdir()
    (cache / "a.f-1.nbi").write_bytes(b"compiled")
    os.utime(repository / "marlcore" / "a.py", (1_700_000_000, 1_700_000_000))
    code = freeze.freeze_code(tmp_path / "runs")
    assert (code / "marlcore" / "__pycache__" / "a.f-1.nbi").read_bytes() == b"compiled"
    assert (code / "marlcore" / "a.py").stat().st_mtime == 1_700_000_000


def test_a_half_made_copy_is_never_used(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(freeze.shutil, "copy2", full)
    with pytest.raises(ConfigError, match="No space left on device; MARL_RUNS_DIR"):
        freeze.freeze_code(tmp_path / "runs")
    assert list((tmp_path / "runs" / ".frozen").iterdir()) == []


def test_the_interpreter_of_the_copy_has_the_packages_and_the_frozen_code(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    began = time.monotonic()
    python = freeze.freeze_environment(runs)
    again = freeze.freeze_environment(runs)
    assert python == again
    assert time.monotonic() - began < 120
    code = tmp_path / "code" / "marlcore"
    code.mkdir(parents=True)
    (code / "__init__.py").write_text("")
    words = "import marlcore, numpy, sys; print(marlcore.__file__, numpy.__file__, sys.prefix)"
    done = subprocess.run(
        [str(python), "-c", words],
        cwd=ROOT,  # where another marlcore lies
        env={**os.environ, "PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    own, numpy, prefix = done.stdout.split()
    assert Path(own).is_relative_to(tmp_path / "code")
    if sys.prefix != sys.base_prefix:
        assert Path(numpy).is_relative_to(runs)
        assert Path(prefix).is_relative_to(runs)
