"""Spikes in the spectrum of shuffled weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING
from zlib import crc32

import torch
from torch import Tensor

from surgecollapse.functional.rank import gram_spectra
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series

QUANTILE = 2.0234
"""The 99% quantile of the Tracy–Widom law of real matrices (β = 1)."""


@monitor("correlation_traps")
class CorrelationTraps:
    """``trap/count`` and ``trap/excess`` of each weight matrix: eigenvalues that shuffling its entries cannot explain.

    The entries of W are permuted at random, which destroys every correlation between them. Suppose they had independent
    equal tails. Then the largest eigenvalue of WᵀW would lie at the edge of Marchenko and Pastur, with the spread of
    Tracy and Widom. For n × m entries of variance σ² (Johnstone 2001)::

        edge = σ²(√(n−1) + √m)²,  spread = σ²(√(n−1) + √m)(1/√(n−1) + 1/√m)^(1/3)

    The count is of eigenvalues beyond the 99% quantile, edge + 2.02·spread; the excess is the largest eigenvalue over
    that. A few entries that are far too large, or a mean far from zero, make a trap. Of a matrix that is larger than
    ``most`` × ``most`` a block of that size is measured.

    Args:
        most: rows and columns.

    When to use:
        Training loss stays low while validation accuracy falls again, long after generalization. The authors find traps
        there, and none before. Not among the default monitors: name it.

    Cost:
        One decomposition of a Gram matrix, at most 256 × 256, for each weight matrix at every fourth event. The layers
        take turns if the budget demands it.

    Deviations:
        The authors' tool fits σ² to the bulk of the shuffled spectrum; here it is the mean square of the entries.

    Source:
        Prakash and Martin 2026, arXiv 2605.12394 and 2602.02859; Johnstone 2001, Annals of Statistics 29(2).
    """

    name = "correlation_traps"
    needs = ()
    rotates = True
    period = 4

    def __init__(self, most: int = 256) -> None:
        if most < 2:
            raise ValueError(f"most must be at least 2, got {most}")
        self._most = most

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Two numbers a weight matrix; none for vectors and single rows."""
        counts: dict[str | None, Tensor] = {}
        excess: dict[str | None, Tensor] = {}
        for name, weight in context.weights.items():
            if weight.ndim >= 2 and min(weight.flatten(1).shape) > 1:
                counts[name], excess[name] = self._traps(name, weight.detach().flatten(1))
        return {"trap/count": counts, "trap/excess": excess} if counts else {}

    def _traps(self, name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
        block = matrix[: self._most, : self._most].double()
        order = torch.randperm(block.numel(), generator=torch.Generator().manual_seed(crc32(name.encode())))
        shuffled = block.reshape(-1)[order.to(block.device, non_blocking=True)].reshape(block.shape)
        values = gram_spectra([shuffled])[0].square()
        n, m = max(block.shape), min(block.shape)
        limit = shuffled.square().mean() * trap_limit(n, m)
        count = (values > limit).sum().to(values.dtype)
        return torch.where(limit.isfinite(), count, torch.nan), values[0] / limit


def trap_limit(n: int, m: int) -> float:
    """Where the largest eigenvalue of XᵀX lies below in 99 of 100 draws, for n × m standard normal entries.

    >>> 200**2 * 4 < trap_limit(40_000, 40_000) < 200**2 * 4 * 1.01
    True
    """
    root = math.sqrt(n - 1) + math.sqrt(m)
    spread: float = root * (1 / math.sqrt(n - 1) + 1 / math.sqrt(m)) ** (1 / 3)
    return root**2 + QUANTILE * spread
