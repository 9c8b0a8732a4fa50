"""Metrics of predictions on a stream, at every sample or at its end, as river computes them."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor


def rolling_accuracy(predictions: Tensor, y: Tensor, window: int) -> Tensor:
    """Accuracy over the last ``window`` samples, at every sample; over all of them before there are as many.

    That of ``river.utils.Rolling(river.metrics.Accuracy(), window)`` after each sample.

    >>> rolling_accuracy(torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 0, 0]), 2).tolist()
    [1.0, 0.5, 0.5, 1.0]

    Args:
        predictions: ``(n,)``.
        y: labels ``(n,)``.
        window: samples, at least 1.

    Returns:
        ``(n,)`` in float64.

    Raises:
        ValueError: if the window is below 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 sample, got {window}")
    total = torch.cat([torch.zeros(1, dtype=torch.float64), (predictions == y).double().cumsum(0)])
    end = torch.arange(1, len(y) + 1)
    start = (end - window).clamp(min=0)
    return (total[end] - total[start]) / (end - start)


def cohen_kappa(predictions: Tensor, y: Tensor) -> float:
    """Agreement beyond chance: (p − e)/(1 − e), where e = Σ_c P(prediction = c)·P(label = c).

    Cohen 1960, Educational and Psychological Measurement 20(1). That of ``river.metrics.CohenKappa`` at the end of the
    stream; NaN where chance alone agrees always.

    >>> cohen_kappa(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0]))
    0.5
    """
    classes = int(torch.cat([predictions, y]).max()) + 1
    right = float((predictions == y).double().mean())
    predicted, actual = (torch.bincount(labels, minlength=classes).double() / len(y) for labels in (predictions, y))
    chance = float((predicted * actual).sum())
    return (right - chance) / (1 - chance) if chance < 1 else math.nan


def balanced_accuracy(predictions: Tensor, y: Tensor) -> float:
    """Mean over the classes that occur of the share of their samples that is right.

    That of ``river.metrics.BalancedAccuracy``, which counts classes that were only predicted as 0.

    >>> balanced_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
    0.5
    """
    right = predictions == y
    return statistics.fmean(float(right[y == label].double().mean()) for label in set(y.tolist()))


def recovery(predictions: Tensor, y: Tensor, drift: int, window: int, share: float = 0.95) -> int:
    """Samples after a drift until the rolling accuracy is back at a share of what it was; −1 if it never is.

    The window that is compared lies after the drift altogether, so that at least ``window`` samples are needed.

    >>> y = torch.zeros(8, dtype=torch.long)
    >>> recovery(torch.tensor([0, 0, 0, 0, 1, 1, 0, 0]), y, drift=4, window=2)  # wrong on samples 4 and 5
    4

    Args:
        predictions: ``(n,)``.
        y: labels ``(n,)``.
        drift: number of the first sample of the new concept, at least ``window``.
        window: samples of the rolling accuracy.
        share: of the accuracy just before the drift that counts as recovered.
    """
    rolling = rolling_accuracy(predictions, y, window)
    back = (rolling[drift + window - 1 :] >= share * rolling[drift - 1]).nonzero()
    return int(back[0]) + window if len(back) else -1
