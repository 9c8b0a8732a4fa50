"""Dormancy: how little a unit says compared with the others of its layer."""

from __future__ import annotations

import torch
from torch import Tensor


def dormancy(activations: Tensor) -> Tensor:
    """Score units by their mean activation over that of the layer.

    sᵢ = E|hᵢ| / (1/H)·Σₖ E|hₖ|; a unit with sᵢ ≤ τ is called τ-dormant (Sokar, Agarwal, Castro, Evci 2023, arXiv
    2302.12902, definition 3.1). The scores of a layer average 1 and do not change with its scale. Where all units are
    silent, all scores are 0 (the published code adds 1e-9 to the mean instead).

    Args:
        activations: (rows, units), after the nonlinearity; positions of images or sequences count as rows. Low
            precision is averaged in float32.

    Returns:
        New tensor (units,), at least 0; NaN where an activation of the layer is not finite.

    Raises:
        ValueError: if there are not exactly two dimensions.

    >>> dormancy(torch.tensor([[1.0, 0.0, -3.0], [3.0, 0.0, 5.0]]))
    tensor([1., 0., 2.])
    """
    if activations.ndim != 2:
        raise ValueError(f"activations must be (rows, units), got the shape {tuple(activations.shape)}: flatten rows")
    wide = activations.detach().to(torch.promote_types(activations.dtype, torch.float32))
    each = wide.abs().mean(0)
    mean = each.mean()
    return torch.where(mean == 0, torch.zeros_like(each), each / mean)
