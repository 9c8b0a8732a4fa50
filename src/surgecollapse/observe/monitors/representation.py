"""How many directions the activations use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgecollapse.functional import (
    effective_rank,
    gram_spectra,
    numerical_rank,
    sample_participation_ratio,
    spectral_rank,
    stable_rank,
)
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Number, Series

_LEAST_ROWS = 3


@monitor("representation")
class Representation:
    """Rank and dimension of the activations of each site on the probe batch.

    Of the rows as they are: ``rank/rankme`` (Garrido et al. 2023, arXiv 2210.02885, eq. 1), ``rank/activation_stable``
    and ``rank/activation_numerical``. Of the centered rows: ``dimension/participation_ratio``, corrected for the sample
    size, and ``entropy/spectral`` = H(λ/Σλ)/ln d. With n rows no rank can exceed n: compare these numbers over time,
    not between probes of different size. The numerical rank counts singular values above ε·max(n, d) of the largest,
    with ε that of the activations' dtype. The bound is at least 1e-7 of it.

    When to use:
        To follow how many directions each layer uses, for instance while a network groks or its representations
        collapse.

    Cost:
        One decomposition of a Gram matrix for each site, rows × rows or units × units, whichever is smaller.

    Deviations:
        The participation ratio is corrected for the sample size; RankMe and the spectral entropy are not.

    Source:
        Garrido et al. 2023, arXiv 2210.02885, eq. 1 (RankMe); Roy and Vetterli 2007 (effective rank); Gao et al.
        2017 (participation ratio).
    """

    name = "representation"
    needs = ("activations",)
    rotates = True

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Five numbers a site; one decomposition for all."""
        sites = {site: x for site, x in context.activations.items() if len(x) >= _LEAST_ROWS}
        if not sites:
            return {}
        rows = [x.double() for x in sites.values()]
        sigma, centered = gram_spectra([*rows, *(x - x.mean(0) for x in rows)]).chunk(2)
        tolerance = sigma.new_tensor([[max(1e-7, torch.finfo(x.dtype).eps * max(x.shape))] for x in sites.values()])
        widths = sigma.new_tensor([x.shape[1] for x in rows])
        return {
            "rank/rankme": _by_site(sites, effective_rank(sigma)),
            "rank/activation_stable": _by_site(sites, stable_rank(sigma)),
            "rank/activation_numerical": _by_site(sites, numerical_rank(sigma, tolerance)),
            "entropy/spectral": _by_site(sites, _spectral_entropy(centered, widths)),
            "dimension/participation_ratio": {site: sample_participation_ratio(x) for site, x in sites.items()},
        }


def _by_site(sites: Mapping[str, Tensor], values: Tensor) -> dict[str | None, Number]:
    return dict(zip(sites, values.unbind(), strict=True))


def _spectral_entropy(sigma: Tensor, units: Tensor) -> Tensor:
    """H(λ/Σλ)/ln d; 0 where nothing varies (rank 0), NaN for one unit."""
    rank = spectral_rank(sigma)
    return torch.where(rank == 0, 0.0, (rank.log() / units.log()).clamp(0.0, 1.0))
