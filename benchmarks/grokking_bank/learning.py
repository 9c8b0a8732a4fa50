"""Weights of detectors, learned from runs that are over with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grokking_bank.calibration import Array, Course
from surgecollapse.forecast.combination import MOST, Score
from surgecollapse.forecast.features import Feature


def learn(courses: Sequence[Course], features: Sequence[Feature], *, strength: float = 0.03) -> Score:
    """Logistic regression of whether a run groks, on the features at its ticks.

    Each run weighs the same, and so do both classes, however many ticks they have.

    Args:
        courses: of both classes.
        features: of their columns.
        strength: inverse of the penalty, scikit-learn's ``C``, with weights that add up to the number of runs.

    Raises:
        ModuleNotFoundError: without scikit-learn.
        ValueError: if there is only one class.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    labels = np.array([course.grokked for course in courses])
    if labels.all() or not labels.any():
        raise ValueError("expected runs that grokked and runs that did not: nothing can be learned from one class")
    x = np.concatenate([course.values for course in courses])
    weights = run_weights(courses)
    center, scale = _spread(x)
    z = np.nan_to_num(np.clip((x - center) / scale, -MOST, MOST))
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit(z, np.repeat(labels, [len(course.steps) for course in courses]), sample_weight=weights)
    return Score(
        features=tuple(features),
        center=tuple(map(float, center)),
        scale=tuple(map(float, scale)),
        weight=tuple(map(float, model.coef_[0])),
        intercept=float(model.intercept_[0]),
    )


def run_weights(courses: Sequence[Course]) -> Array:
    """A weight for every tick: both classes half of all runs, each run alike within its class.

    >>> def course(ticks, grokked):
    ...     return Course(steps=np.arange(ticks), values=np.zeros((ticks, 1)), grokked=grokked, group="", t_fit=1,
    ...                   t_gen=None, total=9)
    >>> run_weights([course(2, True), course(1, False), course(1, False)]).tolist()
    [0.75, 0.75, 0.75, 0.75]
    """
    labels = [course.grokked for course in courses]
    counts = {label: labels.count(label) for label in set(labels)}
    each = [len(labels) / (2 * counts[course.grokked] * len(course.steps)) for course in courses]
    return np.repeat(each, [len(course.steps) for course in courses])


def _spread(x: Array) -> tuple[Array, Array]:
    """Median and half the distance between the 16% and 84% quantiles, column by column; 0 and 1 where unknown."""
    known = np.where(np.isfinite(x), x, np.nan)
    empty = np.isnan(known).all(0)
    known = np.where(empty, 0.0, known)
    low, middle, high = np.nanquantile(known, (0.16, 0.5, 0.84), axis=0)
    scale = (high - low) / 2
    return middle, np.where(scale > 1e-9, scale, 1.0)
