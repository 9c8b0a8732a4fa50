"""Readings of several processes that train one model: sums of sufficient statistics, one all-reduce a reading.

Entropies of the ranks do not average to the entropy of all rows. What adds up is taken instead. It is the pair total of
the sign covariance with its number of pairs, and squares. It is also the rows in which each unit is on, and the ranks
on which a unit is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from surgecollapse.events import LayerReading
from surgecollapse.functional.entropy import pair_overlap, sign_covariance_entropy
from surgecollapse.torch_utils.distributed import Ranks

_SCALARS = 6
"""Numbers a site that do not depend on its units."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """Readings of all ranks together."""

    layers: tuple[LayerReading, ...]
    finite: bool
    """Whether every activation on every rank was."""
    values: Mapping[str, float]
    """Means over the ranks that have one, by name."""


class Pool:
    """Adds up what the ranks saw.

    The first reading agrees on the width of every site (one more message), since a rank may not have run them all.

    Args:
        ranks: the processes.
        sites: names of all sites, in their order, alike on every rank.
        entropy: form of the activation entropy; any but the default is averaged over the ranks by rows.
    """

    def __init__(self, ranks: Ranks, sites: Sequence[str], entropy: Callable[[Tensor], Tensor]) -> None:
        self._ranks, self._sites, self._entropy = ranks, tuple(sites), entropy
        self._widths: list[int] | None = None

    def read(self, samples: Mapping[str, Tensor], values: Mapping[str, float | None]) -> Pooled:
        """Pool the samples of this rank with those of the others.

        Args:
            samples: ``(rows, units)`` by site; sites that did not run are missing.
            values: further numbers to average, under the same names on every rank; ``None`` where this rank has none.
        """
        widths = self._agreed_widths(samples)
        device = next(iter(samples.values())).device if samples else torch.device("cpu")
        sites = list(zip(self._sites, widths, strict=True))
        parts = [self._statistics(samples.get(name), width, device) for name, width in sites]
        known = [0.0 if value is None else value for value in values.values()]
        there = [0.0 if value is None else 1.0 for value in values.values()]
        parts.append(torch.tensor([*known, *there], dtype=torch.float64, device=device))
        *sums, means = self._ranks.totals(parts)
        layers = [self._layer(name, width, total) for (name, width), total in zip(sites, sums, strict=True)]
        sound = all(bool(total[5] == 0) for total in sums)
        numbers = means.tolist()
        count = len(values)
        averages = {name: numbers[i] / numbers[count + i] for i, name in enumerate(values) if numbers[count + i] > 0}
        return Pooled(tuple(filter(None, layers)), sound, averages)

    def _agreed_widths(self, samples: Mapping[str, Tensor]) -> list[int]:
        if self._widths is None:
            own = torch.tensor([samples[name].shape[1] if name in samples else 0 for name in self._sites])
            self._widths = [int(width) for width in self._ranks.highest(own)]
        return self._widths

    def _statistics(self, x: Tensor | None, width: int, device: torch.device) -> Tensor:
        """Pair total, pairs, squares, rows, other entropy × rows, not finite; rows on and constant by unit."""
        found = torch.zeros(_SCALARS + 2 * width, dtype=torch.float64, device=device)
        if x is None or x.shape[1] != width or not len(x):
            return found
        wide = x.double()
        finite = wide.isfinite().all()
        wide = torch.where(finite, wide, 0.0)
        overlap, pairs = pair_overlap(wide)
        found[0], found[1], found[2], found[3] = overlap * pairs, pairs, wide.square().mean() * len(x), len(x)
        if self._entropy is not sign_covariance_entropy:
            value = self._entropy(x).double()
            found[4] = torch.where(value.isfinite(), value, 0.0) * len(x)
        found[5] = (~finite).double()
        found[_SCALARS : _SCALARS + width] = (wide > 0).sum(0)
        found[_SCALARS + width :] = (wide == wide[:1]).all(0).double() * len(x)
        return found

    def _layer(self, name: str, width: int, total: Tensor) -> LayerReading | None:
        overlap, pairs, squares, rows, other, broken = (float(value) for value in total[:_SCALARS])
        if not rows or broken:
            return None
        on = total[_SCALARS : _SCALARS + width] / rows
        bits = (torch.special.entr(on) + torch.special.entr(1 - on)).mean() / log(2)
        dead = (total[_SCALARS + width :] >= rows).double().mean()
        entropy: float | None = None
        if width > 1:
            if self._entropy is not sign_covariance_entropy:
                entropy = other / rows
            elif pairs:
                entropy = min(max(-log(max(overlap / pairs, 1 / width)) / log(width), 0.0), 1.0)
            elif rows >= 4:
                entropy = 0.0
        return LayerReading(
            layer=name, entropy=entropy, on_off=min(float(bits), 1.0), energy=squares / rows, dead=float(dead),
            units=width, rows=round(rows),
        )  # fmt: skip
