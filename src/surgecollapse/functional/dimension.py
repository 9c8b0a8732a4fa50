"""Intrinsic dimension: of a cloud of points by its neighbors, of a minimum by its curvature."""

from __future__ import annotations

import torch
from torch import Tensor


def two_nn(points: Tensor, discard: float = 0.1) -> Tensor:
    """Intrinsic dimension from the two nearest neighbors (Facco et al. 2017, arXiv 1803.06992).

    With μ = r₂/r₁, P(μ > x) = x^−d, whatever the density. The estimate d̂ is that of maximum likelihood with the
    largest ``discard`` of the ratios censored. Over the m smallest, d̂ = m/(Σ ln μᵢ + (n − m)·ln μ₍ₘ₎). The paper fits
    a line to the same ratios with the largest tenth left out.

    Args:
        points: ``(n, features)``, at least 3 different ones; the distances take n² numbers.
        discard: share of the largest ratios that is censored, in [0, 1).

    Returns:
        0-dim tensor above 0; NaN where fewer than 3 points differ or one is not finite.

    Raises:
        ValueError: if ``points`` is not of two dimensions or ``discard`` is out of range.

    >>> plane = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 9).triu()
    >>> 1.8 < two_nn(plane).item() < 2.2
    True
    """
    if points.dim() != 2:
        raise ValueError(f"expected points (n, features), got shape {tuple(points.shape)}")
    if not 0.0 <= discard < 1.0:
        raise ValueError(f"discard must be in [0, 1), got {discard}")
    ratios = _ratios(points)
    count = ratios.numel()
    used = max(1, int(count * (1.0 - discard) + 0.5))
    if count < 3:
        return points.new_tensor(torch.nan)
    logs = ratios.log().sort().values[:used]
    found: Tensor = (logs.sum() + (count - used) * logs[-1]).reciprocal() * used
    return found


def _ratios(points: Tensor) -> Tensor:
    """r₂/r₁ of every point, copies of a point taken once."""
    wide = points.detach().double()
    if not bool(wide.isfinite().all()):
        return wide.new_zeros(0)
    different: Tensor = torch.unique(wide, dim=0)
    if len(different) < 3:
        return wide.new_zeros(0)
    nearest = (
        torch.cdist(different, different, compute_mode="donot_use_mm_for_euclid_dist").topk(3, largest=False).values
    )
    return (nearest[:, 2] / nearest[:, 1]).to(torch.promote_types(points.dtype, torch.float32))


def levina_bickel(points: Tensor, neighbors: int = 10) -> Tensor:
    """Intrinsic dimension by maximum likelihood over k neighbors (Levina and Bickel 2004, NIPS).

    The inverse d̂⁻¹ is the mean over points and over j < k of ln(r_k/r_j). So inverse estimates are averaged and the
    mean is inverted, which is unbiased in 1/d. This is the correction of MacKay and Ghahramani. The paper averages the
    estimates themselves.

    Args:
        points: ``(n, features)``.
        neighbors: k, from 3 to the number of different points − 1.

    Returns:
        0-dim tensor above 0; NaN where there are too few different points or one is not finite.

    Raises:
        ValueError: if ``points`` is not of two dimensions or ``neighbors`` is below 3.

    >>> square = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0))
    >>> 1 < levina_bickel(square + 0.01 * torch.sin(square * 7)).item() < 3
    True
    """
    if points.dim() != 2:
        raise ValueError(f"expected points (n, features), got shape {tuple(points.shape)}")
    if neighbors < 3:
        raise ValueError(f"neighbors must be at least 3, got {neighbors}")
    wide = points.detach().double()
    if not bool(wide.isfinite().all()):
        return points.new_tensor(torch.nan)
    different: Tensor = torch.unique(wide, dim=0)
    if len(different) <= neighbors:
        return points.new_tensor(torch.nan)
    distances = torch.cdist(different, different, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(neighbors + 1, largest=False).values[:, 1:]
    inverse = (nearest[:, -1:] / nearest[:, :-1]).log().mean(1)
    return (1.0 / inverse.mean()).to(torch.promote_types(points.dtype, torch.float32))


def hessian_effective_dimension(eigenvalues: Tensor, scale: float) -> Tensor:
    """Σ h/(h + z): how many directions the loss determines (MacKay 1992; Maddox et al., arXiv 2003.02139, eq. 3).

    Args:
        eigenvalues: of the Hessian; negative ones count as zero.
        scale: z > 0, the curvature below which a direction counts as flat.

    Returns:
        0-dim tensor in [0, length].

    Raises:
        ValueError: if ``scale`` is not above 0.

    >>> hessian_effective_dimension(torch.tensor([1.0, 1.0, 0.0]), scale=1.0)
    tensor(1.)
    """
    if not scale > 0.0:
        raise ValueError(f"scale must be above 0, got {scale}")
    curvature = eigenvalues.clamp(min=0.0)
    return (curvature / (curvature + scale)).sum()
