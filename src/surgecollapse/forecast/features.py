"""What a detector knows at each evaluation: series since the net fitted, as numbers that do not depend on the net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log, nan
from typing import Any

from surgecollapse.events import Measurement
from surgecollapse.forecast.times import FIT

CLOCK = "accuracy/train"
"""The series that every evaluation has: its measurements are the ticks, and its first value ≥ .99 is t_fit."""
BACK = 1.5
"""A slope reaches back to the step that is so many times smaller."""
_LOGARITHMIC = (
    "loss/",
    "norm/",
    "rank/",
    "dimension/",
    "curvature/",
    "logits/scale",
    "gradient/",
    "update/",
    "commutator/",
)
_LEAST = 1e-12
FORMS = ("value", "change", "slope")


@dataclass(frozen=True, slots=True)
class Feature:
    """One number about one series of the whole net.

    Series of norms, ranks, dimensions, losses, scales, updates and curvature are taken as logarithms, others as they
    are.

    Raises:
        ValueError: for an unknown form.
    """

    series: str
    """Name of the measurements; where they come by layer, their mean is taken. ``time`` is ln(step/t_fit)."""
    form: str = "change"
    """``value`` now; ``change`` since t_fit; ``slope`` against ln(step), over the last third of the steps."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"unknown form {self.form!r}: expected one of {', '.join(FORMS)}")

    @property
    def name(self) -> str:
        """Series and form in one word."""
        return f"{self.form} of {self.series}" if self.series != "time" else "time since fitting"


TIME = Feature("time", "value")


class Features:
    """Turns measurements into features, one by one and never looking ahead.

    A tick is a measurement of :data:`CLOCK`; a series then has its last value. What has not been measured is NaN.

    Args:
        features: which.

    >>> watch = Features([Feature("entropy/spectral")])
    >>> run = [("entropy/spectral", 0.5), ("accuracy/train", 1.0), ("entropy/spectral", 0.75), ("accuracy/train", 1.0)]
    >>> [watch.update(Measurement(step=1 + i, name=n, value=v)) for i, (n, v) in enumerate(run)]
    [None, [0.0], None, [0.25]]
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)
        self._wanted = {feature.series for feature in features}
        self._held: dict[str, dict[str, float]] = {}
        self._then: dict[str, float] = {}
        self._past: list[tuple[int, dict[str, float]]] = []
        self.t_fit: int | None = None
        """Step at which the net fitted, once it has."""

    def update(self, measurement: Measurement) -> list[float] | None:
        """Take the next measurement; the features at a tick from t_fit on, else ``None``."""
        if measurement.name in self._wanted:
            self._held.setdefault(measurement.name, {})[measurement.layer or ""] = measurement.value
        if measurement.name != CLOCK or measurement.layer is not None:
            return None
        step, now = measurement.step, {name: self._now(name) for name in self._wanted if name != "time"}
        if self.t_fit is None and measurement.value >= FIT:
            self.t_fit = step
        found = None
        if self.t_fit is not None:
            self._then = {name: value for name, value in now.items() if isfinite(value)} | self._then
            found = [self._feature(feature, step, now) for feature in self.features]
        self._past.append((step, now))
        while len(self._past) > 1 and self._past[1][0] * BACK <= step:
            self._past.pop(0)
        return found

    def _now(self, name: str) -> float:
        layers = self._held.get(name)
        if not layers:
            return nan
        value = layers[""] if "" in layers else sum(layers.values()) / len(layers)
        if not name.startswith(_LOGARITHMIC) or not isfinite(value):
            return value if isfinite(value) else nan
        return log(max(value, _LEAST))

    def _feature(self, feature: Feature, step: int, now: Mapping[str, float]) -> float:
        assert self.t_fit is not None
        if feature.series == "time":
            return log(step / self.t_fit)
        value = now[feature.series]
        if feature.form == "value":
            return value
        if feature.form == "change":
            return value - self._then.get(feature.series, nan)
        earlier = [(at, held) for at, held in self._past if at * BACK <= step] or self._past[:1]
        if not earlier or earlier[-1][0] == step:
            return nan
        at, held = earlier[-1]
        return (value - held[feature.series]) / (log(step) - log(at)) if at > 0 else nan

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "held": {name: dict(layers) for name, layers in self._held.items()},
            "then": dict(self._then),
            "past": [[step, dict(held)] for step, held in self._past],
            "t_fit": self.t_fit,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._held = {name: dict(layers) for name, layers in state["held"].items()}
        self._then, self.t_fit = dict(state["then"]), state["t_fit"]
        self._past = [(int(step), dict(held)) for step, held in state["past"]]
