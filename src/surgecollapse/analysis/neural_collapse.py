"""Neural collapse through training: features and classifier on their way to the corners of a simplex."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgecollapse.analysis.colors import decimal_ticks
from surgecollapse.analysis.plain_values import PlainValues
from surgecollapse.functional import NeuralCollapse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (
    ("within", "NC1: scatter within classes\nover scatter between them"),
    ("norms", "NC2: spread of the norms\nof the class means"),
    ("angles", "NC2: distance from equal\nand largest angles"),
    ("duality", "NC3: distance of the classifier\nfrom the class means"),
    ("disagreement", "NC4: answers other than\nthe nearest class mean"),
)


@dataclass(frozen=True)
class CollapseHistory(PlainValues):
    """The measures of :class:`surgecollapse.functional.NeuralCollapse` over time, each 0 where collapse is complete."""

    steps: tuple[int, ...]
    within: tuple[float, ...]
    norms: tuple[float, ...]
    angles: tuple[float, ...]
    duality: tuple[float, ...]
    disagreement: tuple[float, ...]

    def plot(self) -> Figure:
        """Draw each measure over the steps; NC1 on a logarithmic axis where it falls far."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(9.6, 5.4), layout="constrained")
        grid = figure.subplots(2, 3, sharex=True)
        for axes, (name, title) in zip(grid.flat, PANELS, strict=False):
            axes.plot(self.steps, getattr(self, name), marker="." if len(self.steps) < 30 else None)
            axes.set_title(title, fontsize=10)
            values = [value for value in getattr(self, name) if math.isfinite(value)] or [0.0]
            if name == "within" and 0 < 10 * min(values) < max(values):
                axes.set_yscale("log")
                decimal_ticks(axes, "y", min(values), max(values))
            elif max(values) > 0:
                axes.set_ylim(0, 1.05 * max(values))
        grid.flat[-1].set_visible(False)
        for axes in (*grid[1, :2], grid[0, 2]):
            axes.set_xlabel("optimizer step")
        grid[0, 2].tick_params(labelbottom=True)
        return figure


def collapse_history(steps: Sequence[int], measures: Sequence[NeuralCollapse]) -> CollapseHistory:
    """Put measures of several times together.

    Args:
        steps: optimizer step of each.
        measures: :func:`surgecollapse.functional.neural_collapse` at these steps.

    Raises:
        ValueError: if there is none, or the numbers differ.
    """
    if len(steps) != len(measures) or not steps:
        raise ValueError(f"expected one measure for each step, got {len(measures)} for {len(steps)}")
    columns = {name: tuple(float(getattr(m, name)) for m in measures) for name in NeuralCollapse._fields}
    return CollapseHistory(tuple(steps), **columns)
