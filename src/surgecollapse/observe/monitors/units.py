"""Units that say nothing, or next to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgecollapse.functional import dead_units, dormancy
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series


@monitor("units")
class Units:
    """Share of dead and of dormant units of each site on the probe batch, in [0, 1].

    ``units/dead``: constant over the rows; ``units/dormant``: of a dormancy of at most τ
    (:func:`surgecollapse.functional.dormancy`; Sokar et al. 2023, arXiv 2302.12902, who take τ = .1 to count them and
    .025 on raw activations).

    Args:
        threshold: τ.

    When to use:
        To find dead ReLUs and dormant units, before recycling them (``policy="redo"``) or cutting them out
        (``export --format compact``).

    Cost:
        One mean over the rows of each site.

    Deviations:
        None from the score of the paper; a unit is called dead if it is constant over the rows, not only if it is
        zero.

    Source:
        Sokar, Agarwal, Castro, Evci 2023, arXiv 2302.12902, definition 3.1.
    """

    name = "units"
    needs = ("activations",)

    def __init__(self, threshold: float = 0.025) -> None:
        if not threshold >= 0.0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        self._threshold = threshold

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Two shares a site."""
        sites = context.activations.items()
        return {
            "units/dead": {site: dead_units(x) for site, x in sites},
            "units/dormant": {site: self._dormant(x) for site, x in sites},
        }

    def _dormant(self, x: Tensor) -> Tensor:
        scores = dormancy(x)
        return torch.where(scores.isnan().any(), torch.nan, (scores <= self._threshold).float().mean())
