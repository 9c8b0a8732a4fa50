"""Intrinsic dimension of representations, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgecollapse.analysis.colors import decimal_ticks, plain
from surgecollapse.analysis.plain_values import PlainValues
from surgecollapse.functional import levina_bickel, sample_participation_ratio, two_nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


@dataclass(frozen=True)
class IntrinsicDimensions(PlainValues):
    """Three answers to how many dimensions a cloud of representations has, for each layer."""

    layers: tuple[str, ...]
    units: tuple[int, ...]
    two_nn: tuple[float, ...]
    """By the two nearest neighbors: of the curved surface that the points lie on."""
    maximum_likelihood: tuple[float, ...]
    """By ten neighbors."""
    participation_ratio: tuple[float, ...]
    """Of the covariance, debiased: of the flat space that they fill."""

    def plot(self) -> Figure:
        """Draw all three through the layers."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(max(6.6, 1.2 + 0.8 * len(self.layers)), 3.8), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(self.layers))
        axes.plot(places, self.two_nn, "o-", label="TwoNN")
        axes.plot(places, self.maximum_likelihood, "s--", label="maximum likelihood")
        axes.plot(places, self.participation_ratio, "^-.", label="participation ratio")
        axes.plot(places, self.units, ":", color="gray", label="units")
        axes.set_yscale("log")
        known = [v for row in (self.two_nn, self.maximum_likelihood, self.participation_ratio) for v in row if v > 0]
        decimal_ticks(axes, "y", min(known, default=1), max(self.units))
        axes.set_xticks(places, [plain(name) for name in self.layers], rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlabel("layer")
        axes.set_ylabel("dimensions")
        figure.legend(loc="outside upper left", ncols=4)
        return figure


def intrinsic_dimensions(layers: Mapping[str, Tensor]) -> IntrinsicDimensions:
    """Measure :func:`surgecollapse.functional.two_nn`, ``levina_bickel`` and ``sample_participation_ratio``.

    Nearest neighbors find too few dimensions from few samples, the more so the more there are: compare layers at the
    same samples alone.

    Args:
        layers: representations ``(n, units)``; several hundred samples.

    Raises:
        ValueError: without layers.

    >>> import torch
    >>> flat = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    >>> found = intrinsic_dimensions({"plane": flat @ torch.ones(2, 7).triu()})
    >>> round(found.two_nn[0]), round(found.maximum_likelihood[0]), found.units
    (2, 2, (7,))
    """
    if not layers:
        raise ValueError("expected representations of one layer at least, got none")
    return IntrinsicDimensions(
        tuple(layers),
        tuple(x.shape[1] for x in layers.values()),
        two_nn=tuple(two_nn(x).item() for x in layers.values()),
        maximum_likelihood=tuple(levina_bickel(x).item() for x in layers.values()),
        participation_ratio=tuple(sample_participation_ratio(x).item() for x in layers.values()),
    )
