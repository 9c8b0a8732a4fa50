"""Paths of weights and gradients by frequency, and their slow and fast parts at the cut-off of a filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from surgecollapse.analysis.colors import plain
from surgecollapse.analysis.spectrum import Spectrum, evenly_spaced, spectrum, split
from surgecollapse.functional import cutoff_frequency, ema_coefficients, ma_coefficients
from surgecollapse.report.rundata import Array, RunData
from surgecollapse.report.style import FAINT, RUNS, Picture, canvas, legend_above, power, shorten, step_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 8
"""Records below which a spectrum says nothing."""
_SHOWN = 6
"""Parameters whose spectra are drawn: the largest."""
_SIDES = ((1, "gradient"), (0, "weight"))


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

    @property
    def resolved(self) -> bool:
        """Whether the records show frequencies on both sides of the cut-off."""
        return not self.spectrum.doubt(self.cutoff)

    @property
    def share(self) -> str:
        """Share of the power that is slow, in words."""
        return share(self.spectrum, self.cutoff)


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


def share(found: Spectrum, cutoff: float) -> str:
    """Share of the power that is slow, or why it is not determined.

    >>> share(spectrum(np.arange(8.0)), 0.1)
    '98.8 %'
    >>> share(spectrum(np.arange(8.0)), 0.01)
    'not determined: a record of 8 steps is shorter than half a period of the cut-off, 50 steps'
    """
    doubt = found.doubt(cutoff)
    if not doubt:
        return f"{100 * found.slow_share(cutoff):.1f} %"
    remedy = f"; train with `gradient_trace_every = {closest(cutoff)}`" if cutoff > found.frequencies[-1] else ""
    return f"not determined: {doubt}{remedy}"


def closest(cutoff: float) -> int:
    """Steps between two records that show frequencies of up to twice the cut-off.

    >>> closest(1 / 28)
    7
    """
    return max(1, int(0.25 / cutoff))


def parts_of(run: RunData) -> Parts | None:
    """Take the path of a run's weights apart; ``None`` where there are too few sketches at even distances."""
    if run.sketch is None:
        return None
    even = _evenly(*run.sketch)
    if even is None:
        return None
    steps, sketches, spacing = even
    cutoff, _ = cutoff_of(run.config)
    found = spectrum(sketches, spacing)
    # Where nothing can be told apart, the whole path is drawn.
    taken = split(sketches, np.inf if found.doubt(cutoff) else cutoff, spacing)
    slow = np.linalg.norm(taken.slow - taken.slow[0], axis=1)
    return Parts(steps, found, cutoff, slow, np.linalg.norm(taken.fast, axis=1))


def _evenly(steps: Array, values: Array) -> tuple[Array, Array, float] | None:
    """The longest stretch of records at even distances, and these; ``None`` if it is short or not finite."""
    stretch = evenly_spaced(steps)
    steps, values = steps[stretch], np.asarray(values[stretch], float)
    if len(steps) < FEWEST or not np.isfinite(values).all():
        return None
    return steps, values, float(steps[1] - steps[0])


def _by_frequency(ax: Axes) -> None:
    """Name the axes of a spectrum, which are logarithmic."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(power))
        axis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("frequency (cycles per step)")


@styled
def slow_and_fast(runs: Sequence[RunData]) -> Picture | None:
    """Spectrum of the weights' path, and both parts over training; ``None`` where nothing can be drawn."""
    found = [(style, run, parts_of(run)) for style, run in zip(RUNS, runs, strict=False)]
    able = [(style, run, parts) for style, run, parts in found if parts is not None and parts.spectrum.total > 0]
    if not able:
        return None
    figure = canvas(7.4, 6.4)
    top, bottom = figure.subplots(2, 1)
    for (color, mark), run, parts in able:
        shown = parts.spectrum.power > 0
        top.loglog(parts.spectrum.frequencies[shown], parts.spectrum.power[shown], color=color, marker=mark,
                   markersize=3, linewidth=1.2, label=run.label)  # fmt: skip
        bottom.plot(parts.steps, parts.slow, color=color, marker=mark, markersize=3, linewidth=1.4)
        if parts.resolved:
            bottom.plot(parts.steps, parts.fast, color=color, linestyle="--", linewidth=1.2)
    names = dict.fromkeys(cutoff_of(run.config) for _, run, _ in able)
    fastest = max(parts.spectrum.frequencies[-1] for _, _, parts in able)
    for cutoff, name in ((cutoff, name) for cutoff, name in names if cutoff <= fastest):
        top.axvline(cutoff, color=FAINT, linestyle=":", linewidth=1.3, label=f"cut-off ({name})")
    _by_frequency(top)
    top.set_ylabel("power")
    step_axis(bottom)
    split_up = any(parts.resolved for _, _, parts in able)
    bottom.set_ylabel("slow part's way (solid),\nfast part's size (dashed)" if split_up else "way from the start")
    legend_above(figure, [top], columns=4)
    shares = ", ".join(f"{run.name} {parts.share}" for _, run, parts in able)
    gap = able[0][2].steps[1] - able[0][2].steps[0]
    caption = (
        "The path of all weights (count sketches) by frequency, in a cosine transform, and its two parts below and "
        "above the frequency at which a filter of gradients loses half the power (−3 dB): the run's own, else the "
        f"exponential mean with α = 0.98. Share of the power that is slow: {shares}. Sketches are {gap:,} steps apart, "
        "so that nothing faster than two of these distances can be seen."
    )
    return Picture("slow-and-fast", "Slow and fast parts of the path", caption, figure, wide=True)


@dataclass(frozen=True)
class Trace:
    """A few entries of one parameter, taken apart."""

    name: str
    steps: Array
    values: Array
    """Weights and gradients (n, 2, entries)."""
    spacing: float
    """Steps between two records."""
    cutoff: float
    spectra: tuple[Spectrum, Spectrum]
    """Of the weights and of the gradients, summed over the entries."""

    def slow(self, side: int) -> float:
        """Share of the power of the weights (0) or the gradients (1) that is slow."""
        return self.spectra[side].slow_share(self.cutoff)

    @property
    def doubt(self) -> str:
        """Why neither share is determined; empty where they are."""
        return self.spectra[0].doubt(self.cutoff)


def traces_of(run: RunData) -> list[Trace]:
    """Of every parameter with enough records at even distances, finite, that moved; the largest parameters first."""
    cutoff, found = cutoff_of(run.config)[0], []
    for name in sorted(run.traces, key=lambda name: -run.parameters[name].size if name in run.parameters else 0):
        even = _evenly(*run.traces[name])
        if even is None:
            continue
        steps, values, spacing = even
        spectra = spectrum(values[:, 0], spacing), spectrum(values[:, 1], spacing)
        if all(side.total > 0 for side in spectra):
            found.append(Trace(name, steps, values, spacing, cutoff, spectra))
    return found


@styled
def slow_gradients(run: RunData, number: int = 1) -> Picture | None:
    """Spectra of gradients and weights by parameter, and one entry of each with its slow part; ``None`` without."""
    found = traces_of(run)
    if not found:
        return None
    figure = canvas(7.4, 6.4)
    axes = figure.subplots(2, 2)
    steadiest = max(found, key=lambda trace: trace.slow(1))
    entry = int(steadiest.values[:, 1].var(axis=0).argmax())
    cutoff, name = cutoff_of(run.config)
    resolved = not steadiest.doubt
    for column, (side, word) in enumerate(_SIDES):
        _draw_spectra(axes[0, column], found[:_SHOWN], side)
        axes[0, column].set_title(f"{word}s, by parameter")
        if resolved:
            axes[0, column].axvline(cutoff, color=FAINT, linestyle=":", linewidth=1.3, label=f"cut-off ({name})")
        _draw_entry(axes[1, column], steadiest, side, entry)
        axes[1, column].set_title(f"{word}: {plain(shorten(steadiest.name, 22))}")
    axes[0, 0].set_ylabel("power (all: 1), mean of a band")
    axes[1, 0].set_ylabel("value (faint), slow part (bold)" if resolved else "value")
    legend_above(figure, [axes[0, 0]], columns=3)
    told = share(steadiest.spectra[1], cutoff)
    if resolved:
        told = "; ".join(f"`{t.name}` {100 * t.slow(1):.1f} % and {100 * t.slow(0):.1f} %" for t in found)
    told = f"Share of the power that is slow, of gradients and of weights: {told}."
    caption = (
        f"{run.name}: up to sixteen entries of each weight matrix and of its gradient, as the backward pass left it, "
        f"every {steadiest.spacing:,.0f} steps, by frequency in a cosine transform. A filter of gradients amplifies "
        "what lies left of the cut-off, where it loses half the power (−3 dB): the run's own, else the exponential "
        f"mean with α = .98. {told} Below, the entry whose gradient varies most, of the parameter whose gradient is "
        "slowest."
    )
    return Picture(f"slow-gradients-{number}", f"Slow and fast gradients: {run.name}", caption, figure, wide=True)


def binned(found: Spectrum, bands: int = 60) -> tuple[Array, Array]:
    """Mean frequency, and mean share of the power, of bands of equal width on a log axis; empty ones left out.

    >>> frequencies, shares = binned(Spectrum(np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0])), bands=2)
    >>> frequencies.tolist(), shares.tolist()
    ([1.0, 3.0], [0.25, 0.375])
    """
    edges = np.geomspace(found.frequencies[0], found.frequencies[-1], bands + 1)[1:-1]
    band = np.searchsorted(edges, found.frequencies, side="right")
    counts = np.bincount(band)
    shown = counts > 0
    sums = [np.bincount(band, weights)[shown] for weights in (found.frequencies, found.power / found.total)]
    return sums[0] / counts[shown], sums[1] / counts[shown]


def _draw_spectra(ax: Axes, traces: Sequence[Trace], side: int) -> None:
    for (color, _), trace in zip(RUNS, traces, strict=False):
        frequencies, shares = binned(trace.spectra[side])
        ax.loglog(frequencies, shares, color=color, linewidth=1.3, alpha=0.9, label=plain(shorten(trace.name, 24)))
    _by_frequency(ax)


def _draw_entry(ax: Axes, trace: Trace, side: int, entry: int) -> None:
    values = trace.values[:, side, entry]
    ax.plot(trace.steps, values, color=FAINT, linewidth=0.7, alpha=0.7)
    if not trace.doubt:
        ax.plot(trace.steps, split(values, trace.cutoff, trace.spacing).slow, color=RUNS[0][0], linewidth=1.6)
    step_axis(ax)
