"""What `--help`, `print_config` and `print_named_configs` print."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from experiments._arguments import COMMANDS, OPTIONS
from experiments._named import MEANINGS
from experiments._overrides import ALLOWED_ON_RESUME, Resolved
from experiments._script import Script
from marlcore import config_keys
from marlcore.config import ExperimentConfig
from marlcore.config_errors import chosen_variants, show

_WIDTH = 100


def help_text(script: Script) -> str:
    """The whole help of a script."""
    program = f"python experiments/{script.name}.py"
    lines = [
        *script.doc.strip().splitlines(),
        "",
        "Usage:",
        f"  {program} [COMMAND] [OPTIONS] [with [NAMED_CONFIG ...] [KEY=VALUE ...]]",
        f"  {program} with resume=RUN [KEY=VALUE ...]",
        "",
        "Commands:",
        *_columns(COMMANDS),
        "",
        "Options:",
        *_columns({_option(name): meaning for name, (_, _, meaning) in OPTIONS.items()}),
        "",
        "Named configs:",
        *_columns({name: MEANINGS.get(name, "") for name in script.named}),
        "",
        *_rules(script, program),
        "",
        "Keys:",
        *_keys(script.name),
    ]
    return "\n".join(lines)


def _rules(script: Script, program: str) -> Iterator[str]:
    own = "gamma_prime=0.97" if script.name == "acppo" else "gae_lambda=0.9"
    yield "Settings:"
    allowed = ", ".join(name + "*" if name[-1] == "." else name for name in ALLOWED_ON_RESUME)
    for text in (
        "A key's last part is enough where it is unambiguous: seed=1, total_timesteps=500000, "
        f"{own}. Values are JSON or Python: 0.97, true, null, [64,64], {{'N': 3}}; other text is "
        "itself.",
        "Another env.kind or policy.kind brings its own defaults. A setting that the run would "
        "ignore is refused, with the reason.",
        "reward_shaping=true is env.reward=dense, reward_shaping=false is env.reward=sparse.",
        "resume=RUN (an id, the start of one, a run's directory, or a checkpoint's) goes on with "
        f"a run; it takes {allowed}.",
        "MARL_RUNS_DIR: where runs are kept (runs). MARL_MONGO_URI: a MongoDB that Sacred writes "
        "to as well.",
    ):
        yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    yield ""
    yield "Examples:"
    yield f"  {program} with quickstart seed=1"
    yield f"  {program} print_config with two_arm {own}"
    yield f'  {program} with env.kind=game game=climbing "hidden_sizes=[64,64]"'
    yield f"  {program} --comment 'a first try' with quickstart training.num_envs=4"


def _option(name: str) -> str:
    short, value, _ = OPTIONS[name]
    return f"{short}, {name}" + (f" {value}" if value else "")


def _columns(rows: Mapping[str, str], width: int = 24) -> Iterator[str]:
    for name, meaning in rows.items():
        yield f"  {name:<{width}}{meaning}"


def _keys(algorithm: str) -> Iterator[str]:
    for section, keys in config_keys.groups():
        if section.name == "algorithm" and section.variant not in (
            None,
            ("algorithm.name", algorithm),
        ):
            continue
        yield f"\n  {'='.join(section.variant) if section.variant else section.name or 'top'}"
        for key in keys:
            default = key.default if isinstance(key.default, str) else show(key.default)
            text = f"{key.allowed}. {key.meaning}"
            indent = " " * 8
            yield f"    {key.name} = {default}"
            yield from textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def keys_with_values(config: ExperimentConfig) -> Iterator[tuple[config_keys.Key, Any]]:
    """Each key that this configuration has, with its value."""
    values = config.model_dump(mode="json")
    chosen = chosen_variants(values)
    for name in dict.fromkeys(key.name for key in config_keys.all_keys()):
        key = config_keys.lookup(name, chosen)
        if key is not None:
            value: Any = values
            for part in name.split("."):
                value = value[part]
            yield key, value


def print_config(resolved: Resolved) -> None:
    """Print a table of every key, its value, type, default and meaning; `*` marks changes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, title="Configuration (* differs from the default)")
    for column in ("", "key", "value", "type", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for key, value in keys_with_values(resolved.config):
        changed = key.default not in (value, config_keys.REQUIRED)
        default = key.default if isinstance(key.default, str) else show(key.default)
        shown = value if isinstance(value, str) else show(value)
        row = ("*" if changed else "", key.name, shown, key.allowed, default, key.meaning)
        table.add_row(*map(Text, row), style="bold" if changed else None)
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def print_named_configs(script: Script) -> None:
    """Print each named config with what it sets."""
    for name, values in script.named.items():
        print(f"{name}: {MEANINGS.get(name, '')}")
        for section, keys in values.items():
            for key, value in keys.items():
                print(f"    {section}.{key} = {value if isinstance(value, str) else show(value)}")
