"""The layout of the design: floors, forbidden imports, sizes. A ratchet, not a reason to split."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "types": 0,
    "advantages": 0,
    "losses": 0,
    "distributions": 0,
    "config_env": 0,
    "config_run": 0,
    "config": 0,
    "config_keys": 0,
    "config_errors": 0,
    "cadence": 0,
    "durable": 0,
    "rendezvous": 1,
    "distributed": 1,
    "statistics": 1,
    "rng": 1,
    "recording": 1,
    "buffer": 1,
    "envs": 1,
    "metrics": 1,
    "policies": 2,
    "collector": 3,
    "cloning": 4,
    "algorithms": 4,
    "checkpoint": 5,
    "evaluation": 5,
    "trainer": 6,
}
"""Modules of one floor may import each other downwards in this table's order."""
FORBIDDEN = {"sacred", "optuna", "submitit", "pymongo", "wandb", "experiments", "sweeps", "slurm"}
VLA = {"transformers", "peft", "tokenizers", "timm", "torchvision"}
SOURCES = [p for p in sorted(ROOT.glob("**/*.py")) if not set(p.parts) & {".venv", "build", "runs"}]
LIBRARY = [path for path in SOURCES if path.is_relative_to(ROOT / "marlcore")]


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            if node.module == "marlcore":
                yield from (f"marlcore.{alias.name}" for alias in node.names)


def module_of(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_from_lower_floors_or_its_own_package(path: Path) -> None:
    own = path.relative_to(ROOT / "marlcore").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    order = list(FLOORS)
    for name in imported(path):
        if name.startswith("marlcore.") and module_of(name) != own:
            other = module_of(name)
            assert FLOORS[other] <= FLOORS[own], f"{path} imports {name} from a higher floor"
            assert order.index(other) < order.index(own), f"{path} imports {name}, listed after it"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_knows_nothing_of_the_tools_around_it(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & FORBIDDEN
    if "openvla" not in path.parts:
        assert not roots & VLA


def test_environments_run_without_torch() -> None:
    code = "import sys, marlcore.envs, marlcore.envs.worker; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "False"


def test_nothing_is_pickled() -> None:
    for path in SOURCES:
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"pickle", "dill", "cloudpickle", "joblib"}, path
        if "tests" not in path.parts:
            text = path.read_text()
            assert "allow_pickle=True" not in text, path
            # OpenVLA's published components are `torch.save`d: tensors alone are unpickled.
            loads = re.findall(r"torch\.load\([^)]*\)", text)
            allowed = 1 if path.name == "tensors.py" else 0
            assert len(loads) == allowed and all("weights_only=True" in x for x in loads), path


def test_torchvision_and_timm_are_nowhere() -> None:
    """They replace torch by another build, or break transformers."""
    for path in SOURCES:
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"timm", "torchvision"}, path
    lock = (ROOT / "requirements.lock").read_text()
    assert "torchvision" not in lock
    assert "timm" not in lock


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_files_are_short() -> None:
    sources = [path for path in SOURCES if "tests" not in path.parts]
    sizes = sorted(lines_of(path) for path in sources)
    assert sizes[-1] <= 400, [p for p in sources if lines_of(p) > 400]
    assert sizes[len(sizes) // 2] <= 150
    assert sizes[int(0.9 * len(sizes))] <= 300


def test_functions_are_short() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_a_script_fits_on_a_page_and_an_algorithm_states_what_differs() -> None:
    for name in ("mappo", "acppo", "ippo"):
        assert lines_of(ROOT / "experiments" / f"{name}.py") <= 80
        assert lines_of(ROOT / "marlcore" / "algorithms" / f"{name}.py") <= 120


def test_sources_are_ascii() -> None:
    for path in SOURCES:
        assert path.read_text().isascii(), path
