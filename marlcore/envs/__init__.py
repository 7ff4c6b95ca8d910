"""Environments. Importing this imports no simulator, no pettingzoo and no torch."""

from marlcore.envs.decision import DecisionEnv
from marlcore.envs.make import make_decision_env, make_step_env
from marlcore.envs.protocol import (
    ActionSpec,
    EnvSpec,
    Episode,
    Observation,
    StepEnv,
    StepResult,
    Transition,
    VectorEnv,
    VectorStep,
)
from marlcore.envs.vector import make_vector_env

__all__ = [
    "ActionSpec",
    "DecisionEnv",
    "EnvSpec",
    "Episode",
    "Observation",
    "StepEnv",
    "StepResult",
    "Transition",
    "VectorEnv",
    "VectorStep",
    "make_decision_env",
    "make_step_env",
    "make_vector_env",
]
