"""Settings that this run would ignore, and settings that contradict each other: one table each.

A setting given on the command line that has no effect is refused with the reason and the way out;
one that a named config set is not, for the user did not write it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from marlcore.config import (
    ACPPOConfig,
    ExperimentConfig,
    GameConfig,
    IPPOConfig,
    OpenVLAConfig,
    PegInHoleConfig,
    PerceptronSection,
)


@dataclass(frozen=True)
class Rule:
    """Keys without effect when `applies`; a rule without keys refuses the configuration itself."""

    keys: tuple[str, ...]
    applies: Callable[[ExperimentConfig], bool]
    reason: str
    way_out: str


def _acppo(config: ExperimentConfig, *ablations: str) -> bool:
    """Whether this is ACPPO under one of these ablations (any, if none is named)."""
    algorithm = config.algorithm
    return isinstance(algorithm, ACPPOConfig) and (not ablations or algorithm.ablation in ablations)


def _is_given(config: ExperimentConfig, name: str) -> bool:
    """Whether a key of microsteps is a number, so that it is not derived."""
    chained = _acppo(config, "none", "gae_only")
    return chained and getattr(config.algorithm, name, None) is not None


def _belief_is_not_learned(config: ExperimentConfig) -> bool:
    return _acppo(config, "none", "belief_only") and _belief(config) != "learned"


def _belief(config: ExperimentConfig) -> str | None:
    """Where beliefs come from; None where there are none."""
    algorithm = config.algorithm
    if not isinstance(algorithm, ACPPOConfig) or algorithm.ablation == "gae_only":
        return None
    return algorithm.belief


def _runs_one_action(config: ExperimentConfig) -> bool:
    return (config.env.executed_length or config.env.num_actions_chunk) == 1


def _policy(config: ExperimentConfig, **values: object) -> bool:
    """Whether the policy acts with perceptrons, with these values."""
    policy = config.policy
    return isinstance(policy, PerceptronSection) and all(
        getattr(policy, name) == value for name, value in values.items()
    )


def _vla(config: ExperimentConfig, **values: object) -> bool:
    """Whether the actors are OpenVLA's, with these values."""
    policy = config.policy
    return isinstance(policy, OpenVLAConfig) and all(
        getattr(policy, name) == value for name, value in values.items()
    )


def _sees_nothing(config: ExperimentConfig) -> bool:
    env = config.env
    return not (getattr(env, "cameras", ()) or getattr(env, "image_size", None)) or (
        isinstance(env, PegInHoleConfig) and not env.cameras
    )


_PPO_ALONE = (
    "algorithm.gamma",
    "algorithm.gae_lambda",
    "algorithm.gamma_prime",
    "algorithm.lambda_prime",
    "algorithm.clip_epsilon",
    "algorithm.entropy_coef",
    "algorithm.value_coef",
    "algorithm.critic_lr",
    "algorithm.num_epochs",
    "algorithm.recompute_log_probs",
    "algorithm.target_kl",
    "algorithm.ratio_level",
    "algorithm.normalise_advantages",
    "algorithm.normalise_values",
    "algorithm.value_clip",
    "algorithm.huber_delta",
    "policy.final_log_std",
    "training.stop_success_rate",
    "training.stop_window",
)
"""What fitting actors to demonstrations does not look at."""

_WANDB = "set logging.wandb=offline or logging.wandb=online"

IGNORED = (
    Rule(
        _PPO_ALONE,
        lambda config: config.training.demonstrations is not None,
        "training.demonstrations fits the actors, without rewards and without episodes",
        "leave it out, or train from rewards afterwards (training.start_from)",
    ),
    Rule(
        ("algorithm.gamma",),
        lambda config: _is_given(config, "gamma_prime"),
        "algorithm.gamma_prime is a number, which fixes a decision's discount at "
        "gamma_prime ** num_agents",
        "set algorithm.gamma_prime itself, or algorithm.gamma_prime=null to derive it from gamma",
    ),
    Rule(
        ("algorithm.gae_lambda",),
        lambda config: _is_given(config, "lambda_prime"),
        "advantages over microsteps use algorithm.lambda_prime, which is a number",
        "set algorithm.lambda_prime itself, or algorithm.lambda_prime=null to derive it from "
        "gae_lambda",
    ),
    Rule(
        ("algorithm.gamma_prime", "algorithm.lambda_prime"),
        lambda config: _acppo(config, "belief_only"),
        "algorithm.ablation=belief_only uses plain GAE",
        "set algorithm.gamma and algorithm.gae_lambda",
    ),
    Rule(
        ("algorithm.belief", "algorithm.belief_lr", "algorithm.detach_action_dist_grad"),
        lambda config: _acppo(config, "gae_only"),
        "algorithm.ablation=gae_only has no beliefs",
        "leave it out, or set algorithm.ablation=none",
    ),
    Rule(
        ("algorithm.belief_lr",),
        _belief_is_not_learned,
        "only algorithm.belief=learned trains a network",
        "set algorithm.belief=learned, or leave it out",
    ),
    Rule(
        ("algorithm.ratio_level",),
        _runs_one_action,
        "a decision runs one action, so both levels are the same",
        "leave it out, or set env.num_actions_chunk above 1",
    ),
    Rule(
        ("env.chunk_gamma",),
        _runs_one_action,
        "a decision runs one env step, whose weight is 1",
        "leave it out, or set env.num_actions_chunk above 1",
    ),
    Rule(
        ("env.observations_shared",),
        lambda config: _belief(config) != "estimate" or _vla(config),
        "only estimated beliefs on vectors look at it (cameras say themselves who sees them)",
        "leave it out, or use experiments/acppo.py with algorithm.belief=estimate",
    ),
    Rule(
        ("env.image_size",),
        lambda config: isinstance(config.env, PegInHoleConfig) and not config.env.cameras,
        "no camera is rendered",
        "name cameras, for example \"env.cameras=['frontview']\", or leave it out",
    ),
    Rule(
        ("policy.agent_id",),
        lambda config: _policy(config, share_policy=False),
        "each agent has its own actor",
        "set policy.share_policy=true, or leave it out",
    ),
    Rule(
        ("policy.observation_clip",),
        lambda config: _policy(config, normalise_observations=False),
        "observations are not normalised",
        "leave it out, or set policy.normalise_observations=true",
    ),
    Rule(
        ("policy.critic",),
        lambda config: (
            isinstance(config.algorithm, IPPOConfig) and not _vla(config, critic="hidden")
        ),
        "IPPO's critics read their agent's own observation",
        "leave it out, or use experiments/mappo.py",
    ),
    Rule(
        ("policy.initial_log_std", "policy.learn_std", "policy.final_log_std"),
        lambda config: isinstance(config.env, GameConfig) and config.env.game != "sum_coordination",
        "this game has discrete actions, which have no standard deviation",
        "leave it out",
    ),
    Rule(
        ("policy.share_proprio",),
        lambda config: _vla(config) and _belief(config) != "estimate",
        "only estimated beliefs look at another agent's proprio",
        "leave it out, or use experiments/acppo.py with algorithm.belief=estimate",
    ),
    Rule(
        ("policy.unnorm_key",),
        lambda config: _vla(config, statistics="task"),
        "policy.statistics=task takes the environment's own quantiles",
        "set policy.statistics=checkpoint, or leave it out",
    ),
    Rule(
        ("policy.lora_rank", "policy.lora_alpha", "policy.lora_targets"),
        lambda config: _vla(config, lora_layers=0),
        "policy.lora_layers=0 trains no adapters",
        "leave it out, or set policy.lora_layers",
    ),
    Rule(
        ("training.worker_timeout_s",),
        lambda config: config.training.num_workers == 0,
        "training.num_workers=0 runs the environments in this process",
        "leave it out, or set training.num_workers to at least 1",
    ),
    Rule(
        ("training.stop_window",),
        lambda config: config.training.stop_success_rate is None,
        "nothing stops the run early",
        "set training.stop_success_rate as well, or leave it out",
    ),
    Rule(
        ("logging.wandb_project", "logging.wandb_entity"),
        lambda config: config.logging.wandb == "off",
        "logging.wandb=off",
        _WANDB + ", or leave it out",
    ),
)

IMPOSSIBLE = (
    Rule(
        (),
        lambda config: (
            config.training.demonstrations is not None and config.env.kind != "peg_in_hole"
        ),
        "training.demonstrations are of env.kind=peg_in_hole",
        "leave it out, or take that environment",
    ),
    Rule(
        (),
        lambda config: (
            _policy(config, critic="light")
            and not isinstance(config.algorithm, IPPOConfig)
            and config.env.kind not in ("peg_in_hole", "fake")
        ),
        "policy.critic=light reads the arms' proprio, which env.kind=peg_in_hole and fake alone "
        "have",
        "set policy.critic=state",
    ),
    Rule(
        (),
        lambda config: _vla(config, train_proprio_projector=False) and _belief(config) is not None,
        "policy.train_proprio_projector=false keeps the weights of beliefs at zero, so that they "
        "have no effect on the actors",
        "set policy.train_proprio_projector=true, or algorithm.ablation=gae_only",
    ),
    Rule(
        (),
        lambda config: _vla(config) and _sees_nothing(config),
        "policy.kind=openvla looks at pictures, and none are rendered",
        "name cameras, for example \"env.cameras=['frontview','robot0_eye_in_hand',"
        "'robot1_eye_in_hand']\", or start from openvla_7b or openvla_tiny",
    ),
)


def faults(config: ExperimentConfig, given: Collection[str]) -> list[str]:
    """A line for each given key that would be ignored and for each contradiction."""
    ignored = [
        f"{key} would be ignored: {rule.reason}; {rule.way_out}"
        for rule in IGNORED
        for key in rule.keys
        if key in given and rule.applies(config)
    ]
    contradictions = [f"{r.reason}; {r.way_out}" for r in IMPOSSIBLE if r.applies(config)]
    return ignored + contradictions
