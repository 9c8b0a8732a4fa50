"""The first-order change of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from surgecollapse.functional.criteria.registry import criterion


@criterion("taylor")
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
