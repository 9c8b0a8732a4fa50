"""Sparsity and energy of the weights over training, and the ledger of what each intervention did to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from surgecollapse.analysis.colors import plain
from surgecollapse.events import Intervention
from surgecollapse.report.curves import draw, log_if_wide
from surgecollapse.report.rundata import RunData
from surgecollapse.report.style import (
    FAINT,
    GREEN,
    INK,
    MARKS,
    RUNS,
    VERMILLION,
    Picture,
    canvas,
    legend_above,
    step_axis,
    styled,
)


def path_of_sparsity(run: RunData) -> tuple[list[int], list[float]]:
    """Steps and sparsities (share of prunable weights) as a staircase, from interventions or else measurements."""
    changes = [e for e in run.interventions if e.sparsity_before != e.sparsity_after]
    if not changes:
        series = run.measurements.get("sparsity")
        if series is not None and len(series.steps):
            if np.ptp(series.values) == 0:
                return [0, run.end], [float(series.values[0])] * 2
            return [int(s) for s in series.steps], [float(v) for v in series.values]
        return [0, run.end], [0.0, 0.0]
    steps, values = [0], [changes[0].sparsity_before]
    for event in changes:
        steps += [event.step, event.step]
        values += [event.sparsity_before, event.sparsity_after]
    return [*steps, run.end], [*values, values[-1]]


def draw_sparsity(ax: Axes, runs: Sequence[RunData], *, legend: bool = True) -> None:
    """Draw the sparsity of each run over steps."""
    for index, ((color, mark), run) in enumerate(zip(RUNS, runs, strict=False)):
        steps, values = path_of_sparsity(run)
        ax.plot(steps, values, color=color, marker=mark, markersize=3.5, linestyle="-" if index else "--",
                label=run.label if legend else None)  # fmt: skip
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("sparsity\n(zeros of prunable weights)")


@styled
def sparsity(runs: Sequence[RunData]) -> Picture:
    """Share of prunable weights held at zero, over steps, for all runs."""
    figure = canvas(height=3.9)
    ax = figure.add_subplot()
    draw_sparsity(ax, runs)
    step_axis(ax)
    legend_above(figure, [ax], columns=2)
    caption = "Share of the prunable weights that are held at zero. Each vertical edge is a collapse or a surge."
    return Picture("sparsity", "Sparsity", caption, figure)


@styled
def energy(runs: Sequence[RunData]) -> Picture | None:
    """Energy of all weights over steps, for all runs; ``None`` where none was recorded."""
    figure = canvas(height=3.9)
    ax = figure.add_subplot()
    if not draw(ax, runs, ("energy/weights",), legend=False):
        return None
    for (color, mark), run in zip(RUNS, runs, strict=False):
        ax.plot([], [], color=color, marker=mark, label=run.label)
    log_if_wide(ax, runs, ("energy/weights",))
    ax.set_ylabel("energy of the weights, ‖W‖²")
    step_axis(ax)
    legend_above(figure, [ax], columns=2)
    return Picture("energy", "Energy", "Squared Euclidean norm of all weights over training.", figure)


def removed(event: Intervention) -> float:
    """Energy that an intervention took out: before + injected − after, at least zero.

    >>> event = Intervention(step=1, kind="collapse", phase="sparse", reason="", sparsity_before=0.0,
    ...     sparsity_after=0.5, energy_before=10.0, energy_after=8.0, energy_injected=1.0)
    >>> removed(event)
    3.0
    """
    return max(0.0, event.energy_before + event.energy_injected - event.energy_after)


@styled
def ledger(run: RunData, name: str) -> Picture | None:
    """Energy before and after each intervention, and what it removed and injected; ``None`` without any.

    Args:
        run: the run.
        name: file stem of the picture.
    """
    events = [e for e in run.interventions if e.energy_before > 0 or e.energy_after > 0]
    if not events:
        return None
    figure = canvas(10.4, 4.4)
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.7, 1]})
    series = run.measurements.get("energy/weights")
    if series is not None:
        series = series.thinned(400)
        top.plot(series.steps, series.values, color=FAINT, linewidth=1.1, label="all parameters")
    steps = np.array([event.step for event in events])
    top.vlines(steps, [e.energy_before for e in events], [e.energy_after for e in events], color=INK, linewidth=1)
    top.plot(steps, [e.energy_before for e in events], linestyle="none", marker="o", markerfacecolor="none",
             color=INK, label="before")  # fmt: skip
    for kind in dict.fromkeys(event.kind for event in events):
        mark, color = MARKS.get(kind, ("D", INK))
        chosen = [e for e in events if e.kind == kind]
        top.plot([e.step for e in chosen], [e.energy_after for e in chosen], linestyle="none", marker=mark,
                 color=color, label=f"after {plain(kind)}")  # fmt: skip
    top.set_ylabel("energy, ‖W‖²")
    bottom.vlines(steps, 0, [-removed(e) for e in events], color=VERMILLION, linewidth=3, label="removed (down)")
    injected = [e.energy_injected for e in events]
    if any(injected):
        bottom.vlines(steps, 0, injected, color=GREEN, linewidth=3, linestyle=(0, (1, 0.5)),
                      label="injected (up)")  # fmt: skip
    bottom.axhline(0, color=INK, linewidth=0.8)
    bottom.set_ylabel("change of energy")
    bottom.yaxis.set_major_locator(MaxNLocator(4))
    bottom.set_xlim(0, run.end * 1.01)
    figure.align_ylabels([top, bottom])
    step_axis(bottom)
    legend_above(figure, [top, bottom], columns=5)
    caption = (
        "Above: energy of the parameters that an intervention may touch, before (open circle) and after it (mark of "
        "its kind), and of all parameters in between (line). Below: what each intervention took out (downwards)"
    )
    if any(injected):
        caption += " and put in (upwards, dashed)."
    elif any(event.kind == "surge" for event in events):
        caption += "; nothing was put in, as reopened weights started at zero."
    else:
        caption += "; nothing was put in."
    return Picture(name, f"Energy ledger: {run.name}", caption, figure, wide=True)
