"""Means with Student's 95% interval, for any number of seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from surgecollapse.errors import needs

_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and half the width of its 95% interval, ``None`` where there is only one value."""

    mean: float
    half: float | None

    @property
    def low(self) -> float:
        """Lower end; minus infinity where no interval can be given."""
        return -math.inf if self.half is None else self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end; infinity where no interval can be given."""
        return math.inf if self.half is None else self.mean + self.half


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and Student's 95% interval, x̄ ± t·s/√n with t the 97.5% quantile at n − 1 degrees of freedom.

    >>> found = mean_interval([1.0, 2.0, 3.0])
    >>> found.mean, round(found.half, 3)
    (2.0, 2.484)
    """
    if len(values) < 2:
        return Interval(statistics.fmean(values), None)
    quantile = student_quantile((1 + _LEVEL) / 2, len(values) - 1)
    return Interval(statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values)))


@lru_cache(maxsize=256)
def student_quantile(share: float, freedom: int) -> float:
    """The value that Student's t stays under with probability ``share``, by SciPy.

    Args:
        share: in [0.5, 1).
        freedom: degrees of freedom ν, at least 1.

    Raises:
        ValueError: for values out of range.
        ModuleNotFoundError: without SciPy.

    >>> round(student_quantile(0.975, 1), 3), round(student_quantile(0.975, 9), 3)
    (12.706, 2.262)
    """
    if not 0.5 <= share < 1.0 or freedom < 1:
        raise ValueError(f"expected share in [0.5, 1) and freedom of at least 1, got {share} and {freedom}")
    with needs("an interval", "analysis"):
        from scipy.special import stdtrit  # type: ignore[import-untyped]
    return float(stdtrit(freedom, share))
