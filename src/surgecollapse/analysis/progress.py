"""Progress measures of modular addition: how much of a net's answer is its trigonometric circuit, and how much memory.

Nets that generalize on (a ± b) mod p come to answer with waves in a ± b of a few key frequencies (Nanda et al. 2023,
arXiv 2301.05217, section 5). Let z(a, b, c) be the logits of all p² questions. The waves w_k = √2/p · cos(2πk(a ± b)/p)
and √2/p · sin(2πk(a ± b)/p) are orthonormal. The part of the logits made of these is z_K = Σ_{k∈K} Σ_w ⟨z, w_k⟩ w_k:

* *restricted* logits are the mean over questions and z_K: the loss that the circuit alone would have;
* *excluded* logits are z − z_K: the loss without it. On the training set it rises when the circuit takes over from
  memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surgecollapse.analysis.colors import BLUE, GREEN, VERMILLION, plain
from surgecollapse.analysis.plain_values import PlainValues

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Mean cross-entropies in nats."""

    train: float
    test: float
    """Of the questions that are not for training."""
    restricted: float
    """Restricted logits, all questions."""
    excluded: float
    """Excluded logits, training questions."""
    frequencies: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ProgressHistory(PlainValues):
    """The four losses of :class:`Progress` through training, all with the same key frequencies."""

    steps: tuple[int, ...]
    train: tuple[float, ...]
    test: tuple[float, ...]
    restricted: tuple[float, ...]
    excluded: tuple[float, ...]
    frequencies: tuple[int, ...]
    phases: tuple[tuple[str, int, int], ...] = ()
    """Name, first and last step of the phases of the run, for the picture."""

    def plot(self) -> Figure:
        """Draw the losses by step, on logarithmic axes; the phases, where they are known, as bands."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(7.6, 4.4), layout="constrained")
        axes = figure.add_subplot()
        steps = [max(step, 1) for step in self.steps]
        for number, (name, first, last) in enumerate(self.phases):
            axes.axvspan(max(first, 1), max(last, 2), color="#5f6872", alpha=0.05 + 0.05 * (number % 2), linewidth=0)
            axes.text(max(first, 1) * 1.03, 0.01, plain(name), rotation=90, fontsize=8, color="#5f6872", va="bottom",
                      transform=axes.get_xaxis_transform())  # fmt: skip
        axes.plot(steps, self.train, ":", color=BLUE, label="training")
        axes.plot(steps, self.test, "--", color=VERMILLION, label="other questions")
        axes.plot(steps, self.restricted, color=GREEN, label="restricted")
        axes.plot(steps, self.excluded, "-.", color="#5f6872", label="excluded (training)")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("optimizer step (logarithmic)")
        axes.set_ylabel("loss (nats, logarithmic)")
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
        return figure


def progress_history(
    steps: Sequence[int], measures: Sequence[Progress], phases: Sequence[tuple[str, int, int]] = ()
) -> ProgressHistory:
    """Put the measures of one run at several times side by side.

    Args:
        steps: optimizer step of each measure, ascending.
        measures: all with the same key frequencies, best those of the final net.
        phases: name, first and last step of each phase, for the picture.

    Raises:
        ValueError: if there is none, the numbers differ, or the frequencies do.
    """
    if len(steps) != len(measures) or not steps:
        raise ValueError(f"expected one measure for each step, got {len(measures)} for {len(steps)}")
    if len({one.frequencies for one in measures}) > 1:
        raise ValueError("measures with different key frequencies do not compare: give them all those of the final net")
    return ProgressHistory(
        steps=tuple(steps),
        train=tuple(one.train for one in measures),
        test=tuple(one.test for one in measures),
        restricted=tuple(one.restricted for one in measures),
        excluded=tuple(one.excluded for one in measures),
        frequencies=measures[-1].frequencies,
        phases=tuple(phases),
    )


def waves(modulus: int, frequency: int, *, operation: str = "add") -> Array:
    """The two orthonormal waves of one frequency over all questions, (2, modulus, modulus).

    Args:
        modulus: p, odd.
        frequency: k, from 1 to (p − 1)/2.
        operation: ``add`` for waves in a + b, ``sub`` for a − b.

    Raises:
        ValueError: for an even modulus, or a frequency or operation out of range.

    >>> pair = waves(7, 2).reshape(2, -1)
    >>> (pair @ pair.T).round(12).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if modulus < 3 or modulus % 2 == 0:
        raise ValueError(f"the modulus must be odd, and 3 at least, got {modulus}")
    if not 1 <= frequency <= modulus // 2:
        raise ValueError(f"frequencies are from 1 to {modulus // 2} for modulus {modulus}, got {frequency}")
    if operation not in ("add", "sub"):
        raise ValueError(f"operation must be 'add' or 'sub', got {operation!r}: other operations have other waves")
    a = np.arange(modulus)
    turns = frequency * (a[:, None] + (1 if operation == "add" else -1) * a[None, :]) % modulus / modulus
    pair = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)])
    return np.asarray(pair * (np.sqrt(2) / modulus))


def key_frequencies(logits: ArrayLike, count: int = 5, *, operation: str = "add") -> tuple[int, ...]:
    """The frequencies whose waves carry most of the logits, the strongest first.

    Deviation: the paper reads them off the embedding and the neurons of the final net; the logits need no knowledge of
    the architecture.

    Args:
        logits: (p, p, classes), by a and b.
        count: how many.
        operation: ``add`` or ``sub``.

    Raises:
        ValueError: for logits of another shape, or values that are not finite.

    >>> key_frequencies(waves(7, 3)[0][:, :, None] * 2 + waves(7, 1)[1][:, :, None], 2)
    (3, 1)
    """
    grid = _grid(logits)
    modulus = len(grid)
    power = [
        float((np.tensordot(waves(modulus, k, operation=operation), grid, 2) ** 2).sum())
        for k in range(1, modulus // 2 + 1)
    ]
    return tuple(int(k) + 1 for k in np.argsort(power, kind="stable")[::-1][:count])


def circuit(logits: ArrayLike, frequencies: Sequence[int], *, operation: str = "add") -> Array:
    """The part z_K of the logits that is made of the waves of some frequencies, (p, p, classes).

    Args:
        logits: (p, p, classes), by a and b.
        frequencies: K, each once.
        operation: ``add`` or ``sub``.

    Raises:
        ValueError: for logits of another shape, values that are not finite, or frequencies out of range or repeated.
    """
    grid = _grid(logits)
    if len(set(frequencies)) != len(frequencies):
        raise ValueError(f"each frequency counts once, got {list(frequencies)}")
    found = np.zeros_like(grid)
    for k in frequencies:
        pair = waves(len(grid), k, operation=operation)
        found += np.tensordot(pair, np.tensordot(pair, grid, 2), axes=([0], [0]))
    return found


def progress(
    logits: ArrayLike,
    labels: ArrayLike,
    training: ArrayLike,
    frequencies: Sequence[int] | None = None,
    *,
    operation: str = "add",
) -> Progress:
    """All four losses of one net.

    Args:
        logits: (p, p, classes), by a and b.
        labels: (p, p), the right answers.
        training: (p, p), true where a question is for training.
        frequencies: key frequencies, best those of the final net; default: the five strongest of these logits.
        operation: ``add`` or ``sub``.

    Raises:
        ValueError: for shapes that do not fit, or values that are not finite.
    """
    grid, answers, chosen = _grid(logits), np.asarray(labels), np.asarray(training, dtype=bool)
    if answers.shape != grid.shape[:2] or chosen.shape != grid.shape[:2]:
        raise ValueError(
            f"labels and training must have the shape {grid.shape[:2]} of the questions, got {answers.shape} "
            f"and {chosen.shape}"
        )
    if chosen.all() or not chosen.any():
        raise ValueError("some questions must be for training, and some not")
    keys = tuple(key_frequencies(grid, operation=operation) if frequencies is None else frequencies)
    part = circuit(grid, keys, operation=operation)
    whole = _losses(grid, answers)
    return Progress(
        train=float(whole[chosen].mean()),
        test=float(whole[~chosen].mean()),
        restricted=float(_losses(part + grid.mean(axis=(0, 1)), answers).mean()),
        excluded=float(_losses(grid - part, answers)[chosen].mean()),
        frequencies=keys,
    )


def _grid(logits: ArrayLike) -> Array:
    grid = np.asarray(logits, dtype=float)
    if grid.ndim != 3 or grid.shape[0] != grid.shape[1]:
        raise ValueError(f"expected logits (p, p, classes) of all questions, got the shape {grid.shape}")
    if not np.isfinite(grid).all():
        raise ValueError("the logits hold values that are not finite")
    return grid


def _losses(logits: Array, labels: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(shifted, labels[:, :, None], axis=-1)[:, :, 0]
    return np.asarray(np.log(np.exp(shifted).sum(axis=-1)) - picked)
