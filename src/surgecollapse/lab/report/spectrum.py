"""The path of the weights by frequency, and its slow and fast parts at the cut-off of a filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from surgecollapse.analysis.spectrum import Spectrum, evenly_spaced, spectrum, split
from surgecollapse.functional import cutoff_frequency, ema_coefficients, ma_coefficients
from surgecollapse.lab.report.rundata import Array, RunData
from surgecollapse.lab.report.style import FAINT, RUNS, Picture, canvas, legend_above, power, step_axis, styled

FEWEST = 8
"""Sketches below which a spectrum says nothing."""


@dataclass(frozen=True)
class Parts:
    """What is drawn of one run."""

    steps: Array
    spectrum: Spectrum
    cutoff: float
    """Cycles per step."""
    slow: Array
    """Distance of the slow part from where it began, by step."""
    fast: Array
    """Norm of the fast part, by step."""


def cutoff_of(config: Mapping[str, Any]) -> tuple[float, str]:
    """The −3 dB frequency of a run's own filter, else that of the Grokfast paper's exponential mean, with its name.

    >>> frequency, name = cutoff_of({"grokfast": "ema", "grokfast_alpha": 0.9})
    >>> round(frequency, 4), name
    (0.0168, 'EMA, α = 0.9')
    """
    if config.get("grokfast") == "ma":
        window = int(config["grokfast_window"])
        return cutoff_frequency(*ma_coefficients(window)), f"MA of {window}"
    alpha = float(config["grokfast_alpha"]) if config.get("grokfast") == "ema" else 0.98
    return cutoff_frequency(*ema_coefficients(alpha)), f"EMA, α = {alpha:g}"


def parts_of(run: RunData) -> Parts | None:
    """Take the path of a run's weights apart; ``None`` where there are too few sketches at even distances."""
    if run.sketch is None:
        return None
    steps, sketches = run.sketch
    stretch = evenly_spaced(steps)
    steps, sketches = steps[stretch], np.asarray(sketches[stretch], float)
    if len(steps) < FEWEST or not np.isfinite(sketches).all():
        return None
    spacing = float(steps[1] - steps[0])
    cutoff, _ = cutoff_of(run.config)
    taken = split(sketches, cutoff, spacing)
    slow = np.linalg.norm(taken.slow - taken.slow[0], axis=1)
    return Parts(steps, spectrum(sketches, spacing), cutoff, slow, np.linalg.norm(taken.fast, axis=1))


@styled
def slow_and_fast(runs: Sequence[RunData]) -> Picture | None:
    """Spectrum of the weights' path, and both parts over training; ``None`` where nothing can be drawn."""
    found = [(style, run, parts_of(run)) for style, run in zip(RUNS, runs, strict=False)]
    able = [(style, run, parts) for style, run, parts in found if parts is not None and parts.spectrum.total > 0]
    if not able:
        return None
    figure = canvas(7.4, 6.4)
    top, bottom = figure.subplots(2, 1)
    for (colour, mark), run, parts in able:
        shown = parts.spectrum.power > 0
        top.loglog(parts.spectrum.frequencies[shown], parts.spectrum.power[shown], color=colour, marker=mark,
                   markersize=3, linewidth=1.2, label=run.name)  # fmt: skip
        bottom.plot(parts.steps, parts.slow, color=colour, marker=mark, markersize=3, linewidth=1.4)
        bottom.plot(parts.steps, parts.fast, color=colour, linestyle="--", linewidth=1.2)
    names = dict.fromkeys(cutoff_of(run.config) for _, run, _ in able)
    for cutoff, name in names:
        top.axvline(cutoff, color=FAINT, linestyle=":", linewidth=1.3, label=f"cut-off ({name})")
    for axis in (top.xaxis, top.yaxis):
        axis.set_major_formatter(FuncFormatter(power))
        axis.set_minor_formatter(NullFormatter())
    top.set_xlabel("frequency (cycles per step)")
    top.set_ylabel("power")
    step_axis(bottom)
    bottom.set_ylabel("slow part's way (solid),\nfast part's size (dashed)")
    legend_above(figure, [top], columns=4)
    shares = ", ".join(f"{run.name} {100 * parts.spectrum.slow_share(parts.cutoff):.1f} %" for _, run, parts in able)
    gap = able[0][2].steps[1] - able[0][2].steps[0]
    caption = (
        "The path of all weights (count sketches) by frequency, in a cosine transform, and its two parts below and "
        "above the frequency at which a filter of gradients loses half the power (−3 dB): the run's own, else the "
        f"exponential mean with α = .98. Share of the power that is slow: {shares}. Sketches are {gap:,} steps apart, "
        "so that nothing faster than two of these distances can be seen."
    )
    return Picture("slow-and-fast", "Slow and fast parts of the path", caption, figure, wide=True)
