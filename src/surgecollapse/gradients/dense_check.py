"""Which gradients transforms can work on."""

from __future__ import annotations

import torch
from torch import Tensor


def check_dense(transform: object, grad: Tensor) -> None:
    """Check that a gradient is dense.

    Args:
        transform: who asks.
        grad: the gradient.

    Raises:
        TypeError: if it is sparse.
    """
    if grad.layout is not torch.strided:
        raise TypeError(
            f"{type(transform).__name__} needs dense gradients, got {grad.layout} of shape {tuple(grad.shape)}: build "
            "the embedding with sparse=False, or name the other parameters in parameters=, where the transform takes it"
        )
