"""Self-normalized resets: a hidden unit whose silence is unlikely under its own firing rate is made new."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgecollapse.lab.continual.remedies import linear_layers, renew


def silence_probability(silent: Tensor, gaps: Tensor, firings: Tensor) -> Tensor:
    """Probability that a unit which still fires as before is silent on this many samples or more.

    The time A between two firings is geometric with the unit's mean, 1/p = gaps/firings, so that::

        P(A > a) = (1 − p)^a

    Args:
        silent: a, samples since the last firing.
        gaps: sum of the times between firings, in samples.
        firings: how many they are.

    Returns:
        Probabilities of the shape of the arguments; 1 for a unit that has just fired.

    >>> one = torch.tensor
    >>> float(silence_probability(one([3.0]), gaps=one([8.0]), firings=one([4.0])))  # fires on half of all samples
    0.125
    >>> float(silence_probability(one([0.0]), gaps=one([5.0]), firings=one([5.0])))
    1.0
    """
    return (1 - firings / gaps).clamp(0, 1) ** silent


@dataclass
class _Units:
    """What is kept of the units of one hidden layer."""

    into: nn.Linear
    out: nn.Linear
    silent: Tensor
    gaps: Tensor
    firings: Tensor


class SelfNormalizedResets:
    """Units are reset where P(A > a) ≤ η: each is judged by its own time A between firings (SNR).

    Farias and Jozefiak 2025 (ICLR, arXiv 2410.20098, algorithm 1). A unit fires on a sample where its output is above
    zero. After each optimizer step, some units are reset. Their silence has at most the probability η under the
    geometric law of their own firings (:func:`silence_probability`). They get new incoming weights, a bias and
    outgoing weights of zero, and zero moments. Their record begins anew.

    Deviations: sums of gaps and firings are forgotten at a rate instead of in a window. They begin with one firing in
    ``prior`` samples, so that units that never fired are judged, too. Ages count samples; resets come after batches.

    Args:
        model: a perceptron; its activations are observed, in the order of the samples.
        optimizer: that steps it, for its moments.
        eta: η, greatest probability of a silence that still resets, in (0, 1).
        prior: samples between two firings of a unit of which nothing is known, above 1.
        decay: share of the record that each batch keeps, in (0, 1].
        generator: for new weights.

    Raises:
        ValueError: for an option out of range.
    """

    def __init__(
        self,
        model: nn.Sequential,
        optimizer: torch.optim.Optimizer,
        *,
        eta: float,
        prior: float = 10.0,
        decay: float = 0.99,
        generator: torch.Generator,
    ) -> None:
        if not 0 < eta < 1:
            raise ValueError(f"eta must be in (0, 1), got {eta:g}")
        if not prior > 1:
            raise ValueError(f"prior must be above 1 sample between two firings, got {prior:g}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {decay:g}")
        self.optimizer, self.eta, self.prior, self.decay = optimizer, eta, prior, decay
        self.generator, self.replaced = generator, 0
        self.seen: dict[int, Tensor] = {}
        self.units = [
            _Units(
                into,
                out,
                torch.zeros(into.out_features),
                torch.full((into.out_features,), prior),
                torch.ones(into.out_features),
            )
            for into, out in itertools.pairwise(linear_layers(model))
        ]
        for number, units in enumerate(self.units):
            units.out.register_forward_pre_hook(self._observe(number))

    def _observe(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen[number] = inputs[0].detach() > 0

        return observe

    @torch.no_grad()
    def __call__(self) -> None:
        """Count the firings of the last batch, and reset what has fallen silent."""
        for number, units in enumerate(self.units):
            self._count(units, self.seen[number])
            unlikely = silence_probability(units.silent, units.gaps, units.firings) <= self.eta
            chosen = unlikely.nonzero().flatten()
            if len(chosen):
                renew(units.into, units.out, chosen, self.optimizer, self.generator)
                units.silent[chosen], units.gaps[chosen], units.firings[chosen] = 0.0, self.prior, 1.0
                self.replaced += len(chosen)

    def _count(self, units: _Units, fired: Tensor) -> None:
        """Add the gaps that end within the batch ``fired`` of samples × units; the last silence goes on."""
        size = len(fired)
        places = torch.arange(1, size + 1, dtype=units.silent.dtype)[:, None]
        last = (fired * places).amax(0)  # 0: not in this batch
        ended = torch.where(last > 0, units.silent + last, 0)
        units.gaps.mul_(self.decay).add_(ended)
        units.firings.mul_(self.decay).add_(fired.sum(0))
        units.silent.copy_(torch.where(last > 0, size - last, units.silent + size))
