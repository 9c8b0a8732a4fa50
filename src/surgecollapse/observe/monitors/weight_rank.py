"""Rank of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from zlib import crc32

import torch
from torch import Tensor

from surgecollapse.functional import effective_rank, gram_spectra, numerical_rank, stable_rank
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series


@monitor("weight_rank")
class WeightRank:
    """``rank/effective``, ``rank/stable`` and ``rank/numerical`` of each weight matrix.

    With σ the singular values, σ_1 the largest, and H the Shannon entropy::

        rank/effective  exp H(σ/Σσ)
        rank/stable     Σσ²/σ_1²
        rank/numerical  #{σ > ε·k·σ_1}, k the number of σ

    Weights with more than two dimensions are taken as (first, all others). Of a matrix that is larger than ``short`` ×
    ``long`` a block of that size is measured. Its rows and columns are drawn at random once and for all. A rank well
    below ``short`` is that of the whole. A larger one is a lower bound to compare over time. Weights change slowly and
    decompositions are dear: only every fourth event.

    Args:
        short: most rows or columns along the shorter side.
        long: most along the longer side.

    When to use:
        To see whether training or pruning lowers the rank of the weights.

    Cost:
        One decomposition of a Gram matrix, at most 128 × 128, for each weight matrix at every fourth event. The
        layers take turns if the budget demands it.

    Deviations:
        Large matrices are measured on one random block.

    Source:
        Roy and Vetterli 2007 (effective rank); Rudelson and Vershynin 2007, arXiv math/0503442 (stable rank).
    """

    name = "weight_rank"
    needs = ()
    rotates = True
    period = 4

    def __init__(self, short: int = 128, long: int = 1024) -> None:
        if not 1 <= short <= long:
            raise ValueError(f"expected 1 <= short <= long, got short={short}, long={long}")
        self._short, self._long = short, long
        self._chosen: dict[tuple[str, int, int], Tensor] = {}

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Three ranks a weight; one decomposition for all."""
        blocks = {name: self._block(name, w.flatten(1)) for name, w in context.weights.items() if w.ndim >= 2}
        if not blocks:
            return {}
        sigma = gram_spectra(list(blocks.values()))
        tolerance = sigma.new_tensor([[max(1e-7, torch.finfo(w.dtype).eps * max(w.shape))] for w in blocks.values()])
        forms = {
            "effective": effective_rank(sigma),
            "stable": stable_rank(sigma),
            "numerical": numerical_rank(sigma, tolerance),
        }
        return {f"rank/{form}": dict(zip(blocks, ranks.unbind(), strict=True)) for form, ranks in forms.items()}

    def _block(self, name: str, matrix: Tensor) -> Tensor:
        most = (self._short, self._long) if matrix.shape[0] <= matrix.shape[1] else (self._long, self._short)
        for axis, limit in enumerate(most):
            if matrix.shape[axis] > limit:
                drawn = self._draw(name, axis, matrix.shape[axis], limit)
                matrix = matrix.index_select(axis, drawn.to(matrix.device, non_blocking=True))
        return matrix

    def _draw(self, name: str, axis: int, size: int, count: int) -> Tensor:
        key = (name, axis, size)
        if key not in self._chosen:
            generator = torch.Generator().manual_seed(crc32(f"{name}/{axis}".encode()))
            self._chosen[key] = torch.randperm(size, generator=generator)[:count].sort().values
        return self._chosen[key]
