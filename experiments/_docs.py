"""docs/CONFIGURATION.md and README's table of earlier flags, made from the schema.

`python -m experiments._docs` writes both; a test asserts that they are current.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments._ignored import IGNORED
from experiments._named import MEANINGS
from experiments._overrides import ALLOWED_ON_RESUME
from marlcore import config_keys
from marlcore.config_errors import show

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "CONFIGURATION.md"
README = ROOT / "README.md"
_MARKS = ("<!-- earlier flags, made by `make docs` -->", "<!-- end -->")

_INTRODUCTION = """\
# Configuration

<!-- Made by `python -m experiments._docs` from marlcore/config.py; change that. -->

    python experiments/acppo.py with quickstart gamma_prime=0.97
    python experiments/acppo.py print_config with quickstart gamma_prime=0.97

Behind `with` come named configs, put over the defaults in their order, then `key=value`.

- The last part of a key is enough where it is unambiguous: `gamma_prime=0.97` is
  `algorithm.gamma_prime=0.97`; `kind` alone fits `env.kind` and `policy.kind` and is refused.
- A value is JSON or a Python literal: `0.97`, `true`, `null`, `[64,64]`, `{'N': 3}`. Other text is
  itself. Quote brackets for the shell: `"hidden_sizes=[64,64]"`.
- A value of the wrong type or out of range, an unknown key, a key given twice, and a setting that
  the run would ignore are refused with exit code 2 before anything is made.
- Another `env.kind` or `policy.kind` brings the defaults of that kind; keys that both have keep
  what a named config gave them.
- `reward_shaping=true` is `env.reward=dense`, `reward_shaping=false` is `env.reward=sparse`.
- `resume=RUN` goes on with a run from its newest checkpoint: an id, the start of one, the run's
  directory, or one checkpoint's directory. It takes
  {resume}
  and nothing else: other keys would make the recorded configuration untrue of the first part.

Environment variables: `MARL_RUNS_DIR` is where runs are kept (`runs`); `MARL_MONGO_URI` a MongoDB
that records are copied to; `MARL_OPTUNA_URL` a PostgreSQL that sweeps are kept in."""

_EARLIER = (
    ("--algorithm", "the script", "experiments/mappo.py, acppo.py, ippo.py"),
    ("--pretrained_checkpoint, CHECKPOINT=", "policy.pretrained_checkpoint", "with OpenVLA actors"),
    ("--use_wandb", "logging.wandb", "`offline` or `online`"),
    ("--wandb_project, WANDB_PROJECT=", "logging.wandb_project", ""),
    ("--wandb_entity", "logging.wandb_entity", ""),
    ("--num_envs, NUM_ENVS=", "training.num_envs", "of one process"),
    (
        "--num_steps_per_rollout, NUM_STEPS=",
        "training.num_steps_per_rollout",
        "decisions of each environment",
    ),
    ("--total_timesteps, TOTAL_TIMESTEPS=", "training.total_timesteps", "env steps over all"),
    ("--seed, SEED=", "seed", ""),
    ("--run_id_note", "option --comment", "and --id names the run's directory"),
    ("--env_configuration", "env.arrangement", "`opposed` or `parallel`"),
    ("--robot1, --robot2", "env.robots", "both: `\"robots=['Panda','Panda']\"`"),
    ("--gamma", "algorithm.gamma", "ACPPO: with gamma_prime=null or ablation=belief_only"),
    ("--gamma_prime, GAMMA_PRIME=", "algorithm.gamma_prime", "ACPPO"),
    ("--lambda_prime, LAMBDA_PRIME=", "algorithm.lambda_prime", "ACPPO"),
    ("--clip_epsilon, CLIP_EPSILON=", "algorithm.clip_epsilon", ""),
    ("--actor_lr, LEARNING_RATE=", "algorithm.actor_lr", "LEARNING_RATE= sets critic_lr as well"),
    ("--critic_lr", "algorithm.critic_lr", ""),
    ("--entropy_coef", "algorithm.entropy_coef", ""),
    ("--num_epochs", "algorithm.num_epochs", ""),
    ("--num_minibatches", "algorithm.num_minibatches", "divides the decisions of a rollout"),
    ("--share_policy", "policy.share_policy", ""),
    ("--reward_shaping", "env.reward", "`reward_shaping=true` works still"),
    ("--num_actions_chunk", "env.num_actions_chunk", ""),
    ("--history_length", "env.history_length", ""),
    ("--max_episode_steps", "env.max_episode_steps", ""),
    ("--save_freq", "training.checkpoint_every", "env steps, not updates"),
    ("--eval_freq", "training.evaluate_every", "env steps, not updates"),
    ("--log_freq", "none", "every update is recorded; logging.console says how it is shown"),
    ("--device", "training.device", ""),
    ("NUM_GPUS=", "training.num_gpus", "one process a GPU; torchrun and Slurm work as well"),
)
"""(earlier flags, key of today, remark)."""


def configuration_page() -> str:
    """The whole page."""
    allowed = ", ".join(
        f"`{name}*`" if name[-1] == "." else f"`{name}`" for name in ALLOWED_ON_RESUME
    )
    lines = [
        _INTRODUCTION.replace("{resume}", allowed),
        "",
        "## Keys",
        *_key_tables(),
        "",
        "## Named configs",
        "",
        "`python experiments/acppo.py print_named_configs` prints what each sets.",
        "",
        *_table(("name", "meaning"), [(f"`{name}`", text) for name, text in MEANINGS.items()]),
        "",
        "## Settings that would be ignored",
        "",
        "Given on the command line, these are refused.",
        "",
        *_table(
            ("key", "when", "way out"),
            [
                (", ".join(f"`{key}`" for key in rule.keys), rule.reason, rule.way_out)
                for rule in IGNORED
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def readme() -> str:
    """README.md with the table of earlier flags between its marks."""
    before, _, rest = README.read_text(encoding="utf-8").partition(_MARKS[0])
    _, _, after = rest.partition(_MARKS[1])
    table = _table(("earlier", "today", "remark"), [_earlier_row(row) for row in _EARLIER])
    return "\n".join([before + _MARKS[0], "", *table, "", _MARKS[1] + after])


def earlier_keys() -> list[str]:
    """Keys that the table of earlier flags names."""
    return [key for _, key, _ in _EARLIER if key in config_keys.names()]


def _earlier_row(row: tuple[str, str, str]) -> tuple[str, str, str]:
    flags, key, remark = row
    known = key in config_keys.names()
    return (
        ", ".join(f"`{flag}`" for flag in flags.split(", ")),
        f"`{key}`" if known else key,
        remark,
    )


def _key_tables() -> Iterator[str]:
    for section, keys in config_keys.groups():
        if section.variant:
            yield from ("", f"#### {'='.join(section.variant)}", "", section.meaning)
        elif section.name:
            yield from ("", f"### {section.name}", "", section.meaning)
        if keys:
            yield from ("", *_table(_HEAD, [_row(key) for key in keys]))


_HEAD = ("key", "type and range", "default", "meaning")


def _row(key: config_keys.Key) -> tuple[str, str, str, str]:
    default = key.default if isinstance(key.default, str) else show(key.default)
    return f"`{key.name}`", key.allowed, f"`{default}`", key.meaning


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


if __name__ == "__main__":
    for page, text in ((PAGE, configuration_page()), (README, readme())):
        page.write_text(text, encoding="utf-8")
        print(f"wrote {page}")
