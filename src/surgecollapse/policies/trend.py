"""Whether entropy rises, falls or stands still."""

from __future__ import annotations

from collections import deque
from typing import Any

from surgecollapse.policies import validation


class Trend:
    """How fast the exponential moving average of entropy changes, stated per ``span`` readings.

    With m_t = decay·m_{t−1} + (1 − decay)·e_t, m_0 = e_0, and n ≤ span the intervals remembered, the change
    is (m_t − m_{t−n})·span/n. Entropy is on a *plateau* where |change| < limit.

    Args:
        limit: |change| per ``span`` readings below which entropy is flat, > 0.
        span: over how many readings the change is taken, ≥ 1.
        decay: of the moving average, in [0, 1).
        least: intervals needed before there is a change; default ``span``.

    Raises:
        ValueError: if an option is out of range.

    >>> trend = Trend(span=2, decay=0.0)
    >>> for value in (0.10, 0.25, 0.50):
    ...     trend.update(value)
    >>> round(trend.change, 6), trend.plateau
    (0.4, False)
    """

    def __init__(self, *, limit: float = 1e-3, span: int = 10, decay: float = 0.9, least: int | None = None) -> None:
        validation.not_negative("plateau", limit)
        validation.whole("span", span)
        validation.fraction("decay", decay, one=False)
        validation.whole("least", span if least is None else least)
        self.limit, self.span, self.decay = limit, span, decay
        self.least = span if least is None else min(least, span)
        self._averages: deque[float] = deque(maxlen=span + 1)

    @property
    def change(self) -> float | None:
        """Change of the average per ``span`` readings; ``None`` until there are ``least`` intervals."""
        intervals = len(self._averages) - 1
        if intervals < self.least:
            return None
        return (self._averages[-1] - self._averages[0]) * self.span / intervals

    @property
    def plateau(self) -> bool:
        """Whether entropy is known to be flat."""
        change = self.change
        return change is not None and abs(change) < self.limit

    @property
    def rising(self) -> bool:
        """Whether entropy is known to rise by the limit or more."""
        change = self.change
        return change is not None and change > 0.0 and not self.plateau

    def words(self) -> str:
        """The change and its limit, in words.

        >>> trend = Trend(span=2, decay=0.0)
        >>> for value in (0.1, 0.2, 0.2004):
        ...     trend.update(value)
        >>> trend.words()
        'entropy changed by 0.1004 over the last 2 readings (limit 0.001)'
        """
        change = self.change
        if change is None:
            return f"entropy has had {len(self._averages)} readings, too few for a trend"
        intervals = len(self._averages) - 1
        if intervals == self.span:
            return f"entropy changed by {change:.4f} over the last {self.span} readings (limit {self.limit:g})"
        return (
            f"entropy changes by {change:.4f} per {self.span} readings, judged by the last {intervals} "
            f"(limit {self.limit:g})"
        )

    def update(self, value: float) -> None:
        """Take a reading into the average."""
        if self._averages:
            value = self.decay * self._averages[-1] + (1.0 - self.decay) * value
        self._averages.append(value)

    def reset(self) -> None:
        """Forget everything: what follows is another phase."""
        self._averages.clear()

    def state_dict(self) -> dict[str, Any]:
        """The remembered averages, oldest first."""
        return {"averages": list(self._averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._averages.clear()
        self._averages.extend(state["averages"])
