"""The settings that are trained on fresh seeds at the end: the best ones, and those of the experiment as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from surgecollapse.tuning.storage import reached

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.tuning.objectives import Objective

MOST = 5
"""Points of a Pareto front that are trained again on fresh seeds."""
DEFAULT, BEST = "default", "best"


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """Settings that are trained on fresh seeds, with their rows."""

    name: str
    """``default``, ``best``, or ``trial N``."""
    number: int | None
    params: Mapping[str, Any]
    config: RunConfig
    rows: Sequence[Mapping[str, Any]]


def best_trial(study: Study, objectives: Sequence[Objective]) -> FrozenTrial | None:
    """The best trial; ``None`` without one, or with several objectives."""
    if len(objectives) > 1:
        return None
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    turn = 1 if objectives[0].direction == "maximize" else -1
    return max(complete, key=lambda trial: turn * reached(trial), default=None)


def chosen_settings(study: Study, objectives: Sequence[Objective]) -> list[tuple[str, int | None, Mapping[str, Any]]]:
    """Name, number and parameters of the untuned settings and the best ones, or of points of the front.

    Empty if no trial is complete.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return []
    best = best_trial(study, objectives)
    if best is not None:
        return [(DEFAULT, None, {}), (BEST, best.number, best.params)]
    front = spread(study.best_trials, MOST)
    return [(DEFAULT, None, {}), *((f"trial {trial.number}", trial.number, trial.params) for trial in front)]


def spread(trials: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
    """At most so many points of a front, evenly by rank along its first objective, both ends among them."""
    front = sorted({tuple(trial.values or ()): trial for trial in trials}.values(), key=lambda trial: reached(trial, 0))
    if len(front) <= most:
        return front
    return [front[round(place * (len(front) - 1) / (most - 1))] for place in range(most)]
