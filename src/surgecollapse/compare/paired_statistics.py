"""Means with Student's 95% interval, for any number of seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    """The value that Student's t stays under with probability ``share``, by bisection on its distribution function.

    Args:
        share: in [0.5, 1).
        freedom: degrees of freedom ν, at least 1.

    >>> round(student_quantile(0.975, 1), 3), round(student_quantile(0.975, 9), 3)
    (12.706, 2.262)
    """
    if not 0.5 <= share < 1.0 or freedom < 1:
        raise ValueError(f"expected share in [0.5, 1) and freedom of at least 1, got {share} and {freedom}")
    tail = 2 * (1 - share)
    low, high = 0.0, 1.0
    while _outside(high, freedom) > tail:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _outside(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def _outside(t: float, freedom: int) -> float:
    """P(|T| > t) = I_x(ν/2, 1/2) at x = ν/(ν + t²)."""
    return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (modified Lentz).

    DLMF 8.17.22; I_x(a, b) = 1 − I_{1−x}(b, a) where the fraction converges slowly.

    >>> round(incomplete_beta(0.25, 1.0, 1.0), 12), round(incomplete_beta(0.5, 2.0, 2.0), 12)
    (0.25, 0.5)
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _nonzero(1 + term * d, tiny)
            c = _nonzero(1 + term / c, tiny)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def _nonzero(value: float, tiny: float) -> float:
    return tiny if value == 0.0 else value
