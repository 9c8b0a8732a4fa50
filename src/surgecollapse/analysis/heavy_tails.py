"""Heavy tails of weights, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from surgecollapse.analysis.colors import BLUE, GREEN, VERMILLION, decimal_ticks, plain
from surgecollapse.analysis.plain_values import PlainValues
from surgecollapse.functional import marchenko_pastur_bulk, power_law, rounding_level
from surgecollapse.functional.rank import as_double

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

MOST_PANELS = 9
"""Layers that are drawn."""


@dataclass(frozen=True)
class LayerTail:
    """Spectrum of one weight: eigenvalues of WᴴW/n, n being its longer side."""

    layer: str
    shape: tuple[int, int]
    eigenvalues: tuple[float, ...]
    """Largest first."""
    alpha: float
    """Exponent of the density of the tail; NaN where there are too few eigenvalues. A result only without ``doubt``."""
    xmin: float
    """Where the tail begins."""
    distance: float
    """Kolmogorov–Smirnov distance of tail and fit."""
    tail: int
    """Eigenvalues in it."""
    edge: float
    """Upper edge of the random bulk (Marchenko–Pastur)."""
    spikes: int
    """Eigenvalues that stand out of the bulk."""
    doubt: str
    """Why ``alpha`` is not determined (:attr:`surgecollapse.functional.PowerLaw.doubt`); empty where it is."""


@dataclass(frozen=True)
class HeavyTails(PlainValues):
    """All layers of a net."""

    layers: tuple[LayerTail, ...]
    left_out: tuple[str, ...] = ()
    """Weights without a spectrum, as they hold values that are not finite."""

    def plot(self) -> Figure:
        """Draw P(λ > x) of each layer on logarithmic axes, with the fitted tail and the edge of a random matrix."""
        from surgecollapse.record.plot import new_figure

        shown = self.layers[:MOST_PANELS]
        columns = min(3, len(shown))
        rows = math.ceil(len(shown) / columns)
        figure: Figure = new_figure(figsize=(3.2 * columns + 0.4, 2.9 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, layer in zip(grid.flat, shown, strict=False):
            values = np.array([v for v in layer.eigenvalues if v > 0])
            above = np.arange(1, len(values) + 1) / len(values)
            axes.loglog(values, above, ".", color=BLUE, markersize=3, label="eigenvalues")
            if not layer.doubt:
                ends = np.array([layer.xmin, values[0]])
                fit = layer.tail / len(values) * (ends / layer.xmin) ** (1 - layer.alpha)
                axes.loglog(ends, fit, "-", color=VERMILLION, label="power law")
            axes.axvline(layer.edge, color=GREEN, linestyle=":", label="edge of a random matrix")
            alpha = "" if layer.doubt else f"α = {layer.alpha:.2f}, "
            axes.set_title(f"{plain(layer.layer)}\n{alpha}spikes: {layer.spikes}", fontsize=9.5)
            axes.set_ylim(0.5 / len(values), 1.5)
            # The smallest eigenvalues say nothing about the tail and would squeeze it.
            low, high = max(values.min(), values.max() * 1e-4) * 0.8, max(values.max(), layer.edge) * 1.25
            axes.set_xlim(low, high)
            decimal_ticks(axes, "x", low, high)
            decimal_ticks(axes, "y", 0.5 / len(values), 1.5)
        for axes in grid[:, 0]:
            axes.set_ylabel("share above x")
        for axes in grid[-1]:
            axes.set_xlabel("eigenvalue x of WᴴW/n")
        found = {
            label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=3)
        return figure


def heavy_tails(weights: Mapping[str, Tensor], *, least: int = 20) -> HeavyTails:
    """Fit a power law to the spectrum of each weight (Martin and Mahoney, arXiv 1810.01075), and a random bulk.

    Args:
        weights: by name, real or complex. Those of fewer than two axes, fewer than ``least`` columns or rows, or only
            zeros are left out. Convolutions are taken as ``(channels, rest)``. Those that are not finite are named in
            ``left_out``.
        least: fewest eigenvalues in a tail.

    Raises:
        ValueError: if no weight is left.

    >>> g = torch.Generator().manual_seed(0)
    >>> found = heavy_tails({"w": torch.randn(60, 90, generator=g), "bias": torch.zeros(60)})
    >>> [(layer.layer, layer.shape, layer.spikes) for layer in found.layers]
    [('w', (60, 90), 0)]
    """
    layers, left_out = [], []
    for name, weight in weights.items():
        if weight.ndim < 2 or min(weight.flatten(1).shape) < least or not bool(weight.any()):
            continue
        if not bool(weight.isfinite().all()):
            left_out.append(name)
            continue
        layers.append(_layer_tail(name, weight.detach().flatten(1), least))
    if not layers:
        broken = f"; not finite: {', '.join(left_out)}" if left_out else ""
        raise ValueError(f"no weight has {least} rows and columns, of which the spectrum could have a tail{broken}")
    return HeavyTails(tuple(layers), tuple(left_out))


def _layer_tail(name: str, matrix: Tensor, least: int) -> LayerTail:
    sigma = torch.linalg.svdvals(as_double(matrix))
    # Directions that the weight has only by rounding are no part of its spectrum.
    eigenvalues = sigma[sigma > rounding_level(matrix)].square() / max(matrix.shape)
    fit, bulk = power_law(eigenvalues, least=least), marchenko_pastur_bulk(matrix)
    return LayerTail(
        layer=name,
        shape=(matrix.shape[0], matrix.shape[1]),
        eigenvalues=tuple(eigenvalues.tolist()),
        **fit._asdict(),
        edge=bulk.edge,
        spikes=bulk.spikes,
        doubt=fit.doubt,
    )
