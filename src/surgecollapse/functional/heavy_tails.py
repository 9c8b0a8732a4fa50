"""Heavy tails: of the spectra of weights, as a power law above a threshold, and the random bulk below it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from surgecollapse.functional.rank import as_double, real, rounding_level


class PowerLaw(NamedTuple):
    """A fit p(x) ∝ x^−α for x ≥ xmin."""

    alpha: float
    """Exponent of the *density*; P(X > x) falls with exponent α − 1. NaN if nothing could be fitted."""
    xmin: float
    distance: float
    """Kolmogorov–Smirnov distance between the tail and the fit."""
    tail: int
    """Number of values at or above ``xmin``."""

    @property
    def doubt(self) -> str:
        """Why ``alpha`` is not a result; empty where the tail passes the test of Kolmogorov and Smirnov.

        >>> PowerLaw(3.5, 1.0, 0.3, 25).doubt
        'the distance of tail and fit, 0.30, exceeds 1/√tail = 0.20'
        """
        if not self.tail:
            return "too few different values"
        bound = self.tail**-0.5
        if self.distance <= bound:
            return ""
        return f"the distance of tail and fit, {self.distance:.2f}, exceeds 1/√tail = {bound:.2f}"


class Bulk(NamedTuple):
    """The part of a spectrum that a random matrix would have."""

    variance: float
    """Of the entries of that matrix that are not zero."""
    edge: float
    """Largest eigenvalue that it would have, for large matrices."""
    spikes: int
    """Eigenvalues above the edge and its fluctuations."""


def power_law(values: Tensor, *, least: int = 10) -> PowerLaw:
    """Fit a power law to the upper tail by maximum likelihood (Clauset, Shalizi and Newman 2009, arXiv 0706.1062).

    For each candidate threshold among the values, α̂ = 1 + m/Σ ln(xᵢ/xmin) over the m values above it (eq. 3.1); the
    threshold is taken whose fit has the smallest Kolmogorov–Smirnov distance (section 3.3). On the eigenvalues of WᵀW
    it is the α of Martin and Mahoney (arXiv 1810.01075), who read 2 ≤ α ≤ 4 as a well-trained layer. The fit always
    finds some α: :attr:`PowerLaw.doubt` says where the tail is not a power law.

    Args:
        values: any shape; what is not above 0 is left out.
        least: fewest values in the tail, at least 2.

    Returns:
        The fit; α is NaN with fewer than ``least`` different positive values, or any that are not finite.

    Raises:
        ValueError: if ``least`` is below 2, or the values are complex.

    >>> quantiles = (torch.arange(1000) + 0.5) / 1000
    >>> fit = power_law(2 * (1 - quantiles) ** (-1 / 1.5))  # P(X > x) = (x/2)^−1.5
    >>> round(fit.alpha, 1), fit.tail > 900
    (2.5, True)
    """
    if least < 2:
        raise ValueError(f"a tail needs two values at least, got least = {least}")
    x = real(values).detach().double().flatten()
    if not bool(x.isfinite().all()):
        return PowerLaw(math.nan, math.nan, math.nan, 0)
    logs = x[x > 0].log().sort().values
    best = PowerLaw(math.nan, math.nan, math.inf, 0)
    for start in range(len(logs) - least + 1):
        if start and logs[start] == logs[start - 1]:
            continue  # the tail begins with the first of equal values
        over = logs[start:] - logs[start]
        total = float(over.sum())
        if total <= 0:
            break
        count = len(over)
        slope = count / total
        fitted = 1 - (-slope * over).exp()
        steps = torch.arange(count + 1, dtype=torch.float64, device=x.device) / count
        distance = float(torch.maximum((steps[1:] - fitted).max(), (fitted - steps[:-1]).max()))
        if distance < best.distance:
            best = PowerLaw(1 + slope, float(logs[start].exp()), distance, count)
    return best if best.tail else PowerLaw(math.nan, math.nan, math.nan, 0)


def marchenko_pastur_bulk(matrix: Tensor) -> Bulk:
    """Split the spectrum of WᴴW/n, n the longer side, into a random bulk and spikes above it.

    The edge is σ²(√r + √c)²/n, where r and c are the most non-zero entries of a row and of a column. For a dense matrix
    it is that of Marchenko and Pastur. Sparse random matrices have eigenvalues above that law's edge. The longest row
    and column bound the norm of a matrix with independent entries instead. See Bandeira and van Handel 2016, arXiv
    1408.6185, theorem 3.1. The largest eigenvalue of noise fluctuates around the edge by about σ²(√r + √c)(1/√r +
    1/√c)^⅓/n (Johnstone 2001, Annals of Statistics 29). A spike is more than three times that above it.

    The variance σ² is that of the bulk alone. Eigenvalues above the edge are removed, and the variance is computed
    again from the rest, until nothing changes (as in Laloux et al. 1999, cond-mat/9810255). Directions that the matrix
    has only by rounding (:func:`surgecollapse.functional.rounding_level`) are zeros: no bulk, no spikes.

    Args:
        matrix: ``(rows, columns)``, real or complex; a convolution's weight as ``weight.flatten(1)``.

    Returns:
        Variance and edge of the bulk, and the number of spikes; variance and edge are 0 where all directions are
        spikes.

    Raises:
        ValueError: if ``matrix`` is not of two dimensions, or not finite.

    >>> noise = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    >>> bulk = marchenko_pastur_bulk(noise + torch.outer(torch.ones(200), torch.ones(400)))
    >>> bulk.spikes, round(bulk.variance, 1)
    (1, 1.0)
    """
    if matrix.dim() != 2 or not bool(matrix.isfinite().all()):
        raise ValueError(f"expected a finite matrix (rows, columns), got shape {tuple(matrix.shape)}")
    wide, floor = as_double(matrix), rounding_level(matrix)
    # Rows and columns that are zero are no part of the random matrix.
    live = wide[wide.norm(dim=1) > floor][:, wide.norm(dim=0) > floor]
    if not live.numel():
        return Bulk(0.0, 0.0, 0)
    entries = live != 0
    row, column = int(entries.sum(1).max()), int(entries.sum(0).max())
    size, filled = max(matrix.shape), float(entries.double().mean())
    sigma = torch.linalg.svdvals(live)
    # Largest first.
    eigenvalues = torch.where(sigma > floor, sigma, 0.0).square() / size
    reach = (math.sqrt(row) + math.sqrt(column)) ** 2 / size
    width = (math.sqrt(row) + math.sqrt(column)) * (row**-0.5 + column**-0.5) ** (1 / 3) / size
    inside = len(eigenvalues)
    variance = 0.0
    while inside:
        # The mean square of the entries is that of the eigenvalues, times n over the longer side that is left.
        rest = float(eigenvalues[len(eigenvalues) - inside :].mean())
        variance = rest * size / (max(live.shape) * filled)
        if variance <= 0:
            break
        still = int((eigenvalues <= variance * (reach + 3 * width)).sum())
        if still >= inside:
            break
        inside = still
    rank = int((eigenvalues > 0).sum())
    return Bulk(variance, variance * reach, min(rank, len(eigenvalues) - inside))
