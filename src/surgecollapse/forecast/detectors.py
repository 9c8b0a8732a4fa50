"""Detectors that read a run's measurements one by one and raise one alarm; causal, host numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from surgecollapse.events import Alarm, Measurement
from surgecollapse.forecast.features import CLOCK
from surgecollapse.forecast.times import FIT


@runtime_checkable
class Detector(Protocol):
    """Raises at most one alarm in a run, from what it has seen so far alone.

    The ``forecast`` of its alarm is ``generalizes`` or ``does not generalize``.
    """

    def update(self, measurement: Measurement) -> Alarm | None:
        """Take the next measurement, in the order of their steps."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...


class Change:
    """Alarm when a series has changed, since the net fitted, by some share of its value then.

    Args:
        series: name of the measurements of the whole net that it reads.
        share: signed: −.2 alarms when the value is at most .8 of what it was, .2 when it is at least 1.2 of it.

    Raises:
        ValueError: if the share is zero or not finite.

    >>> detector = Change("norm/weight", -0.2)
    >>> run = [("norm/weight", 10.0), ("accuracy/train", 1.0), ("norm/weight", 9.0), ("norm/weight", 7.9)]
    >>> [(detector.update(Measurement(step=i, name=n, value=v)) or Alarm(step=-1, detector="", reason="")).step
    ...     for i, (n, v) in enumerate(run)]
    [-1, -1, -1, 3]
    """

    def __init__(self, series: str, share: float) -> None:
        if not 0 < abs(share) < float("inf"):
            raise ValueError(f"expected a share that is finite and not zero, got {share}")
        self.series, self.share = series, share
        self._last: float | None = None
        self._then: float | None = None
        self._fitted = self._raised = False

    def update(self, measurement: Measurement) -> Alarm | None:
        """Take the next measurement; the value then is the last one seen at t_fit, or the first after it."""
        if measurement.layer is not None:
            return None
        if measurement.name == CLOCK and measurement.value >= FIT and not self._fitted:
            self._fitted, self._then = True, self._last
        if measurement.name != self.series:
            return None
        self._last = measurement.value
        if not self._fitted or self._raised:
            return None
        if self._then is None:
            self._then = measurement.value
        moved = measurement.value - self._then
        wanted = self.share * abs(self._then)
        if wanted == 0 or not (moved >= wanted if wanted > 0 else moved <= wanted):
            return None
        self._raised = True
        reason = f"{self.series} went from {self._then:.4g} to {measurement.value:.4g} since the net fitted"
        return Alarm(step=measurement.step, detector=f"change of {self.series}", reason=reason)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"last": self._last, "then": self._then, "fitted": self._fitted, "raised": self._raised}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._last, self._then = state["last"], state["then"]
        self._fitted, self._raised = state["fitted"], state["raised"]
