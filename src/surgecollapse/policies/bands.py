"""What counts as high or low entropy: bands that stay, roll or are steered, and hysteresis.

Small classes of host floats, each with ``state_dict`` of plain JSON-able values. A *band* gives the two limits that
hold for the next reading (``bounds``), and learns from that reading afterwards (``update``). So a reading is never
compared with itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from surgecollapse.policies import validation


class Band(Protocol):
    """Limits below and above which entropy counts as low and high."""

    def bounds(self) -> tuple[float, float] | None:
        """The (low, high) limits for the next reading; ``None`` until there are enough readings."""
        ...

    def words(self, side: str) -> str:
        """What the ``"low"`` or ``"high"`` limit is, in words."""
        ...

    def update(self, value: float) -> None:
        """Learn from a reading."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learned."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        ...


def quantile(values: Sequence[float], q: float) -> float:
    """Empirical quantile with linear interpolation: position q·(n − 1) in the sorted values.

    Args:
        values: at least one finite number, in any order.
        q: in [0, 1].

    >>> quantile([4.0, 1.0, 3.0, 2.0, 5.0], 0.75)
    4.0
    >>> quantile([0.0, 1.0], 0.25)
    0.25
    """
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


class FixedBand:
    """Limits that never move.

    Args:
        low: entropy below it is low, in [0, 1].
        high: entropy above it is high, in [0, 1], not below ``low``.

    Raises:
        ValueError: if the limits are out of range or crossed.

    >>> FixedBand(0.3, 0.7).bounds()
    (0.3, 0.7)
    """

    def __init__(self, low: float, high: float) -> None:
        validation.fraction("low", low)
        validation.fraction("high", high)
        if low > high:
            raise ValueError(f"low must not exceed high, got low={low!r} and high={high!r}")
        self.low, self.high = low, high

    def bounds(self) -> tuple[float, float] | None:
        """The given limits."""
        return self.low, self.high

    def words(self, side: str) -> str:
        """What the limit is."""
        return f"the fixed {side} limit"

    def update(self, value: float) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class QuantileBand:
    """Limits at two quantiles of the last readings.

    Args:
        low: quantile below which entropy is low, in [0, 1].
        high: quantile above which entropy is high, in [0, 1], not below ``low``.
        window: how many readings are remembered.
        least: readings needed before there are limits at all, at most ``window``.

    Raises:
        ValueError: if an option is out of range.

    >>> band = QuantileBand(window=20, least=5)
    >>> for value in (0.1, 0.2, 0.3, 0.4):
    ...     band.update(value)
    >>> band.bounds() is None
    True
    >>> band.update(0.5)
    >>> [round(limit, 6) for limit in band.bounds()]
    [0.18, 0.42]
    """

    def __init__(self, low: float = 0.2, high: float = 0.8, *, window: int = 50, least: int = 10) -> None:
        validation.fraction("low", low)
        validation.fraction("high", high)
        validation.whole("least", least)
        validation.whole("window", window, least=least)
        if low > high:
            raise ValueError(f"low must not exceed high, got low={low!r} and high={high!r}")
        self.low, self.high, self.least = low, high, least
        self._values: deque[float] = deque(maxlen=window)

    def bounds(self) -> tuple[float, float] | None:
        """The two quantiles of the remembered readings."""
        if len(self._values) < self.least:
            return None
        return quantile(self._values, self.low), quantile(self._values, self.high)

    def words(self, side: str) -> str:
        """What the limit is."""
        share = self.low if side == "low" else self.high
        return f"the {share:.0%} quantile of the last {len(self._values)} readings"

    def update(self, value: float) -> None:
        """Remember a reading and forget the oldest."""
        self._values.append(value)

    def state_dict(self) -> dict[str, Any]:
        """The remembered readings, oldest first."""
        return {"values": list(self._values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._values.clear()
        self._values.extend(state["values"])


class TargetBand:
    """A band whose center an integral controller moves until entropy tracks a target.

    Let c be the center, e the entropy and e* the target. Each reading moves c ← clip(c − gain·(e − e*), e* ± reach).
    The limits are c ± width. While entropy stays above its target the band sinks, so that "high" is answered more
    often. While it stays below, the band rises and "low" is. ``reach`` bounds the integral (no wind-up).

    Args:
        target: the entropy to track, in [0, 1].
        width: half the height of the band, > 0.
        gain: share of the error added at each reading, ≥ 0; 0 is a fixed band.
        reach: how far the center may leave the target, ≥ 0.

    Raises:
        ValueError: if an option is out of range.

    >>> band = TargetBand(0.5, width=0.1, gain=0.5, reach=0.3)
    >>> band.update(0.7)
    >>> [round(limit, 6) for limit in band.bounds()]
    [0.3, 0.5]
    """

    def __init__(self, target: float, *, width: float = 0.05, gain: float = 0.05, reach: float = 0.2) -> None:
        validation.fraction("target", target)
        validation.fraction("width", width, zero=False)
        validation.not_negative("gain", gain)
        validation.not_negative("reach", reach)
        self.target, self.width, self.gain, self.reach = target, width, gain, reach
        self._center = target

    def bounds(self) -> tuple[float, float] | None:
        """The center ± ``width``."""
        return self._center - self.width, self._center + self.width

    def words(self, side: str) -> str:
        """What the limit is."""
        return f"the {side} limit of the band steered to entropy {self.target:.3f}"

    def update(self, value: float) -> None:
        """Move the center against the error."""
        center = self._center - self.gain * (value - self.target)
        self._center = min(max(center, self.target - self.reach), self.target + self.reach)

    def state_dict(self) -> dict[str, Any]:
        """Where the center is."""
        return {"center": self._center}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._center = state["center" if "center" in state else "centre"]  # as version 0.1 spelled it


class Hysteresis:
    """Three levels (low, band, high) that are left only once a margin has been crossed back.

    Args:
        margin: how far inside the band entropy must come before "high" or "low" is over, ≥ 0.

    Raises:
        ValueError: if the margin is negative.

    >>> level = Hysteresis(0.1)
    >>> [level.update(value, 0.3, 0.7) for value in (0.5, 0.75, 0.65, 0.55, 0.2)]
    ['band', 'high', 'high', 'band', 'low']
    """

    def __init__(self, margin: float) -> None:
        validation.not_negative("hysteresis", margin)
        self.margin = margin
        self.level = "band"

    def update(self, value: float, low: float, high: float) -> str:
        """Take a reading with its limits and return the level it leaves."""
        if value > high:
            self.level = "high"
        elif value < low:
            self.level = "low"
        elif (self.level == "high" and value < high - self.margin) or (
            self.level == "low" and value > low + self.margin
        ):
            self.level = "band"
        return self.level

    def state_dict(self) -> dict[str, Any]:
        """The present level."""
        return {"level": self.level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.level = state["level"]
