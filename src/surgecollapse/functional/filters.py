"""Linear filters of gradient histories: coefficients, direct computation, frequency response.

A filter has numerator coefficients b and denominator coefficients a:
a₀ y_t = b₀ x_t + b₁ x_{t−1} + … − a₁ y_{t−1} − a₂ y_{t−2} − …, with x and y zero before the first step.

Histories are whole recordings, the first dimension being time. During training :class:`surgecollapse.Grokfast` and
:class:`surgecollapse.GrokfastMA` compute the same step by step; tests hold them against these functions.
"""

from __future__ import annotations

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
