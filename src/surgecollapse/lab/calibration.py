"""Calibration: whether a network is right as often as it is sure."""

from __future__ import annotations

import torch
from torch import Tensor


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: Σ_b n_b/n · |accuracy_b − confidence_b|.

    After Guo et al. (2017, arXiv 1706.04599). Bins are of equal width over the highest probability, closed above.

    Args:
        logits: ``(n, K)``.
        labels: integer classes ``(n,)``.
        bins: their number, at least 1.

    Raises:
        ValueError: without rows or bins.

    >>> calibration_error(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    0.5
    """
    if bins < 1 or not len(logits):
        raise ValueError(f"expected at least one row and one bin, got {len(logits)} rows and {bins} bins")
    confidence, predicted = logits.double().softmax(1).max(1)
    gap = (predicted == labels).double() - confidence
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    return float(torch.zeros(bins, dtype=gap.dtype).index_add(0, place, gap).abs().sum() / len(gap))
