"""A small random picture of all weights, from which distances and principal components can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class CountSketch:
    """Count sketch: s_b = Σ_{i: h(i)=b} σ(i)·w_i with random buckets h and signs σ (Charikar et al. 2002).

    Linear, and unbiased for inner products: E⟨s(u), s(v)⟩ = ⟨u, v⟩, with relative error about √(2/size). The
    map has a fixed seed, so that runs of equal shapes share it.

    Args:
        parameters: the tensors to picture, always in this order.
        size: numbers in a sketch.

    >>> weights = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    >>> float((CountSketch(weights)() ** 2).sum())
    25.0
    """

    def __init__(self, parameters: Sequence[Tensor], size: int = 1_024) -> None:
        self._parameters = list(parameters)
        self._size = size
        generator = torch.Generator().manual_seed(0)
        count = sum(parameter.numel() for parameter in self._parameters)
        self._bucket = torch.randint(0, size, (count,), generator=generator, dtype=torch.int32)
        self._sign = torch.randint(0, 2, (count,), generator=generator, dtype=torch.int8).mul_(2).sub_(1)

    @torch.no_grad()
    def __call__(self) -> NDArray[np.float32]:
        """The sketch of the weights as they are now, float32 (size,)."""
        result = torch.zeros(self._size)
        start = 0
        for parameter in self._parameters:
            stop = start + parameter.numel()
            values = parameter.detach().float().cpu().flatten() * self._sign[start:stop]
            result.index_add_(0, self._bucket[start:stop], values)
            start = stop
        array: NDArray[np.float32] = result.numpy()
        return array
