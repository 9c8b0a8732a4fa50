"""Every seed of every method, and what accuracy costs in density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from surgecollapse.analysis.colors import plain
from surgecollapse.compare.results import Panel, Score
from surgecollapse.report.style import BLUE, FAINT, INK, VERMILLION, canvas, save_png, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3
_APART = 0.055
"""Least distance of two labels, as a share of the height of the axes."""
_WIDE = 0.12
"""Points that differ by less in density share a column of labels."""
_NEAR_DENSE = 0.75
"""From this density on, labels stand to the left of their points."""


def write_plots(panels: Sequence[Panel], folder: Path) -> None:
    """Write ``seeds.png`` and ``density.png``.

    Args:
        panels: what is reported; without any, nothing is written.
        folder: where to.
    """
    if panels:
        save_png(seeds(panels), folder / "seeds.png")
        save_png(density(panels), folder / "density.png")


@styled
def seeds(panels: Sequence[Panel]) -> Figure:
    """One panel per net and sparsity: a dot for each seed, the mean and its 95% interval, best method on top."""
    most = max(len(panel.scores) for panel in panels)
    figure, axes = _grid(panels, width=4.7, height=1.1 + 0.29 * most)
    for ax, panel in zip(axes, panels, strict=True):
        ranked = sorted(panel.scores, key=lambda score: score.accuracy.mean)
        for place, score in enumerate(ranked):
            _draw_seeds(ax, place, score, _color(panel, score))
        ax.set_yticks(range(len(ranked)), [plain(score.method.title) for score in ranked])
        for label, score in zip(ax.get_yticklabels(), ranked, strict=True):
            label.set_color(_color(panel, score))
        ax.set_ylim(-0.7, len(ranked) - 0.3)
        ax.set_xlabel("test accuracy, %")
    return figure


def _draw_seeds(ax: Axes, place: int, score: Score, color: str) -> None:
    accuracies = [score.accuracies[seed] for seed in sorted(score.accuracies)]
    # Spread by order, not at random, so that the same rows give the same picture.
    offsets = np.linspace(-0.24, 0.24, len(accuracies)) if len(accuracies) > 1 else np.zeros(1)
    ax.plot(accuracies, place + offsets, linestyle="none", marker="o", markersize=3.4, color=color, alpha=0.45,
            markeredgewidth=0)  # fmt: skip
    found = score.accuracy
    if found.half is not None:
        ax.plot([found.low, found.high], [place, place], color=color, linewidth=2.0, solid_capstyle="butt")
    ax.plot([found.mean], [place], marker="|", markersize=11, markeredgewidth=2.2, color=color)


@styled
def density(panels: Sequence[Panel]) -> Figure:
    """One panel per net and sparsity: mean test accuracy with its interval over the mean density while training."""
    figure, axes = _grid(panels, width=4.7, height=3.7)
    for ax, panel in zip(axes, panels, strict=True):
        for score in panel.scores:
            color, found = _color(panel, score), score.accuracy
            ax.errorbar([score.mean("mean_density")], [found.mean], yerr=None if found.half is None else [found.half],
                        color=color, marker=_mark(panel, score), markersize=5.5, elinewidth=1.2)  # fmt: skip
        ax.set_xlim(0, 1.04)
        ax.margins(y=0.1)
        _label(ax, panel)
        ax.set_xlabel("mean density while training")
        ax.set_ylabel("test accuracy, %")
    return figure


def _label(ax: Axes, panel: Panel) -> None:
    """Name every point beside it, those of one density one under the other."""
    low, high = ax.get_ylim()
    for column in columns(panel.scores):
        column.sort(key=lambda score: score.accuracy.mean)
        places = spread([(score.accuracy.mean - low) / (high - low) for score in column], _APART)
        left = max(score.mean("mean_density") for score in column) < _NEAR_DENSE
        for score, place in zip(column, places, strict=True):
            x, y = score.mean("mean_density"), score.accuracy.mean
            edge = max(score.mean("mean_density") for score in column) if left else x
            ax.annotate(
                plain(score.method.name), (x, y), (edge + (0.05 if left else -0.05), low + place * (high - low)),
                ha="left" if left else "right", va="center", fontsize=8.5, color=_color(panel, score),
                arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
            )  # fmt: skip


def columns(scores: Sequence[Score]) -> list[list[Score]]:
    """Scores of about the same density together, in ascending order."""
    found: list[list[Score]] = []
    for score in sorted(scores, key=lambda score: score.mean("mean_density")):
        if found and score.mean("mean_density") - found[-1][0].mean("mean_density") < _WIDE:
            found[-1].append(score)
        else:
            found.append([score])
    return found


def spread(values: Sequence[float], apart: float) -> list[float]:
    """Move ascending values as little as possible so that neighbors are at least ``apart``.

    Groups that touch keep their common mean (isotonic regression by pooling adjacent violators).

    >>> [round(value, 9) for value in spread([0.0, 0.5, 0.5], 0.25)]
    [0.0, 0.375, 0.625]
    """
    groups: list[list[float]] = []
    for place, value in enumerate(values):
        groups.append([value - place * apart])
        while len(groups) > 1 and _mean(groups[-2]) > _mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    flat = [_mean(group) for group in groups for _ in group]
    return [value + place * apart for place, value in enumerate(flat)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _grid(panels: Sequence[Panel], *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """One titled axes per panel, at most three side by side, in rows of about the same length."""
    down = math.ceil(len(panels) / _ACROSS)
    across = math.ceil(len(panels) / down)
    figure = canvas(width * across, height * down)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, panel in zip(axes, panels, strict=False):
        ax.set_title(f"{plain(panel.entry.title)}\n{100 * panel.sparsity:g}% sparse", fontsize=10)
    return figure, axes[: len(panels)]


def _color(panel: Panel, score: Score) -> str:
    if score.method.name == panel.reference:
        return VERMILLION
    return BLUE if score.method.sparse else INK


def _mark(panel: Panel, score: Score) -> str:
    if score.method.name == panel.reference:
        return "D"
    return "o" if score.method.sparse else "s"
