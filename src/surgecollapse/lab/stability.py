"""Stability of training: spikes of the loss, and runs that diverge."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def spike_score(losses: Sequence[float], window: int = 100, deviations: float = 7.0) -> float:
    """Share of the losses that lie more than ``deviations`` standard deviations above the mean of the window before.

    OLMo 2 (arXiv 2501.00656, section 3) counts both directions over windows of 1,000. Here only losses above the mean
    count, as shorter runs fall fast at their start. A loss that is not finite counts. The first ``window`` losses are
    not judged, and the deviation is the unbiased one.

    Args:
        losses: of every step.
        window: at least 2.
        deviations: how far above.

    Returns:
        From 0 to 1; 0 where there are no more than ``window`` losses.

    Raises:
        ValueError: if the window is too short.

    >>> spike_score([1.0, 2.0] * 10 + [9.0, 1.0, 1.5], window=20)  # one of three: the deviation before it is 0.513
    0.3333333333333333
    """
    if window < 2:
        raise ValueError(f"expected a window of at least 2, got {window}")
    judged = range(window, len(losses))
    return sum(_spikes(losses[at - window : at], losses[at], deviations) for at in judged) / max(1, len(judged))


def _spikes(before: Sequence[float], loss: float, deviations: float) -> bool:
    if not math.isfinite(loss):
        return True
    finite = [value for value in before if math.isfinite(value)]
    return len(finite) > 1 and loss > statistics.fmean(finite) + deviations * statistics.stdev(finite)


def diverged(losses: Sequence[float], classes: int, last: int = 50) -> bool:
    """Whether the mean of the last losses is worse than guessing: above ln ``classes``, or not finite.

    Args:
        losses: cross-entropies in nats, of every step.
        classes: number of classes.
        last: how many losses count.

    >>> diverged([0.1, 3.0, 3.0], classes=10, last=2), diverged([3.0, 2.0, 2.0], classes=10, last=2)
    (True, False)
    >>> diverged([1.0, float("nan")], classes=10)
    True
    """
    mean = math.fsum(losses[-last:]) / len(losses[-last:])
    return not mean <= math.log(classes)
