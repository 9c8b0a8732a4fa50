"""Histograms of the final weights and of their gradients, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from surgecollapse.analysis.colors import plain
from surgecollapse.report.rundata import Array, RunData
from surgecollapse.report.style import RUNS, Picture, canvas, legend_above, percent, power, shorten, styled
from surgecollapse.report.timeline import chosen

MOST_PANELS = 6
BINS = 60


def matrices(values: Mapping[str, Array]) -> list[str]:
    """Names of the parameters with at least two dimensions and any entry, in the model's order."""
    return [name for name, value in values.items() if value.ndim >= 2 and value.size]


def split_zeros(value: Array) -> tuple[Array, float, int]:
    """Finite non-zero entries, share of exact zeros, and number of non-finite entries.

    >>> split_zeros(np.array([0.0, 0.5, np.nan, 0.0]))
    (array([0.5]), 0.5, 1)
    """
    flat = value.ravel()
    finite = np.isfinite(flat)
    live = flat[finite & (flat != 0)]
    return live, float((flat == 0).mean()) if flat.size else 0.0, int((~finite).sum())


@styled
def histograms(runs: Sequence[RunData], which: str) -> Picture | None:
    """Histograms of ``"weights"`` or ``"gradients"``, one panel for each layer, all runs on common bins.

    Exact zeros are left out of the bars and given as a share over each panel; the count axis is logarithmic.

    Returns:
        The picture, or ``None`` where no run has the values.

    Raises:
        ValueError: if ``which`` is neither.
    """
    if which not in ("weights", "gradients"):
        raise ValueError(f"which must be 'weights' or 'gradients', got {which!r}")
    sets = [run.parameters if which == "weights" else run.gradients for run in runs]
    every = list(dict.fromkeys(name for values in sets for name in matrices(values)))
    names = chosen(every, MOST_PANELS)
    if not names:
        return None
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = canvas(10.4 if columns > 2 else 4.8 * columns + 0.6, 2.9 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(grid, names, strict=False):
        parts = [split_zeros(values[name]) if name in values else None for values in sets]
        live = [part[0] for part in parts if part is not None and part[0].size]
        reach = max((float(np.abs(v).max()) for v in live), default=0.0) or 1.0
        edges = np.linspace(-reach, reach, BINS + 1)
        zeros: list[str] = []
        highest = 0
        for index, ((color, _), part) in enumerate(zip(RUNS, parts, strict=False)):
            if part is None:
                continue
            counts, _ = np.histogram(part[0], bins=edges)
            highest = max(highest, int(counts.max()))
            ax.stairs(counts, edges, color=color, linewidth=1.5, linestyle="-" if index % 2 == 0 else "--",
                      label=runs[index].label)  # fmt: skip
            zeros.append(percent(part[1]) + (f" ({part[2]} not finite)" if part[2] else ""))
        ax.set_title(f"{plain(shorten(name, 28))}\nzeros: {' | '.join(zeros)}", fontsize=9.5, fontweight="normal")
        # The limits first: a panel without a single entry has nothing to scale by.
        ax.set_ylim(0.7, 1.6 * highest if highest else 10.0)
        ax.set_yscale("log", nonpositive="clip")
        if not highest:
            ax.text(0.5, 0.5, "no finite entry but 0", transform=ax.transAxes, ha="center")
        ax.yaxis.set_major_formatter(FuncFormatter(power))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}".replace("-", "−")))
    figure.supxlabel(
        "value of the weight" if which == "weights" else "gradient of the loss by the weight", fontsize=10.5
    )
    figure.supylabel("entries in the bin", fontsize=10.5)
    legend_above(figure, list(grid[: len(names)]))
    some = "" if len(names) == len(every) else f" {len(names)} of {len(every)} layers are shown."
    what = {
        "weights": "Final weights",
        "gradients": "Gradient of the loss of a validation batch by the final weights",
    }
    caption = (
        f"{what[which]}, of parameters with at least two dimensions; counts are logarithmic. Exact zeros are not "
        f"drawn: their share stands over each panel, in the order of the runs ({' | '.join(run.name for run in runs)})."
        + some
    )
    return Picture(which, "Weights" if which == "weights" else "Gradients", caption, figure, wide=True)
