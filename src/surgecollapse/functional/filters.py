"""Linear filters of gradient histories: coefficients, direct computation, frequency response.

A filter has numerator coefficients b and denominator coefficients a. It is a₀ y_t = b₀ x_t + b₁ x_{t−1} + … − a₁
y_{t−1} − …. Both x and y are zero before the first step.

Histories are whole recordings, the first dimension being time. During training :class:`surgecollapse.Grokfast` and
:class:`surgecollapse.GrokfastMA` compute the same step by step; tests hold them against these functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def ema_coefficients(alpha: float) -> tuple[list[float], list[float]]:
    """Coefficients (b, a) of the exponential mean h_t = α h_{t−1} + (1 − α) g_t.

    Args:
        alpha: decay, in [0, 1).

    Returns:
        Numerator and denominator.

    Raises:
        ValueError: if ``alpha`` lies outside [0, 1).

    >>> ema_coefficients(0.75)
    ([0.25], [1.0, -0.75])
    """
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"alpha must lie in [0, 1), got {alpha}")
    return [1.0 - alpha], [1.0, -alpha]


def ma_coefficients(window: int, filter: str = "mean") -> tuple[list[float], list[float]]:
    """Coefficients (b, a) of the mean or the sum of the last ``window`` values.

    Args:
        window: number of values, ≥ 1.
        filter: ``mean`` or ``sum``.

    Returns:
        Numerator and denominator.

    Raises:
        ValueError: for an empty window or an unknown filter.

    >>> ma_coefficients(4)
    ([0.25, 0.25, 0.25, 0.25], [1.0])
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    if filter not in ("mean", "sum"):
        raise ValueError(f"filter must be 'mean' or 'sum', got {filter!r}")
    return [1.0 / window if filter == "mean" else 1.0] * window, [1.0]


def frequency_response(b: Sequence[float], a: Sequence[float], frequencies: Tensor) -> Tensor:
    """Gain and phase of a filter: H(f) = Σ_k b_k e^{−2πifk} / Σ_k a_k e^{−2πifk}.

    With the filtered part added to the gradient, ĝ = g + λ y, the whole has the response 1 + λ H(f).

    Args:
        b: numerator coefficients.
        a: denominator coefficients.
        frequencies: in cycles per step, any shape; ½ is the highest that steps can show.

    Returns:
        Complex128 tensor of that shape.

    Raises:
        ValueError: if there are no coefficients, or ``a`` starts with zero.

    >>> response = frequency_response(*ema_coefficients(0.5), torch.tensor([0.0, 0.5]))
    >>> response.abs().tolist()  # the mean passes whole; alternation is damped to (1 − α)/(1 + α)
    [1.0, 0.33333...]
    """
    _check(b, a)
    # exp(−2πi f k) from the angle reduced to a turn, so that long filters keep their precision.
    turns = frequencies.double()[..., None]

    def polynomial(coefficients: Sequence[float]) -> Tensor:
        angles = (turns * torch.arange(len(coefficients), dtype=torch.float64)).remainder(1.0) * (2 * torch.pi)
        weights = torch.tensor(list(coefficients), dtype=torch.float64)
        return torch.complex((weights * angles.cos()).sum(-1), -(weights * angles.sin()).sum(-1))

    return polynomial(b) / polynomial(a)


def is_stable(a: Sequence[float]) -> bool:
    """Whether a filter's memory fades: all roots of Σ_k a_k z^{−k} lie inside the unit circle.

    Decided without computing roots, by the Schur–Cohn recursion: the polynomial is stepped down a degree at a time.
    Each time its last coefficient must be smaller than its first.

    Args:
        a: denominator coefficients.

    Raises:
        ValueError: if there are none, or the first is zero.

    >>> is_stable([1.0, -0.98]), is_stable([1.0, -1.0]), is_stable([1.0, -1.8, 0.81])  # the last: 0.9 twice
    (True, False, True)
    """
    _check([1.0], a)
    rest = [value / a[0] for value in a]
    while len(rest) > 1:
        last = rest[-1]
        if not abs(last) < 1.0:
            return False
        rest = [(x - last * y) / (1.0 - last * last) for x, y in zip(rest[:-1], rest[:0:-1], strict=True)]
    return True


def largest_pole(a: Sequence[float]) -> float:
    """Largest magnitude of the roots of Σ_k a_k z^{−k}, computed; 0 if there are none.

    >>> largest_pole([1.0, -0.98]), largest_pole([1.0])
    (0.98, 0.0)
    """
    _check([1.0], a)
    order = len(a) - 1
    if order == 0:
        return 0.0
    companion = torch.zeros(order, order, dtype=torch.float64)
    companion[0] = -torch.tensor(list(a[1:]), dtype=torch.float64) / a[0]
    companion[1:].fill_diagonal_(1.0)
    return float(torch.linalg.eigvals(companion).abs().max())


def cutoff_frequency(b: Sequence[float], a: Sequence[float] = (1.0,)) -> float:
    """Where a low-pass filter's power falls to half (−3 dB): the least f with |H(f)|² = ½ |H(0)|².

    Below it a component counts as slow, above as fast.

    Args:
        b: numerator coefficients.
        a: denominator coefficients.

    Returns:
        Frequency in cycles per step, to 1e-9; ½ (the highest that steps can show) if the filter never falls so far.

    Raises:
        ValueError: if the filter passes no constant, or its coefficients are missing.

    >>> exact = math.acos(1 - 0.02**2 / (2 * 0.98)) / (2 * math.pi)  # of the exponential mean, α = .98
    >>> abs(cutoff_frequency(*ema_coefficients(0.98)) - exact) < 1e-8
    True
    """
    if sum(b) == 0:
        raise ValueError(f"a low-pass filter passes constants, this one does not: b={list(b)} sums to zero")

    half = frequency_response(b, a, torch.zeros(())).abs() * 0.5**0.5

    def falls_short(frequencies: Tensor) -> Tensor:
        return torch.le(frequency_response(b, a, frequencies).abs(), half)

    # A filter of n coefficients has features no finer than about 1/n; its poles may be much closer to zero.
    fine = torch.linspace(0.0, 0.5, 16 * (len(b) + len(a)) + 1, dtype=torch.float64)[1:]
    grid = torch.cat([torch.logspace(-9, math.log10(float(fine[0])), 512, dtype=torch.float64)[:-1], fine])
    low = 0.0
    for part in torch.split(grid, 128):  # long filters need not be looked at everywhere at once
        below = torch.nonzero(falls_short(part)).flatten()
        if len(below):
            break
        low = float(part[-1])
    else:
        return 0.5
    first = int(below[0])
    low, high = float(part[first - 1]) if first else low, float(part[first])
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (low, middle) if bool(falls_short(torch.tensor(middle, dtype=torch.float64))) else (middle, high)
    return high


def linear_filter(history: Tensor, b: Sequence[float], a: Sequence[float] = (1.0,)) -> Tensor:
    """Filter a history by its definition, a term at a time, in float64.

    Args:
        history: (steps, ...), real.
        b: numerator coefficients.
        a: denominator coefficients.

    Returns:
        Float64 tensor of the same shape.

    Raises:
        ValueError: if there are no coefficients, or ``a`` starts with zero.

    >>> linear_filter(torch.tensor([1.0, 0.0, 0.0]), *ema_coefficients(0.5)).tolist()
    [0.5, 0.25, 0.125]
    """
    _check(b, a)
    signal = history.double()
    result = torch.zeros_like(signal)
    for step in range(len(signal)):
        for k, weight in enumerate(b[: step + 1]):
            result[step] += weight * signal[step - k]
        for k, weight in enumerate(a[1 : step + 1], start=1):
            result[step] -= weight * result[step - k]
        result[step] /= a[0]
    return result


def grokfast(history: Tensor, alpha: float = 0.98, lamb: float = 2.0, *, start: str = "gradient") -> Tensor:
    """Grokfast-EMA of a whole history: g_t + λ h_t with h_t = α h_{t−1} + (1 − α) g_t, in float64.

    Args:
        history: gradients (steps, ...), real.
        alpha: decay α, in [0, 1).
        lamb: amplification λ.
        start: ``gradient``: h₀ = g₁ (published code); ``zero``: h₀ = 0.

    Returns:
        Float64 tensor of the same shape.

    Raises:
        ValueError: for options out of range.

    Reference: Lee, Kang, Kim, Lee 2024, arXiv 2405.20233.

    >>> grokfast(torch.tensor([1.0, 1.0, 3.0]), alpha=0.5, lamb=1.0).tolist()
    [2.0, 2.0, 5.0]
    """
    if start not in ("gradient", "zero"):
        raise ValueError(f"start must be 'gradient' or 'zero', got {start!r}")
    signal = history.double()
    slow = linear_filter(signal, *ema_coefficients(alpha))
    if start == "gradient" and len(signal):
        fading = alpha ** torch.arange(1, len(signal) + 1, dtype=torch.float64)
        slow += fading.reshape(-1, *[1] * (signal.ndim - 1)) * signal[0]
    return signal + lamb * slow


def grokfast_ma(
    history: Tensor, window: int = 100, lamb: float = 5.0, *, warmup: bool = True, filter: str = "mean"
) -> Tensor:
    """Grokfast-MA of a whole history: g_t + λ · mean (or sum) of the last ``window`` gradients, in float64.

    Args:
        history: gradients (steps, ...), real.
        window: gradients in the mean, the present one included, ≥ 1.
        lamb: amplification λ.
        warmup: act only when the window is full (published code); ``False``: at once, on what is there (paper).
        filter: ``mean`` or ``sum``.

    Returns:
        Float64 tensor of the same shape.

    Raises:
        ValueError: for options out of range.

    Reference: Lee, Kang, Kim, Lee 2024, arXiv 2405.20233.

    >>> grokfast_ma(torch.tensor([1.0, 3.0, 5.0]), window=2, lamb=1.0).tolist()
    [1.0, 5.0, 9.0]
    >>> grokfast_ma(torch.tensor([1.0, 3.0, 5.0]), window=2, lamb=1.0, warmup=False).tolist()
    [2.0, 5.0, 9.0]
    """
    ma_coefficients(window, filter)  # checks both
    signal = history.double()
    result = signal.clone()
    for step in range(len(signal)):
        if warmup and step + 1 < window:
            continue
        seen = signal[max(0, step + 1 - window) : step + 1]
        result[step] += lamb * (seen.mean(0) if filter == "mean" else seen.sum(0))
    return result


def _check(b: Sequence[float], a: Sequence[float]) -> None:
    if not len(b) or not len(a) or a[0] == 0:
        raise ValueError(f"a filter needs coefficients b and a, with a[0] not zero; got b={list(b)}, a={list(a)}")
