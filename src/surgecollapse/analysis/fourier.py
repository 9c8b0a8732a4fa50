"""Fourier components of the table by which tokens enter a net, through training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from surgecollapse.analysis.plain_values import PlainValues
from surgecollapse.functional import gini, inverse_participation_ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FourierHistory(PlainValues):
    """Which frequencies the table carries, and how concentrated they are, at each time."""

    steps: tuple[int, ...]
    frequencies: tuple[int, ...]
    """Cycles per modulus, 1 … ⌊p/2⌋."""
    power: tuple[tuple[float, ...], ...]
    """``power[t][k]``: share of frequency k at time t; each row sums to 1."""
    ipr: tuple[float, ...]
    """Inverse participation ratio of the norms of the components: 1/⌊p/2⌋ for noise of equal power, 1 for one wave."""
    gini: tuple[float, ...]
    """Gini coefficient of the same norms."""

    def plot(self) -> Figure:
        """Draw the spectrum over time as a map, and the two measures of concentration under it."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(7.6, 5.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        edges = [
            self.steps[0],
            *((a + b) / 2 for a, b in zip(self.steps, self.steps[1:], strict=False)),
            self.steps[-1],
        ]
        marks = [0.5, *(k + 0.5 for k in self.frequencies)]
        if len(self.steps) > 1:
            image = upper.pcolormesh(edges, marks, np.array(self.power).T, cmap="cividis", vmin=0.0, rasterized=True)
            figure.colorbar(image, ax=upper, label="share of power")
        upper.grid(visible=False)
        upper.set_ylabel("frequency (cycles per modulus)")
        lower.plot(self.steps, self.gini, label="Gini coefficient")
        lower.plot(self.steps, self.ipr, "--", label="inverse participation ratio")
        lower.set_ylim(0, 1)
        lower.set_xlabel("optimizer step")
        lower.set_ylabel("concentration")
        lower.legend(loc="upper left")
        return figure


def token_spectrum(table: ArrayLike) -> NDArray[Any]:
    r"""Share of the power of each frequency k = 1 … ⌊p/2⌋ of a table ``(p, d)`` over its token axis.

    P_k = Σ_j |Σ_t W_{tj} exp(−2πi kt/p)|², over Σ_k P_k; the constant (k = 0) is left out. Nets that have
    learned modular addition concentrate on few k (Nanda et al., arXiv 2301.05217, section 4).

    >>> t = np.arange(8)
    >>> token_spectrum(np.cos(2 * np.pi * 3 * t / 8)[:, None]).round(6).tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    found = (np.abs(np.fft.rfft(np.asarray(table, float), axis=0)) ** 2).sum(axis=1)[1:]
    return np.asarray(found / (found.sum() or 1.0))


def fourier_history(steps: Sequence[int], tables: Sequence[ArrayLike]) -> FourierHistory:
    """Follow the spectrum of a table of tokens, its inverse participation ratio and its Gini coefficient.

    Both are of the norms √P_k, as in Nanda et al. (arXiv 2301.05217) and Doshi et al. (arXiv 2310.13061).

    Args:
        steps: optimizer step of each table.
        tables: ``(p, d)``, the tokens in their cyclic order.

    Raises:
        ValueError: if there is none, or the numbers differ.

    >>> wave = np.cos(2 * np.pi * 2 * np.arange(9) / 9)[:, None]
    >>> found = fourier_history([0], [wave])
    >>> round(found.ipr[0], 6), round(found.gini[0], 6)
    (1.0, 0.75)
    """
    if len(steps) != len(tables) or not steps:
        raise ValueError(f"expected one table for each step, got {len(tables)} for {len(steps)}")
    power = np.stack([token_spectrum(table) for table in tables])
    norms = torch.from_numpy(power).sqrt()
    return FourierHistory(
        tuple(steps),
        tuple(range(1, power.shape[1] + 1)),
        tuple(tuple(row) for row in power.tolist()),
        ipr=tuple(inverse_participation_ratio(norms).tolist()),
        gini=tuple(gini(norms).tolist()),
    )
