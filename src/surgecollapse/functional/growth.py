"""Growth: which closed weights to reopen, and how many in each layer. The highest scores are reopened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import isfinite

import torch
from torch import Tensor

from surgecollapse.functional.apportion import apportion


def random(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Score at random, uniformly on [0, 1): SET regrows so (Mocanu et al. 2018, arXiv 1707.04780).

    Args:
        shape: of the parameter.
        generator: the only source of randomness; its state moves on. The scores are made on its device.

    Returns:
        float32 tensor of that shape.

    >>> random((2, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    return torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=torch.float32)


def gradient(weight: Tensor, signal: Tensor | None) -> Tensor:
    """Score by the absolute signal |g|: a closed weight of large gradient lowers the loss fastest.

    With the dense gradient of one step this is RigL's criterion (Evci et al. 2020, arXiv 1911.11134); with its moving
    average or the optimizer's first moment, that of sparse momentum (Dettmers and Zettlemoyer 2019, arXiv 1907.04840).

    Args:
        weight: parameter of any shape; only its shape is used.
        signal: dense gradient, its average or momentum, of that shape.

    Returns:
        New tensor of that shape and the dtype of ``signal``, at least 0.

    Raises:
        ValueError: if ``signal`` is missing or of another shape.

    >>> gradient(torch.zeros(2), torch.tensor([-3.0, 1.0]))
    tensor([3., 1.])
    """
    if signal is None:
        raise ValueError("growth by gradient needs a dense gradient, got none: call backward first, or grow 'random'")
    if signal.shape != weight.shape:
        raise ValueError(f"the signal must have the weight's shape {tuple(weight.shape)}, got {tuple(signal.shape)}")
    return signal.detach().abs()


def sum_of_open(momentum: Tensor, live: Tensor) -> Tensor:
    """Sum of |momentum| over the live weights, in float32 at least; 0-dimensional."""
    dtype = torch.promote_types(momentum.dtype, torch.float32)
    return torch.where(live, momentum.detach().abs(), 0).sum(dtype=dtype)


def share_by_means(
    sums: Mapping[str, float], opened: Mapping[str, int], closed: Mapping[str, int], count: int
) -> dict[str, int]:
    """Share regrowth among layers by the mean momentum of their open weights.

    Layer i gets the share mᵢ/Σm of ``count``, mᵢ = mean |momentum| over its open weights (Dettmers and Zettlemoyer
    2019, arXiv 1907.04840, section 3). A layer takes no more than it has closed; the others share the rest in
    proportion. If all momenta are zero, the numbers of closed weights decide. Unlike in the paper's code, the shares
    are rounded by largest remainder and sum to exactly ``count``.

    Args:
        sums: of |momentum| over the open weights of each layer.
        opened: number of open weights of each layer.
        closed: number of closed weights of each layer.
        count: number of weights to reopen.

    Raises:
        ValueError: if ``count`` is out of range, or a sum is not finite.

    >>> share_by_means({"a": 2.0, "b": 1.0}, {"a": 1, "b": 1}, {"a": 3, "b": 3}, 3)
    {'a': 2, 'b': 1}
    """
    for name, total in sums.items():
        if not isfinite(total):
            raise ValueError(f"the momentum of {name!r} is not finite: skip this decision")
    if not 0 <= count <= sum(closed.values()):
        raise ValueError(f"count must lie in [0, {sum(closed.values())}], the number of closed weights, got {count}")
    means = {n: Fraction(total) / opened[n] if opened[n] else Fraction(0) for n, total in sums.items()}
    return apportion(means, dict.fromkeys(sums, 0), closed, count)
