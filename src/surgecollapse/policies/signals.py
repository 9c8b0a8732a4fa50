"""What the cycles hear in a reading: high, low, flat or rising entropy, each as a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from surgecollapse.errors import one_of
from surgecollapse.events import Reading
from surgecollapse.policies import validation
from surgecollapse.policies.bands import QuantileBand
from surgecollapse.policies.trend import Trend

Measure = Literal["on_off", "entropy"]
"""Attributes of :class:`~surgecollapse.events.Reading` that a floor may bound."""

DepthMeasure = Literal["prediction_confidence", "on_off", "entropy"]
"""What a depth may be bounded by: it is measured on the probe batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is the case at one reading: a sentence with its numbers, or ``None`` where it is not."""

    high: str | None = None
    """The mean entropy of this phase is above the rolling quantile of open readings."""
    plateau: str | None = None
    """Entropy is flat within this phase."""
    rising: str | None = None
    """Entropy rises clearly within this phase."""
    low: str | None = None
    """The measure is under its floor."""
    back: str | None = None
    """The measure is known to be at its floor or above."""


class EntropySignals:
    """Turns readings into signals. A reading without entropy gives none.

    Entropy counts as high where its mean over the present phase exceeds a quantile of the last readings outside
    sparse phases. Not single readings: a fifth of those are above their 80% quantile by chance. Not sparse ones: a
    surge lifts entropy, and every open phase would count as high.

    Args:
        measure: ``on_off`` (lowest on/off unit entropy over layers) or ``entropy`` (mean activation entropy).
        floor: value of the measure below which it is low, in [0, 1].
        plateau: |change| of the entropy's moving average per 10 readings below which it is flat.
        high: quantile of open readings above which entropy is high.
        window: open readings over which that quantile rolls.

    Raises:
        ValueError: if an option is out of range.

    >>> signals = EntropySignals(measure="on_off", floor=0.4, plateau=1e-3, high=0.8, window=50)
    >>> signals.read(Reading(step=50, entropy=0.5, on_off=0.3), sparse=True).low
    'on_off 0.300 is under its floor 0.4'
    """

    def __init__(
        self,
        *,
        measure: Measure = "on_off",
        floor: float = 0.4,
        plateau: float = 1e-3,
        high: float = 0.8,
        window: int = 50,
    ) -> None:
        one_of("measure", measure, get_args(Measure))
        validation.fraction("floor", floor)
        validation.fraction("high", high)
        validation.whole("window", window)
        self.measure, self.floor = measure, floor
        self._band = QuantileBand(0.0, high, window=window, least=min(5, window))
        # Phases are short, so three readings must do for a trend.
        self._trend = Trend(limit=plateau, span=10, least=2)
        self._sum, self._count = 0.0, 0

    def read(self, reading: Reading, *, sparse: bool) -> Signals:
        """Say what is the case at a reading, and learn from it.

        Args:
            reading: what was seen.
            sparse: whether training is in a sparse phase.
        """
        entropy = validation.known(reading.entropy)
        if entropy is None:
            return Signals()
        bounds, words, trend = self._band.bounds(), self._band.words("high"), self._trend
        trend.update(entropy)
        self._sum, self._count = self._sum + entropy, self._count + 1
        mean, high = self._sum / self._count, None
        if not sparse:
            self._band.update(entropy)
            if bounds is not None and mean > bounds[1]:
                high = (
                    f"high entropy: the phase's mean {mean:.3f} is above {bounds[1]:.3f}, {words} outside sparse phases"
                )
        value = validation.known(getattr(reading, self.measure))
        low = back = None
        if value is not None and value < self.floor:
            low = f"{self.measure} {value:.3f} is under its floor {self.floor:g}"
        elif value is not None:
            back = f"{self.measure} {value:.3f} is at its floor {self.floor:g} or above"
        return Signals(
            high=high,
            plateau=f"plateau: {trend.words()}" if trend.plateau else None,
            rising=trend.words() if trend.rising else None,
            low=low,
            back=back,
        )

    def new_phase(self) -> None:
        """Begin trend and mean anew: the change of phase itself moves entropy."""
        self._trend.reset()
        self._sum, self._count = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """What the quantile, the trend and the mean remember."""
        return {
            "band": self._band.state_dict(),
            "trend": self._trend.state_dict(),
            "sum": self._sum,
            "count": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._band.load_state_dict(state["band"])
        self._trend.load_state_dict(state["trend"])
        self._sum, self._count = state["sum"], state["count"]
