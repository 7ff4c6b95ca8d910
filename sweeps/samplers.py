"""Optuna's samplers and pruners, as a sweep file names them."""

from __future__ import annotations

import hashlib
import json

from optuna import pruners, samplers

from sweeps.definition import Sweep


def make_sampler(sweep: Sweep, number: int) -> samplers.BaseSampler:
    """The sampler that draws the trial with this number.

    It is seeded by the sweep's seed and that number: the same trials give the same next one,
    whichever worker asks, and after every restart.
    """
    text = json.dumps([sweep.sampler_seed, number]).encode()
    seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
    startup = sweep.num_startup_trials
    match sweep.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=startup)
        case "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case "qmc":  # one sequence, whose place is kept in the study
            return samplers.QMCSampler(
                scramble=True, seed=sweep.sampler_seed, warn_asynchronous_seeding=False
            )
        case "random":
            return samplers.RandomSampler(seed=seed)


def make_pruner(sweep: Sweep) -> pruners.BasePruner:
    """The pruner of a sweep; its steps are points of the first seed's curve, or seeds."""
    pruner = sweep.pruner
    start, warmup = pruner.num_startup_trials, pruner.num_warmup_points
    match pruner.kind:
        case "none":
            return pruners.NopPruner()
        case "median":
            return pruners.MedianPruner(start, warmup)
        case "percentile":
            return pruners.PercentilePruner(pruner.percentile, start, warmup)
        case "successive_halving":
            return pruners.SuccessiveHalvingPruner()
        case "hyperband":
            return pruners.HyperbandPruner(1, pruner.num_points)
        case "wilcoxon":
            return pruners.WilcoxonPruner(p_threshold=pruner.p_threshold)
