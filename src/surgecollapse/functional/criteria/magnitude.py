"""The absolute value."""

from __future__ import annotations

from torch import Tensor

from surgecollapse.functional.criteria.registry import criterion


@criterion("magnitude", needs_gradient=False)
def magnitude(weight: Tensor, signal: Tensor | None = None) -> Tensor:
    """Score by absolute value, |w|: pruning the lowest removes the least energy.

    Args:
        weight: parameter of any shape.
        signal: not used.

    Returns:
        New tensor of the shape and dtype of ``weight``, at least 0.

    >>> import torch
    >>> magnitude(torch.tensor([-2.0, 0.5]))
    tensor([2.0000, 0.5000])
    """
    del signal
    return weight.detach().abs()
