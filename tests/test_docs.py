"""README's links, tree, commands and code are real."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli
from experiments._experiment import resolve_command
from experiments._program import Parser
from experiments._script import find_script
from sweeps import launch
from sweeps.definition import Pruner, Sweep

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tree_is_real() -> None:
    (tree,) = re.findall(r"```\n(experiments/.*?)```", README, re.S)
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        path = (folder if line.startswith(" ") else ROOT) / name
        assert path.exists(), f"README's tree names {name}"
        if not line.startswith(" "):
            folder = path
    listed = set(re.findall(r"^  (\w+(?:\.py|/))", tree, re.M))
    public = {p.name for p in (ROOT / "marlcore").glob("*.py") if p.name != "__init__.py"}
    assert public - listed <= {
        "config_env.py",
        "config_errors.py",
        "config_keys.py",
        "config_run.py",
    }


@pytest.mark.parametrize("name", ["make", "make train", "make test", "make docs", "make check"])
def test_make_knows_the_target(name: str) -> None:
    done = subprocess.run([*name.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"`(python experiments/\w+\.py[^`]*)`", page.read_text())
        if "RUN" not in command
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_is_accepted(command: str) -> None:
    """With `print_config` in front, so that nothing is trained."""
    _, script, *words = shlex.split(command)
    if Path(script).stem in ("collect_demos", "finetune"):  # they have no command that only prints
        parser = importlib.import_module(f"experiments.{Path(script).stem}")._parser()
        assert resolve_command(find_script("acppo"), parser.parse_intermixed_args(words).words[1:])
        return
    if script.endswith("study.py"):
        words = [*words, "--dry-run"]
    elif "with" in words and "print_config" not in words:
        words = ["print_config", *words]
    elif not words:
        words = ["--help"]
    done = subprocess.run(
        [sys.executable, script, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


MARL = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"`(marl [a-z]+ [^`]+)`", page.read_text())
        if "COMMAND" not in command
    }
)


@pytest.mark.parametrize("command", MARL)
def test_a_documented_marl_command_is_parsed(command: str) -> None:
    _, name, *words = shlex.split(command)
    assert name in cli.COMMANDS
    parser = Parser()
    importlib.import_module(f"experiments.commands.{name}").arguments(parser)
    parser.parse_args(words)


SWEEPS = sorted(
    {
        command.strip()
        for page in PAGES
        for command in re.findall(r"python (sweeps/launch\.py[^`\n#]+)", page.read_text())
    }
)


@pytest.mark.parametrize("command", SWEEPS)
def test_a_documented_sweep_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "--slurm" in command and "--serve" not in command:
        monkeypatch.setenv("MARL_OPTUNA_URL", "postgresql://me:secret@localhost/base")
    assert launch.main([*shlex.split(command)[1:], "--dry-run"]) == 0


def test_every_key_of_a_sweep_is_documented() -> None:
    text = (ROOT / "docs" / "SWEEPS.md").read_text()
    for section in (Sweep, Pruner):
        for name, field in section.model_fields.items():
            assert f"`{field.alias or name}`" in text, name


def test_the_documented_refusal_is_what_is_printed() -> None:
    ((command, answer),) = re.findall(r"```console\n\$ python (.*)\n(error: .*)\n", README)
    done = subprocess.run(
        [sys.executable, *shlex.split(command)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.strip() == answer


def test_the_python_of_the_pages_runs() -> None:
    texts = [page.read_text() for page in PAGES]
    codes = [code for text in texts for code in re.findall(r"```python\n(.*?)```", text, re.S)]
    assert len(codes) == 3
    for code in codes:
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
