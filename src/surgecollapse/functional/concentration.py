"""How few components hold most of a vector: of Fourier components, of weights, of eigenvectors."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_participation_ratio(amplitudes: Tensor) -> Tensor:
    """Σ|x|⁴/(Σ|x|²)² along the last axis: 1/n if all are equal, 1 if one holds everything.

    Of the Fourier components of weights it tells nets that grokked modular arithmetic from those that memorized (Doshi
    et al. 2023, arXiv 2310.13061, with r = 2). Its inverse is the number of components that take part.

    Args:
        amplitudes: ``(…, n)``, real or complex; of *powers* |x|² pass their square roots.

    Returns:
        ``(…)`` in [1/n, 1], in float32 at least; NaN where all are zero or one is not finite.

    >>> inverse_participation_ratio(torch.tensor([[1.0, -1, 1, -1], [0, 3, 0, 0]]))
    tensor([0.2500, 1.0000])
    """
    size = _wide(amplitudes.abs())
    share = size / size.amax(-1, keepdim=True)  # fourth powers overflow early
    return share.pow(4).sum(-1) / share.square().sum(-1).square()


def gini(values: Tensor) -> Tensor:
    """Gini coefficient along the last axis: mean absolute difference of two values over twice the mean.

    G = Σ_i (2i − n − 1)·x_(i)/(n·Σx) for x_(1) ≤ … ≤ x_(n). Nanda et al. (2023, arXiv 2301.05217, section 5) follow
    grokking by it, on the norms of Fourier components.

    Args:
        values: ``(…, n)``, at least 0.

    Returns:
        ``(…)`` in [0, 1 − 1/n], in float32 at least: 0 if all are equal, 1 − 1/n if one holds everything; NaN where all
        are zero or one is negative or not finite.

    >>> gini(torch.tensor([[2.0, 2, 2, 2], [0, 3, 0, 0], [1, 2, 3, 4]]))
    tensor([0.0000, 0.7500, 0.2500])
    """
    n = values.shape[-1]
    ordered = _wide(values).sort(-1).values
    share = ordered / ordered[..., -1:]
    ranks = torch.arange(1, n + 1, dtype=share.dtype, device=share.device)
    found: Tensor = ((2 * ranks - n - 1) * share).sum(-1) / (n * share.sum(-1))
    return torch.where((values >= 0).all(-1), found, torch.nan)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
