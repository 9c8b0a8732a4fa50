"""Saliency: how much a weight matters. The lowest are pruned; one function for each criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from surgecollapse.protocols import Criterion


def magnitude(weight: Tensor, signal: Tensor | None = None) -> Tensor:
    """Score by absolute value, |w|: pruning the lowest removes the least energy.

    Args:
        weight: parameter of any shape.
        signal: not used.

    Returns:
        New tensor of the shape and dtype of ``weight``, at least 0.

    >>> magnitude(torch.tensor([-2.0, 0.5]))
    tensor([2.0000, 0.5000])
    """
    del signal
    return weight.detach().abs()


def taylor(weight: Tensor, signal: Tensor | None) -> Tensor:
    """Score by the first-order change of the loss when the weight goes, |w·g|.

    Molchanov et al. 2017 (arXiv 1611.06440, eq. 7) take it per feature map; here it is per weight, as in SNIP (Lee
    et al. 2019, arXiv 1810.02340). The product is taken in float32 for low-precision weights, where it underflows.

    Args:
        weight: parameter of any shape.
        signal: its dense gradient, of the same shape.

    Returns:
        New tensor of the shape of ``weight``, at least 0.

    Raises:
        ValueError: if ``signal`` is missing or of another shape.

    >>> taylor(torch.tensor([-2.0, 0.5]), torch.tensor([1.0, -8.0]))
    tensor([2., 4.])
    """
    if signal is None:
        raise ValueError("saliency 'taylor' needs the gradient of the weight, got none: call backward first")
    if signal.shape != weight.shape:
        raise ValueError(f"the gradient must have the weight's shape {tuple(weight.shape)}, got {tuple(signal.shape)}")
    dtype = torch.promote_types(torch.promote_types(weight.dtype, signal.dtype), torch.float32)
    return (weight.detach().to(dtype) * signal.detach()).abs()


def lamp(weight: Tensor, signal: Tensor | None = None) -> Tensor:
    """Score by the share of what is left of the tensor's energy, wᵢ² / Σ wⱼ² over |wⱼ| ≥ |wᵢ| (LAMP).

    Lee et al. 2021 (arXiv 2010.07611, eq. 3). Inside a tensor the order is that of magnitude; scores of different
    tensors compare whatever their scales, and the largest weight of each (score 1) goes last. Of equal magnitudes, the
    one of higher index has the higher score. Sums are taken in float64.

    Args:
        weight: parameter of any shape.
        signal: not used.

    Returns:
        New tensor of the shape of ``weight`` in float32 (float64 for float64 weights), in [0, 1]; 0 where it is 0.

    >>> lamp(torch.tensor([-2.0, 1.0, 0.0])).tolist()
    [1.0, 0.20000000298023224, 0.0]
    """
    del signal
    energy = weight.detach().double().square()
    ordered, places = energy.flatten().sort(stable=True)
    left = ordered.flip(0).cumsum(0).flip(0)
    score = torch.empty_like(ordered)
    score[places] = torch.where(ordered > 0, ordered / left, 0.0)
    return score.view(weight.shape).to(torch.promote_types(weight.dtype, torch.float32))


SALIENCY: dict[str, Criterion] = {"magnitude": magnitude, "taylor": taylor, "lamp": lamp}
"""Saliency criteria by name; ``magnitude`` is the default."""
WITHOUT_GRADIENT = frozenset({"magnitude", "lamp", "random"})
"""Those that need no gradient of the weight."""
