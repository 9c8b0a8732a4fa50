"""All runs of a report on common axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from surgecollapse.analysis.colors import plain
from surgecollapse.report.curves import draw, log_if_wide
from surgecollapse.report.energy import draw_sparsity
from surgecollapse.report.rundata import RunData
from surgecollapse.report.style import FAINT, INK, MARKS, RUNS, Picture, canvas, step_axis, styled

MOST_MARKS = 60


def draw_mean_entropy(ax: Axes, runs: Sequence[RunData]) -> None:
    """Draw each run's mean activation entropy, with its interventions marked on the curve."""
    seen: set[str] = set()
    for index, ((color, _), run) in enumerate(zip(RUNS, runs, strict=False)):
        points = [(r.step, r.entropy) for r in run.readings if r.entropy is not None]
        if not points:
            continue
        steps, values = (np.array(v, float) for v in zip(*points, strict=True))
        ax.plot(steps, values, color=color, linestyle="-" if index else "--")
        for kind, (mark, shade) in MARKS.items():
            at = [e.step for e in run.interventions if e.kind == kind]
            if 0 < len(at) <= MOST_MARKS:
                ax.plot(at, np.interp(at, steps, values), linestyle="none", marker=mark, color=shade, markersize=6.5,
                        markeredgecolor=INK, markeredgewidth=0.5,
                        label=None if kind in seen else plain(kind))  # fmt: skip
                seen.add(kind)
    if not ax.lines:
        ax.text(0.5, 0.5, "no readings", transform=ax.transAxes, ha="center", color=FAINT)
    ax.set_ylabel("mean activation entropy\n(0 to 1, normalized)")


@styled
def overview(runs: Sequence[RunData]) -> Picture:
    """Loss, accuracy, mean entropy with interventions, and sparsity of all runs in one picture."""
    figure = canvas(10.4, 7.2)
    grid = figure.subplots(2, 2, sharex=True)
    names = ("loss/train", "loss/validation")
    draw(grid[0, 0], runs, names, legend=False)
    log_if_wide(grid[0, 0], runs, names)
    grid[0, 0].set_title("Loss (dotted: training)")
    grid[0, 0].set_ylabel("loss")
    draw_mean_entropy(grid[0, 1], runs)
    grid[0, 1].set_title("Entropy and interventions")
    classified = draw(grid[1, 0], runs, ("accuracy/train", "accuracy/validation"), legend=False)
    if classified:
        grid[1, 0].set_title("Accuracy (dotted: training)")
        grid[1, 0].set_ylabel("accuracy")
    else:
        draw(grid[1, 0], runs, ("energy/weights",), legend=False)
        grid[1, 0].set_title("Energy of the weights")
        grid[1, 0].set_ylabel("‖W‖²")
    draw_sparsity(grid[1, 1], runs, legend=False)
    grid[1, 1].set_title("Sparsity")
    for ax in grid[1]:
        step_axis(ax)
    for index, ((color, mark), run) in enumerate(zip(RUNS, runs, strict=False)):
        grid[0, 0].plot([], [], color=color, marker=mark, linestyle="-" if index else "--", label=run.label)
    handles, labels = (a + b for a, b in zip(grid[0, 0].get_legend_handles_labels(),
                                             grid[0, 1].get_legend_handles_labels(), strict=True))  # fmt: skip
    figure.legend(handles, labels, loc="outside upper left", ncols=min(7, len(labels)), fontsize=10.5)
    task = f" on {runs[0].task}" if runs[0].task else ""
    title, caption = ("At a glance", "") if len(runs) == 1 else ("Side by side", f"All runs{task} on common axes.")
    return Picture("overview", title, caption, figure, wide=True)
