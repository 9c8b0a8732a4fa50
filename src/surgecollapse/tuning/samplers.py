"""Optuna's samplers and pruners by name, with what each cannot do said before the study begins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection

from surgecollapse.errors import one_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

SAMPLERS = ("tpe", "gp", "cmaes", "grid", "random")
PRUNERS = ("none", "median", "hyperband", "wilcoxon")
LEAST_SEEDS = 5
"""Seeds under which the Wilcoxon pruner can save nothing: with n values its p is at least 2⁻ⁿ, and it stops at 0.1."""


def make_sampler(
    name: str,
    space: Mapping[str, BaseDistribution],
    *,
    objectives: int = 1,
    seed: int | None = None,
    parallel: bool = False,
) -> BaseSampler:
    """A sampler of Optuna.

    ``grid`` is not a sampler of its own here. Every combination is enqueued, so that a grid survives a kill and several
    hosts share it. None is left to draw.

    Args:
        name: one of :data:`SAMPLERS`.
        space: what is searched.
        objectives: how many there are.
        seed: of its draws.
        parallel: whether several trials run at once: TPE then keeps its distance from those under way.

    Raises:
        ValueError: for an unknown name, or a sampler that cannot search this.
    """
    one_of("sampler", name, SAMPLERS)
    numeric = [key for key, domain in space.items() if not isinstance(domain, CategoricalDistribution)]
    if name == "cmaes" and objectives > 1:
        raise ValueError("sampler cmaes takes one objective: choose tpe or gp, or give one objective")
    if name == "cmaes" and len(numeric) < 2:
        raise ValueError(f"sampler cmaes needs two numeric settings or more, got {len(numeric)}: choose tpe")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        if name == "cmaes":
            # Choices, which it cannot model, are drawn at random without a warning for each.
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=parallel)
        return optuna.samplers.RandomSampler(seed=seed)


def make_pruner(
    name: str, *, objectives: int = 1, seeds: int = 1, steps: int | None = None, every: int = 1
) -> BasePruner:
    """A pruner of Optuna.

    Args:
        name: one of :data:`PRUNERS`.
        objectives: how many there are; pruners take one.
        seeds: runs of a trial, for ``wilcoxon``.
        steps: longest run, for ``hyperband``; ``None`` to let it find out.
        every: steps between two reports.

    Raises:
        ValueError: for an unknown name, or a pruner that could never stop anything.
    """
    one_of("pruner", name, PRUNERS)
    if name == "none":
        return optuna.pruners.NopPruner()
    if objectives > 1:
        raise ValueError(f"pruner {name} takes one objective, got {objectives}: drop it, or give one objective")
    if name == "wilcoxon":
        if seeds < LEAST_SEEDS:
            raise ValueError(
                f"pruner wilcoxon needs {LEAST_SEEDS} seeds or more to save a run, got {seeds}: raise seeds, or choose "
                "median"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.pruners.WilcoxonPruner(p_threshold=0.1)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, interval_steps=max(1, every))
    return optuna.pruners.HyperbandPruner(min_resource=max(1, every), max_resource="auto" if steps is None else steps)


def directions_of(given: str | Sequence[str]) -> list[StudyDirection]:
    """One or several of ``maximize`` and ``minimize``.

    Raises:
        ValueError: for another word, or none.

    >>> [direction.name for direction in directions_of(["maximize", "min"])]
    ['MAXIMIZE', 'MINIMIZE']
    """
    words = [given] if isinstance(given, str) else list(given)
    if not words:
        raise ValueError("direction is empty: expected maximize or minimize, one for each objective")
    short = {"max": "maximize", "min": "minimize"}
    names = [one_of("direction", short.get(word, word), ("maximize", "minimize")) for word in words]
    return [StudyDirection[name.upper()] for name in names]
