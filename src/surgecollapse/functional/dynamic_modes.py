"""Dynamic-mode decomposition: how far a short history is from a linear recurrence."""

from __future__ import annotations

import torch
from torch import Tensor


def dynamic_mode_residual(history: Tensor, *, delays: int = 4, rank: int = 4) -> Tensor:
    """Share of a history's motion that the best linear map of a given rank does not predict, one step ahead.

    Of the snapshots x_0 … x_T the differences y_t = x_{t+1} − x_t are taken, so that constants do not count. Column t
    of the Hankel matrix H stacks y_t … y_{t+delays−1}. Let X be all columns of H but the last, Y all but the first, and
    V_r the leading ``rank`` right singular vectors of X. The map that fits Y best leaves::

        residual = ‖Y − Y V_r V_rᵀ‖ / ‖Y‖,  in [0, 1]

    It is 0 where x_{t+1} = A x_t + b with at most ``rank`` modes in motion, and 0 where nothing moves. Singular values
    below the rounding of the largest one do not count.

    Args:
        history: ``(T + 1, d)``, oldest first; at least ``delays + 3`` snapshots.
        delays: snapshots that a column stacks, at least 1.
        rank: modes, at least 1.

    Returns:
        A scalar in float64; NaN if a snapshot is not finite.

    Raises:
        ValueError: for delays or a rank below 1, or too short a history.

    >>> t = torch.arange(12, dtype=torch.float64)
    >>> waves = torch.stack([5 + 0.5**t, 0.9**t - 1], 1)
    >>> bool(dynamic_mode_residual(waves, rank=2) < 1e-6), bool(dynamic_mode_residual(waves, rank=1) > 1e-3)
    (True, True)
    """
    if delays < 1 or rank < 1:
        raise ValueError(f"delays and rank must be at least 1, got {delays} and {rank}")
    if history.ndim != 2 or len(history) < delays + 3:
        raise ValueError(
            f"expected a history (snapshots, numbers) of at least {delays + 3} snapshots, got {tuple(history.shape)}"
        )
    wide = history.double()
    finite = wide.isfinite().all()
    moves = torch.where(finite, wide, 0.0).diff(dim=0)
    products = moves @ moves.T
    # The Gram matrix of Hankel columns is the sum of the Gram matrix of single columns along its diagonals.
    count = len(moves) - delays + 1
    gram = torch.stack([products[k : k + count, k : k + count] for k in range(delays)]).sum(0)
    values, vectors = torch.linalg.eigh(gram[:-1, :-1])
    top = values[-1].clamp(min=0.0)
    kept = values > top * torch.finfo(torch.float64).eps * count
    kept[:-rank] = False
    after = gram[1:, 1:]
    energy = after.trace()
    explained = ((vectors.T @ after @ vectors).diagonal() * kept).sum()
    share = torch.where(energy > 0, 1.0 - explained / energy.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return torch.where(finite, share.clamp(0.0, 1.0).sqrt(), torch.nan)
