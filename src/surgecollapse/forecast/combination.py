"""Detectors whose score is a weighted sum of features: one feature alone, or many with learned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from math import isfinite
from typing import Any

from surgecollapse.events import Alarm, Measurement
from surgecollapse.forecast.features import Feature, Features

MOST = 5.0
"""Deviations from the calibration runs beyond which a feature says no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Intercept + Σ weight·clip((feature − center)/scale, ±5); a feature that is not known adds nothing.

    Raises:
        ValueError: if the numbers do not correspond to the features.

    >>> Score(features=(Feature("norm/weight"),), center=(0.0,), scale=(0.5,), weight=(-1.0,)).of([-1.0])
    2.0
    """

    features: tuple[Feature, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    intercept: float = 0.0

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.features, self.center, self.scale, self.weight)}
        if len(lengths) > 1:
            raise ValueError(f"expected one center, scale and weight for each of the {len(self.features)} features")

    def of(self, values: Sequence[float]) -> float:
        """The score of one tick's features."""
        return self.intercept + sum(self._parts(values))

    def leading(self, values: Sequence[float], most: int = 3) -> str:
        """The features that add most to the score, in words."""
        parts = zip(self._parts(values), self.features, values, strict=True)
        known = sorted((part for part in parts if isfinite(part[2])), key=lambda part: -abs(part[0]))
        return ", ".join(f"{feature.name} {value:.3g}" for _, feature, value in known[:most])

    def _parts(self, values: Sequence[float]) -> list[float]:
        """What each feature adds."""
        return [
            weight * min(MOST, max(-MOST, (value - center) / scale)) if isfinite(value) else 0.0
            for value, center, scale, weight in zip(values, self.center, self.scale, self.weight, strict=True)
        ]


class Combination:
    """Alarm when a score reaches a threshold, at some multiple of t_fit or later; once in a run.

    Args:
        name: of the detector.
        score: of each tick since the net fitted.
        threshold: reached from below; with ``below``, from above.
        below: alarm where the score is at most the threshold: the net will *not* generalize.
        after: least multiple of t_fit at which it speaks.
        at_most: a feature, and the largest value of it at which an alarm may come.

    >>> score = Score(features=(Feature("entropy/spectral"),), center=(0.0,), scale=(1.0,), weight=(1.0,))
    >>> detector = Combination("entropy rises", score, 0.2)
    >>> run = [("entropy/spectral", 0.5), ("accuracy/train", 1.0), ("entropy/spectral", 0.75), ("accuracy/train", 1.0)]
    >>> [bool(detector.update(Measurement(step=1 + i, name=n, value=v))) for i, (n, v) in enumerate(run)]
    [False, False, False, True]
    """

    def __init__(
        self,
        name: str,
        score: Score,
        threshold: float,
        *,
        below: bool = False,
        after: float = 1.0,
        at_most: tuple[Feature, float] | None = None,
    ) -> None:
        self.name, self.score, self.threshold, self.below, self.after = name, score, threshold, below, after
        self.at_most = at_most
        self._features = Features(score.features if at_most is None else (*score.features, at_most[0]))
        self._raised = False

    def update(self, measurement: Measurement) -> Alarm | None:
        """Take the next measurement, in the order of their steps."""
        values = self._features.update(measurement)
        if values is None or self._raised:
            return None
        fitted = self._features.t_fit
        if fitted is None or measurement.step < self.after * fitted:
            return None
        if self.at_most is not None:
            *values, level = values
            if not level <= self.at_most[1]:
                return None
        score = self.score.of(values)
        if not (score <= self.threshold if self.below else score >= self.threshold):
            return None
        self._raised = True
        reason = (
            f"score {score:.3g}, threshold {self.threshold:.3g}, {measurement.step - fitted} steps after fitting; "
            f"most by {self.score.leading(values)}"
        )
        forecast = "does not generalize" if self.below else "generalizes"
        return Alarm(step=measurement.step, detector=self.name, reason=reason, forecast=forecast)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"features": self._features.state_dict(), "raised": self._raised}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._features.load_state_dict(state["features"])
        self._raised = state["raised"]


def to_plain(detector: Combination) -> dict[str, Any]:
    """A detector as JSON-ready values."""
    score = detector.score
    bound = {} if detector.at_most is None else {"at_most": [*astuple(detector.at_most[0]), detector.at_most[1]]}
    return {
        "name": detector.name,
        "threshold": detector.threshold,
        "below": detector.below,
        "after": detector.after,
        "intercept": score.intercept,
        "features": [
            [feature.series, feature.form, *numbers]
            for feature, *numbers in zip(score.features, score.center, score.scale, score.weight, strict=True)
        ],
        **bound,
    }


def from_plain(values: Mapping[str, Any]) -> Combination:
    """The detector that :func:`to_plain` wrote.

    Raises:
        ValueError: if a part is missing.

    >>> score = Score(features=(Feature("norm/weight"),), center=(0.0,), scale=(1.0,), weight=(-1.0,))
    >>> from_plain(to_plain(Combination("norm falls", score, 0.3))).score == score
    True
    """
    missing = {"name", "threshold", "below", "after", "intercept", "features"} - set(values)
    if missing:
        raise ValueError(f"expected a detector with {', '.join(sorted(missing))}, too")
    rows = values["features"]
    score = Score(
        features=tuple(Feature(row[0], row[1]) for row in rows),
        center=tuple(row[2] for row in rows),
        scale=tuple(row[3] for row in rows),
        weight=tuple(row[4] for row in rows),
        intercept=values["intercept"],
    )
    bound = values.get("at_most")
    return Combination(
        values["name"],
        score,
        values["threshold"],
        below=values["below"],
        after=values["after"],
        at_most=None if bound is None else (Feature(bound[0], bound[1]), bound[2]),
    )
