"""Which gradients transforms can work on."""

from __future__ import annotations

import torch
from torch import Tensor

from surgecollapse.torch_utils.shards import is_sharded


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


def check_whole(transform: object, grad: Tensor, because: str) -> None:
    """Check that a gradient is dense, and no shard of a distributed tensor.

    Args:
        transform: who asks.
        grad: the gradient.
        because: what would be wrong with a shard.

    Raises:
        TypeError: if it is sparse, or a shard.
    """
    check_dense(transform, grad)
    if is_sharded(grad):
        raise TypeError(
            f"{type(transform).__name__} needs whole gradients, got a distributed tensor of shape {tuple(grad.shape)}: "
            f"{because}; name those that are not sharded in parameters=, where the transform takes it"
        )
