"""Which frequencies the weights of the first layer carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from surgecollapse.analysis.fourier import token_spectrum
from surgecollapse.report.rundata import Array, RunData
from surgecollapse.report.style import FAINT, RUNS, Picture, canvas, legend_above, power, styled

PADDED = 32
"""Small filters are padded with zeros to this width, for a smooth spectrum."""


@dataclass(frozen=True)
class Spectrum:
    """Power of the first layer's weights by frequency, as shares that sum to 1."""

    frequencies: Array
    power: Array
    kind: str
    """``tokens`` (one-hot or embedding axis of a modular task), ``image`` or ``inputs``."""
    parameter: str


def radial_spectrum(filters: Array, bins: int = 12) -> tuple[Array, Array]:
    """Mean two-dimensional power spectrum of filters ``(n, h, w)`` by radial frequency.

    Returns:
        Middle of each ring in cycles per pixel, in (0, 0.5), and its share of the mean power per coefficient. The
        constant is left out, rings without a coefficient too.

    >>> x = np.arange(16)
    >>> rings, share = radial_spectrum(np.tile(np.cos(2 * np.pi * x / 4), (1, 16, 1)))
    >>> float(rings[share.argmax()])  # the ring that holds 1/4 cycle per pixel
    0.2708...
    """
    height, width = (max(PADDED if n < 8 else n, n) for n in filters.shape[1:])
    found = (np.abs(np.fft.fft2(np.asarray(filters, float), s=(height, width))) ** 2).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    edges = np.linspace(0, 0.5, bins + 1)
    ring = np.clip(np.digitize(radius, edges) - 1, 0, bins)
    inside = (radius > 0) & (radius < 0.5)
    sums = np.bincount(ring[inside], weights=found[inside], minlength=bins)[:bins]
    counts = np.bincount(ring[inside], minlength=bins)[:bins]
    some = counts > 0
    mean = sums[some] / counts[some]
    return ((edges[:-1] + edges[1:]) / 2)[some], mean / (mean.sum() or 1.0)


def input_spectrum(weight: Array) -> tuple[Array, Array]:
    """Share of the power of a matrix ``(outputs, inputs)`` by frequency along the input index (cycles per input)."""
    found = (np.abs(np.fft.rfft(np.asarray(weight, float), axis=1)) ** 2).sum(axis=0)[1:]
    return np.fft.rfftfreq(weight.shape[1])[1:], found / (found.sum() or 1.0)


def token_table(parameters: Mapping[str, Array], modulus: int, vocabulary: int = 0) -> tuple[str, Array] | None:
    """The table ``(modulus, d)`` by which the first residue enters a net for a modular task, with its name.

    Args:
        parameters: by name, in the order of the model.
        modulus: number of residues; they are the first tokens.
        vocabulary: number of tokens; 0 if two one-hots enter side by side.

    Returns:
        The rows of an embedding, or the columns of a layer on one-hots; ``None`` if there is neither.
    """
    for name, value in parameters.items():
        if value.ndim == 2 and vocabulary and value.shape[0] == vocabulary:
            return name, value[:modulus]
        width = vocabulary or 2 * modulus
        if value.ndim == 2 and value.shape[1] % width == 0:
            return name, value[:, :modulus].T
    return None


def spectrum(run: RunData) -> Spectrum | None:
    """The spectrum that suits the run's task; ``None`` if there is no weight to transform."""
    if run.modulus is not None:
        found = token_table(run.parameters, run.modulus, run.vocabulary)
        if found is not None:
            share = token_spectrum(found[1])
            return Spectrum(np.arange(1, len(share) + 1), share, "tokens", found[0])
    for name, value in run.parameters.items():
        if value.ndim < 2 or not np.isfinite(value).all():
            continue
        if value.ndim == 4 and min(value.shape[2:]) > 1:
            return Spectrum(*radial_spectrum(value.reshape(-1, *value.shape[2:])), "image", name)
        flat = value.reshape(len(value), -1)
        if run.image is not None and flat.shape[1] == run.image[0] * run.image[1]:
            return Spectrum(*radial_spectrum(flat.reshape(-1, *run.image)), "image", name)
        if flat.shape[1] >= 4:
            return Spectrum(*input_spectrum(flat), "inputs", name)
    return None


WORDS = {
    "tokens": ("frequency k over the tokens (cycles per modulus)",
               "Discrete Fourier transform over the tokens of the table by which they enter the net"),
    "image": ("spatial frequency (cycles per pixel)",
              "Radial mean of the two-dimensional power spectrum of the first layer's filters"),
    "inputs": ("frequency along the input index (cycles per input)",
               "Fourier transform of the first layer's weights along the input index, in the order of the inputs; "
               "it means something only where neighboring inputs are related"),
}  # fmt: skip


@styled
def fourier(runs: Sequence[RunData]) -> Picture | None:
    """Power by frequency of the first layer of all runs; ``None`` where there is none."""
    found = [(style, run, spectrum(run)) for style, run in zip(RUNS, runs, strict=False)]
    able = [(style, run, s) for style, run, s in found if s is not None and s.power.size]
    able = [item for item in able if item[2].kind == able[0][2].kind]
    if not able:
        return None
    figure = canvas(7.4, 4.2)
    ax = figure.add_subplot()
    kind = able[0][2].kind
    for index, ((color, mark), run, s) in enumerate(able):
        few = len(s.frequencies) <= 80
        ax.plot(s.frequencies, s.power, color=color, linestyle="-" if index else "--", linewidth=1.4,
                marker=mark if few else None, markersize=4, label=run.label)  # fmt: skip
    flat = 1 / len(able[0][2].frequencies)
    ax.axhline(flat, color=FAINT, linestyle=":", linewidth=1.2, label="white noise (no structure)")
    top = max(float(s.power.max()) for _, _, s in able)
    if top > 20 * flat:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(power))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel(WORDS[kind][0])
    ax.set_ylabel("share of the power")
    legend_above(figure, [ax], columns=3)
    caption = f"{WORDS[kind][1]} (`{able[0][2].parameter}`). The constant component is left out."
    return Picture("fourier", "Fourier components of the weights", caption, figure, wide=True)
