"""Thresholds of detectors, from runs that are over: their features, their scores, their false alarms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from surgecollapse.events import Measurement
from surgecollapse.forecast.combination import MOST, Score
from surgecollapse.forecast.features import CLOCK, Feature, Features

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Course:
    """The features of one run that is over, at its ticks from t_fit to the end of what a detector may use."""

    steps: NDArray[np.int64]
    """Of the ticks, from t_fit on; before t_gen, where the run generalized."""
    values: Array
    """(ticks, features), NaN where not known."""
    grokked: bool
    group: str
    """Runs of one group are held out together."""
    t_fit: int
    t_gen: int | None
    total: int
    """Steps of the run."""


def course_of(
    steps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    features: Sequence[Feature],
    *,
    t_gen: int | None,
    grokked: bool,
    group: str,
) -> Course | None:
    """Play a run to the features as it would have come online; ``None`` if it never fitted.

    Args:
        steps: of the evaluations.
        series: values at each of them, by name.
        features: that are wanted.
        t_gen: when it generalized.
        grokked: whether it counts as grokked.
        group: of the run.
    """
    tracker = Features(features)
    wanted = sorted({feature.series for feature in features} & set(series) - {CLOCK})
    ticks, rows = [], []
    for i, step in enumerate(steps):
        if t_gen is not None and step >= t_gen:
            break
        for name in [*wanted, CLOCK]:
            found = tracker.update(Measurement(step=int(step), name=name, value=float(series[name][i])))
        if found is not None:
            ticks.append(int(step))
            rows.append(found)
    if tracker.t_fit is None:
        return None
    return Course(
        steps=np.array(ticks),
        values=np.array(rows),
        grokked=grokked,
        group=group,
        t_fit=tracker.t_fit,
        t_gen=t_gen,
        total=int(steps[-1]),
    )


def scores_of(score: Score, values: Array) -> Array:
    """The score at every tick (ticks, features): :meth:`Score.of` of each row.

    >>> score = Score(features=(Feature("norm/weight"),), center=(1.0,), scale=(0.5,), weight=(2.0,), intercept=1.0)
    >>> scores_of(score, np.array([[2.0], [np.nan], [99.0]])).tolist()
    [5.0, 1.0, 11.0]
    """
    z = np.clip((values - np.array(score.center)) / np.array(score.scale), -MOST, MOST)
    found: Array = np.where(np.isfinite(values), z, 0.0) @ np.array(score.weight) + score.intercept
    return found


def alarm_threshold(highest: Sequence[float], rate: float = 0.05) -> float:
    """Threshold that a new run of the same kind reaches with probability at most ``rate``.

    The k-th smallest of the n highest scores, with k = ⌈(1 − rate)(n + 1)⌉, and a little more: for runs that are
    exchangeable with the calibration runs the promise holds whatever their distribution (split conformal prediction).
    With n too small for the rate no threshold keeps it, and it is infinite.

    Args:
        highest: of each calibration run that did not grok, the highest score in its course.
        rate: of false alarms.

    >>> alarm_threshold([0.1] * 95 + [0.5] * 5) > 0.1, alarm_threshold([0.1, 0.2])
    (True, inf)
    """
    ordered = sorted(highest)
    k = ceil((1 - rate) * (len(ordered) + 1))
    if k > len(ordered):
        return inf
    return float(np.nextafter(ordered[k - 1], inf))


def held_out_scores(
    courses: Sequence[Course], fit: Callable[[Sequence[Course]], Callable[[Course], Array]]
) -> list[Array]:
    """Scores of every run by weights that were learned without its group.

    Args:
        courses: all calibration runs.
        fit: learns from some, and returns what scores one.
    """
    found: dict[int, Array] = {}
    for group in sorted({course.group for course in courses}):
        rest = [course for course in courses if course.group != group]
        if not rest or len({course.grokked for course in rest}) < 2:
            rest = list(courses)
        scorer = fit(rest)
        found |= {i: scorer(course) for i, course in enumerate(courses) if course.group == group}
    return [found[i] for i in range(len(courses))]


def first_alarm(
    course: Course, scores: Array, threshold: float, *, after: float = 1.0, below: bool = False
) -> int | None:
    """Step of the first tick at which the detector would alarm, or ``None``."""
    reached = scores <= threshold if below else scores >= threshold
    reached &= course.steps >= after * course.t_fit
    return int(course.steps[reached.argmax()]) if reached.any() else None
