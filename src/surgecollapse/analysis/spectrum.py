"""Slow and fast parts of a recorded trajectory, of weights or of gradients, and its power by frequency.

A trajectory is taken apart by the discrete cosine transform (DCT-II, orthonormal). A path does not end where it began.
A Fourier transform would see the jump between its ends as power at all frequencies. The DCT continues it mirrored.
Component k of n points, τ steps apart, has the frequency k/(2nτ) cycles per step; component 0 is the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Spectrum:
    """Power of a trajectory by frequency."""

    frequencies: Array
    """Cycles per step, ascending, the mean (0) left out."""
    power: Array
    """Mean squared distance from the mean that each component accounts for, summed over coordinates."""

    @property
    def total(self) -> float:
        """All of it: by Parseval, the mean of ‖x_t − x̄‖²."""
        return float(self.power.sum())

    def slow_share(self, cutoff: float) -> float:
        """Share of the power at or below a frequency, in [0, 1]; 1 for a trajectory that rests."""
        return float(self.power[self.frequencies <= cutoff].sum() / self.total) if self.total > 0 else 1.0

    def doubt(self, cutoff: float) -> str:
        """Why the share of the power below a frequency is not determined by this record; empty where it is.

        Below the lowest frequency 1/2nτ of n records the share is 0, above the highest 1/2τ it is 1, whatever moved.

        >>> found = spectrum(np.sin(np.arange(10.0)), spacing=10)
        >>> found.doubt(0.001)
        'a record of 100 steps is shorter than half a period of the cut-off, 500 steps'
        >>> found.doubt(0.01), found.doubt(0.1)
        ('', 'records 10 steps apart show nothing faster than the cut-off')
        """
        lowest, records = float(self.frequencies[0]), len(self.frequencies) + 1
        if cutoff < lowest:
            half = f"{0.5 / cutoff:,.0f} steps" if cutoff > 0 else "which is endless"
            return f"a record of {0.5 / lowest:,.0f} steps is shorter than half a period of the cut-off, {half}"
        if cutoff >= records * lowest:
            return f"records {0.5 / (records * lowest):,.0f} steps apart show nothing faster than the cut-off"
        return ""


@dataclass(frozen=True)
class Split:
    """A trajectory as the sum of a slow and a fast part, which are orthogonal to each other over time."""

    slow: Array
    """(points, …), the mean included."""
    fast: Array
    """(points, …)."""


def evenly_spaced(steps: Sequence[int] | Array) -> slice:
    """The longest stretch of evenly spaced records, as transforms need them.

    Runs record at equal distances, and once more at their end.

    Args:
        steps: of the records, ascending.

    Returns:
        The stretch as a slice; empty if there are fewer than two records.

    >>> evenly_spaced([0, 50, 100, 150, 163])
    slice(0, 4, None)
    """
    gaps = np.diff(np.asarray(steps))
    if not len(gaps):
        return slice(0, 0)
    edges = np.flatnonzero(np.diff(gaps)) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(gaps)]])
    longest = int(np.argmax(np.where(gaps[starts] > 0, stops - starts, -1)))
    return slice(int(starts[longest]), int(stops[longest]) + 1)


def spectrum(trajectory: ArrayLike, spacing: float = 1.0) -> Spectrum:
    """Power of a trajectory by frequency, summed over its coordinates.

    P_k = X_k²/n with the orthonormal transform X, so that Σ_{k≥1} P_k = (1/n) Σ_t ‖x_t − x̄‖².

    Args:
        trajectory: (points, …), real and finite, evenly spaced in time.
        spacing: τ, steps between two points.

    Raises:
        ValueError: if there are fewer than two points, or values that are not finite.

    >>> found = spectrum([[1.0], [-1.0], [1.0], [-1.0]])
    >>> round(found.total, 6), float(found.frequencies[found.power.argmax()])
    (1.0, 0.375)
    """
    components = _dct(_checked(trajectory))
    n = len(components)
    power = (components.reshape(n, -1) ** 2).sum(axis=1) / n
    return Spectrum(np.arange(1, n) / (2 * n * spacing), power[1:])


def split(trajectory: ArrayLike, cutoff: float, spacing: float = 1.0) -> Split:
    """Take a trajectory apart at a frequency: x = slow + fast, with Σ_t ⟨slow_t, fast_t⟩ = 0.

    The cut-off of the filters that amplify slow gradients is
    :func:`surgecollapse.functional.cutoff_frequency` of their coefficients.

    Args:
        trajectory: (points, …), real and finite, evenly spaced in time.
        cutoff: highest frequency of the slow part, in cycles per step, ≥ 0; the mean is always slow.
        spacing: τ, steps between two points.

    Raises:
        ValueError: if there are fewer than two points, values that are not finite, or a negative cut-off.

    >>> parts = split([0.0, 2.0, 2.0, 4.0], cutoff=0.0)
    >>> parts.slow.tolist(), parts.fast.tolist()
    ([2.0, 2.0, 2.0, 2.0], [-2.0, 0.0, 0.0, 2.0])
    """
    if not cutoff >= 0:
        raise ValueError(f"cutoff must be a frequency ≥ 0, in cycles per step; got {cutoff}")
    history = _checked(trajectory)
    components = _dct(history)
    n = len(components)
    components[np.arange(n) / (2 * n * spacing) > cutoff] = 0.0
    slow = _inverse_dct(components)
    return Split(slow, history - slow)


def _checked(trajectory: ArrayLike) -> Array:
    if np.iscomplexobj(trajectory):
        raise ValueError("expected a real trajectory, got complex values: give real and imaginary parts as coordinates")
    history = np.asarray(trajectory, dtype=float)
    if history.ndim < 1 or len(history) < 2:
        raise ValueError(f"a trajectory needs two points at least, got the shape {history.shape}")
    if not np.isfinite(history).all():
        raise ValueError("the trajectory holds values that are not finite: take the part before they appear")
    return history


def _dct(history: Array) -> Array:
    """Orthonormal DCT-II along the first axis, by the Fourier transform of the mirrored history."""
    n = len(history)
    turned = np.fft.fft(np.concatenate([history, history[::-1]]), axis=0)[:n]
    phase = np.exp(-0.5j * np.pi * np.arange(n) / n).reshape(-1, *[1] * (history.ndim - 1))
    found = np.real(turned * phase) / 2
    return np.asarray(found * _scale(n, history.ndim))


def _inverse_dct(components: Array) -> Array:
    n = len(components)
    doubled = components / _scale(n, components.ndim) * 2
    phase = np.exp(0.5j * np.pi * np.arange(n) / n).reshape(-1, *[1] * (components.ndim - 1))
    # Of the mirrored history's 2n Fourier components, n+1 say everything, and the last of them is zero.
    half = np.concatenate([doubled * phase, np.zeros((1, *components.shape[1:]))])
    return np.asarray(np.fft.irfft(half, 2 * n, axis=0)[:n])


def _scale(n: int, ndim: int) -> Array:
    scale = np.full(n, np.sqrt(2 / n))
    scale[0] = np.sqrt(1 / n)
    return scale.reshape(-1, *[1] * (ndim - 1))
