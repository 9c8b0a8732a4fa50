"""Heavy tails of weights, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgecollapse.analysis.colors import BLUE, GREEN, VERMILLION, decimal_ticks
from surgecollapse.functional import marchenko_pastur_bulk, power_law

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

MOST_PANELS = 9
"""Layers that are drawn."""


@dataclass(frozen=True)
class LayerTail:
    """Spectrum of one weight: eigenvalues of WᵀW/n, n being its longer side."""

    layer: str
    shape: tuple[int, int]
    eigenvalues: tuple[float, ...]
    """Largest first."""
    alpha: float
    """Exponent of the density of the tail; NaN where there are too few eigenvalues."""
    xmin: float
    """Where the tail begins."""
    distance: float
    """Kolmogorov–Smirnov distance of tail and fit; a true power law has about 1/√tail or less."""
    tail: int
    """Eigenvalues in it."""
    edge: float
    """Upper edge of the random bulk (Marchenko–Pastur)."""
    spikes: int
    """Eigenvalues that stand out of the bulk."""


@dataclass(frozen=True)
class HeavyTails:
    """All layers of a net."""

    layers: tuple[LayerTail, ...]

    def plot(self) -> Figure:
        """Draw P(λ > x) of each layer on logarithmic axes, with the fitted tail and the edge of a random matrix."""
        from matplotlib.figure import Figure

        shown = self.layers[:MOST_PANELS]
        columns = min(3, len(shown))
        rows = math.ceil(len(shown) / columns)
        figure = Figure(figsize=(3.2 * columns + 0.4, 2.9 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, layer in zip(grid.flat, shown, strict=False):
            values = np.array([v for v in layer.eigenvalues if v > 0])
            above = np.arange(1, len(values) + 1) / len(values)
            axes.loglog(values, above, ".", color=BLUE, markersize=3, label="eigenvalues")
            if math.isfinite(layer.alpha):
                ends = np.array([layer.xmin, values[0]])
                fit = layer.tail / len(values) * (ends / layer.xmin) ** (1 - layer.alpha)
                axes.loglog(ends, fit, "-", color=VERMILLION, label="power law")
            axes.axvline(layer.edge, color=GREEN, linestyle=":", label="edge of a random matrix")
            alpha = f"α = {layer.alpha:.2f}, " if math.isfinite(layer.alpha) else ""
            axes.set_title(f"{layer.layer}\n{alpha}spikes: {layer.spikes}", fontsize=9.5)
            axes.set_ylim(0.5 / len(values), 1.5)
            # The smallest eigenvalues say nothing about the tail and would squeeze it.
            low, high = max(values.min(), values.max() * 1e-4) * 0.8, max(values.max(), layer.edge) * 1.25
            axes.set_xlim(low, high)
            decimal_ticks(axes, "x", low, high)
            decimal_ticks(axes, "y", 0.5 / len(values), 1.5)
        for axes in grid[:, 0]:
            axes.set_ylabel("share above x")
        for axes in grid[-1]:
            axes.set_xlabel("eigenvalue x of WᵀW/n")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def heavy_tails(weights: Mapping[str, Tensor], *, least: int = 20) -> HeavyTails:
    """Fit a power law to the spectrum of each weight (Martin and Mahoney, arXiv 1810.01075), and a random bulk.

    Args:
        weights: by name; those of fewer than two axes, fewer than ``least`` columns or rows, or only zeros are left
            out, convolutions are taken as ``(channels, rest)``.
        least: fewest eigenvalues in a tail.

    Raises:
        ValueError: if no weight is left.

    >>> g = torch.Generator().manual_seed(0)
    >>> found = heavy_tails({"w": torch.randn(60, 90, generator=g), "bias": torch.zeros(60)})
    >>> [(layer.layer, layer.shape, layer.spikes) for layer in found.layers]
    [('w', (60, 90), 0)]
    """
    layers = []
    for name, weight in weights.items():
        if weight.ndim < 2 or min(weight.flatten(1).shape) < least or not bool(weight.any()):
            continue
        matrix = weight.detach().flatten(1).double()
        eigenvalues = torch.linalg.svdvals(matrix).square() / max(matrix.shape)
        # Directions that the weight does not have are zeros up to rounding, and no part of its spectrum.
        eigenvalues = eigenvalues[eigenvalues > eigenvalues[0] * 1e-12]
        fit, bulk = power_law(eigenvalues, least=least), marchenko_pastur_bulk(matrix)
        layers.append(
            LayerTail(
                layer=name,
                shape=(matrix.shape[0], matrix.shape[1]),
                eigenvalues=tuple(eigenvalues.tolist()),
                **fit._asdict(),
                edge=bulk.edge,
                spikes=bulk.spikes,
            )
        )
    if not layers:
        raise ValueError(f"no weight has {least} rows and columns, of which the spectrum could have a tail")
    return HeavyTails(tuple(layers))
