"""Loss and accuracy over training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from surgecollapse.report.rundata import RunData
from surgecollapse.report.style import (
    RUNS,
    Picture,
    canvas,
    legend_above,
    power,
    step_axis,
    styled,
)


def draw(ax: Axes, runs: Sequence[RunData], names: Iterable[str], *, legend: bool = True) -> bool:
    """Draw measurements of all runs on one axis: training thin and dotted, validation thick, one mark per run.

    Returns:
        Whether there was anything to draw.
    """
    drawn = False
    for name in names:
        training = name.endswith("/train")
        for (color, mark), run in zip(RUNS, runs, strict=False):
            if name not in run.measurements:
                continue
            series = run.measurements[name].thinned(400)
            drawn = drawn or bool(len(series.steps))
            ax.plot(
                series.steps,
                series.values,
                color=color,
                linestyle=":" if training else "-",
                linewidth=1.2 if training else 1.9,
                marker=None if training else mark,
                markevery=max(1, len(series.steps) // 8),
                label=f"{run.label}, {name.rsplit('/', 1)[-1]}" if legend else None,
            )
    return drawn


def log_if_wide(ax: Axes, runs: Sequence[RunData], names: Iterable[str]) -> None:
    """Use a logarithmic axis where the values are positive and span more than a factor of twenty."""
    found = [run.measurements[name].thinned(400).values for run in runs for name in names if name in run.measurements]
    values = np.concatenate([np.asarray(v, float) for v in found]) if found else np.array([])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() / values.min() > 20:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(power))
        if values.max() / values.min() > 100:
            ax.yaxis.set_minor_formatter(NullFormatter())
        else:
            ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: power(v) if f"{v:.0e}"[0] in "25" else ""))


@styled
def loss(runs: Sequence[RunData]) -> Picture | None:
    """Training and validation loss of all runs; ``None`` where no run recorded any."""
    figure = canvas(height=3.9)
    ax = figure.add_subplot()
    names = ("loss/train", "loss/validation")
    if not draw(ax, runs, names):
        return None
    log_if_wide(ax, runs, names)
    ax.set_ylabel("loss")
    step_axis(ax)
    legend_above(figure, [ax], columns=2)
    caption = "Loss over training. Dotted and thin: training; solid with marks: validation."
    return Picture("loss", "Loss", caption, figure)


@styled
def accuracy(runs: Sequence[RunData]) -> Picture | None:
    """Training and validation accuracy of all runs; ``None`` where there is none (regression)."""
    figure = canvas(height=3.9)
    ax = figure.add_subplot()
    if not draw(ax, runs, ("accuracy/train", "accuracy/validation")):
        return None
    ax.set_ylabel("accuracy")
    step_axis(ax)
    legend_above(figure, [ax], columns=2)
    caption = "Share of right answers over training. Dotted and thin: training; solid with marks: validation."
    return Picture("accuracy", "Accuracy", caption, figure)


EFFECTS = {
    "grokfast/slow_norm": "norm of the slow gradient",
    "grokfast/ratio": "λ·slow over raw norm",
    "grokfast/cosine": "cosine of slow and raw",
    "orthograd/removed": "share removed by ⊥Grad",
    "clip/factor": "factor of the final clip",
}
"""What gradient transforms did, by series (:class:`~surgecollapse.gradients.effects.Effects`)."""


@styled
def gradients(runs: Sequence[RunData]) -> Picture | None:
    """What Grokfast, ⊥Grad and the final clip did to the gradients; ``None`` where no run had any of them."""
    there = [name for name in EFFECTS if any(name in run.measurements for run in runs)]
    if not there:
        return None
    figure = canvas(2.7 * max(2, len(there)), 3.1)
    axes = [figure.add_subplot(1, len(there), i + 1) for i in range(len(there))]
    for ax, name in zip(axes, there, strict=True):
        draw(ax, runs, [name])
        log_if_wide(ax, runs, [name])
        ax.set_ylabel(EFFECTS[name])
        step_axis(ax)
    for handle in (line for ax in axes for line in ax.get_lines()):
        handle.set_label(str(handle.get_label()).partition(",")[0])
    if len(runs) > 1:
        legend_above(figure, axes)
    caption = "What the gradient transforms did to the gradient, at the readings' cadence."
    return Picture("gradient-transforms", "Grokfast and ⊥Grad", caption, figure, wide=True)
