"""Universality of learning: do the curves of different nets on one task become one curve when they are rescaled?

Loss curves of nets of many sizes fall onto one curve once each is divided by its final time and loss (Qiu et al. 2025,
arXiv 2507.02119). Here nets may differ in anything, and may rise late, as in grokking. So time is measured by when half
of the way is done:

    level  u(t) = (y(t) − y₀)/(y∞ − y₀),      time  s = t/t½ with u(t½) = ½ for the first time,

y₀ being the first value of the curve and y∞ the median of its last tenth. One number of each axis is taken from each
curve, and no exponent is fitted: what still differs is the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgecollapse.analysis.colors import decimal_ticks, plain
from surgecollapse.analysis.plain_values import PlainValues

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
WINDOW = 8.0
"""Curves are compared at rescaled times from 1/8 to 8."""
GRID = 200


@dataclass(frozen=True)
class LearningCurve:
    """One curve, as it is and rescaled."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    start: float
    """y₀."""
    end: float
    """y∞."""
    half: float
    """t½, in steps."""

    @property
    def time(self) -> tuple[float, ...]:
        """Rescaled: t/t½."""
        return tuple(t / self.half for t in self.steps)

    @property
    def level(self) -> tuple[float, ...]:
        """Rescaled: 0 at the start and 1 at the end."""
        return tuple((y - self.start) / (self.end - self.start) for y in self.values)


@dataclass(frozen=True)
class Universality(PlainValues):
    """How far the rescaled curves are from being one."""

    curves: tuple[LearningCurve, ...]
    distances: tuple[tuple[float, ...], ...]
    """Of each pair, after rescaling: mean of |u_i − u_j| over ln s; NaN where the curves share no time."""
    before: float
    """Mean distance of a pair with its levels rescaled and one t½ for both."""
    after: float
    """Mean distance of a pair after rescaling both."""
    left_out: tuple[str, ...]
    """Curves that learned nothing, or had no time to show it."""

    def plot(self) -> Figure:
        """Draw the curves as they are and on top of each other."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(8.6, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for curve in self.curves:
            left.plot(curve.steps, curve.values, label=plain(curve.name))
            right.plot(curve.time, curve.level)
        left.set_xscale("log")
        left.set_xlabel("optimizer step t")
        left.set_ylabel("y")
        steps = [step for curve in self.curves for step in curve.steps]
        decimal_ticks(left, "x", min(steps), max(steps))
        left.set_title(f"as recorded (distance {self.before:.3f})")
        right.set_xscale("log")
        right.set_xlim(1 / WINDOW, WINDOW)
        decimal_ticks(right, "x", 1 / WINDOW, WINDOW)
        right.set_ylim(-0.15, 1.25)
        right.set_xlabel("t / t½")
        right.set_ylabel("(y − y₀) / (y∞ − y₀)")
        right.set_title(f"rescaled (distance {self.after:.3f})")
        figure.legend(loc="outside lower center", ncols=min(4, len(self.curves)))
        return figure


def universality(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Universality:
    """Rescale learning curves and measure how well they collapse.

    The distance of two curves is ∫|u_i − u_j| d ln s over the times in [1/8, 8] that both have. It is divided by the
    length of that interval. It is 0 for one curve, and for two sharp rises the share of that window by which they are
    apart. Before rescaling time it is the same, with the geometric mean of both t½ in the place of each one's own.

    Args:
        curves: steps and values of each net, by name. Steps must ascend; the first above 0 counts.

    Returns:
        The rescaled curves and their distances.

    Raises:
        ValueError: if fewer than two curves can be rescaled, or steps and values differ in number.

    >>> t = np.geomspace(1, 1000, 200)
    >>> found = universality({"fast": (t, t / (t + 9)), "slow": (3 * t, 5 * t / (t + 9) + 2)})
    >>> round(found.curves[1].half / found.curves[0].half, 1), found.after < 0.01 < found.before
    (3.0, True)
    """
    rescaled = [rescale(name, *curve) for name, curve in curves.items()]
    able = tuple(curve for curve in rescaled if curve is not None)
    left_out = tuple(name for name, curve in zip(curves, rescaled, strict=True) if curve is None)
    if len(able) < 2:
        raise ValueError(
            f"universality compares two curves at least that learn something, got {len(able)}"
            + (f" (left out: {', '.join(left_out)})" if left_out else "")
        )
    pairs = list(combinations(range(len(able)), 2))
    logs = [np.log(curve.steps) for curve in able]
    levels = [np.array(curve.level) for curve in able]
    halves = [float(np.log(curve.half)) for curve in able]
    table = np.zeros((len(able), len(able)))
    before = []
    for i, j in pairs:
        middle = (halves[i] + halves[j]) / 2
        before.append(_distance((logs[i] - middle, levels[i]), (logs[j] - middle, levels[j])))
        own = _distance((logs[i] - halves[i], levels[i]), (logs[j] - halves[j], levels[j]))
        table[i, j] = table[j, i] = own
    after = [float(table[i, j]) for i, j in pairs]
    return Universality(
        curves=able,
        distances=tuple(tuple(row) for row in table.tolist()),
        before=_mean(before),
        after=_mean(after),
        left_out=left_out,
    )


def rescale(name: str, steps: ArrayLike, values: ArrayLike) -> LearningCurve | None:
    """Find y₀, y∞ and t½ of one curve; ``None`` if it has fewer than 5 finite points, never moves, or starts halfway.

    Args:
        name: of the curve.
        steps: ascending; points at step 0 or before have no logarithm and are only used for y₀.
        values: of any sign and direction.

    Raises:
        ValueError: if steps and values differ in number.
    """
    t, y = np.asarray(steps, float).ravel(), np.asarray(values, float).ravel()
    if len(t) != len(y):
        raise ValueError(f"{name}: expected a value for each step, got {len(y)} for {len(t)}")
    t, y = t[np.isfinite(y)], y[np.isfinite(y)]
    if len(y) < 5:
        return None
    start, end = y[0], float(np.median(y[-max(1, len(y) // 10) :]))
    spread = float(np.abs(y).max())
    t, y = t[t > 0], y[t > 0]
    if abs(end - start) <= 1e-9 * spread or len(y) < 4:
        return None
    level = (y - start) / (end - start)
    first = int(np.argmax(level >= 0.5))
    if first == 0:
        return None  # no point before it: the record begins too late to say when
    share = (0.5 - level[first - 1]) / (level[first] - level[first - 1])
    half = float(np.exp(np.log(t[first - 1]) + share * np.log(t[first] / t[first - 1])))
    return LearningCurve(name, tuple(t.tolist()), tuple(y.tolist()), float(start), end, half)


def _distance(first: tuple[Array, Array], second: tuple[Array, Array]) -> float:
    """Mean of |u_i − u_j| over the logarithmic times in the window that both curves have."""
    low = max(-np.log(WINDOW), first[0][0], second[0][0])
    high = min(np.log(WINDOW), first[0][-1], second[0][-1])
    if not high > low:
        return float("nan")
    grid = np.linspace(low, high, GRID)
    return float(np.abs(np.interp(grid, *first) - np.interp(grid, *second)).mean())


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
