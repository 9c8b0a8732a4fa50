"""Whether two gradient steps commute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor


class LocalLoss(Protocol):
    """Gradient and Hessian of a loss at some weights, such as :class:`surgecollapse.functional.Hessian`."""

    gradient: Tensor
    size: int

    def __matmul__(self, vector: Tensor, /) -> Tensor:
        """The product of the Hessian and a flat vector."""
        ...


def commutator_defect(first: LocalLoss, second: LocalLoss) -> Tensor:
    """How much the order of two gradient steps matters: ‖H_A g_B − H_B g_A‖ / (‖g_A‖‖g_B‖).

    A step of size η on batch A and then one on B ends at θ − η(g_A + g_B) + η²H_B g_A + O(η³). In the other order it
    ends at θ − η(g_A + g_B) + η²H_A g_B + O(η³). The distance between the two ends over ‖ηg_A‖‖ηg_B‖ is the published
    defect. This is its limit for small steps, and equal to it on quadratic losses for every η. It is 0 for equal
    batches, and where a gradient vanishes. Its unit is that of curvature.

    Args:
        first: Hessian and gradient of the loss of batch A.
        second: likewise of batch B, at the same weights.

    Raises:
        ValueError: if the two are of different weights.

    >>> from surgecollapse.functional import Hessian
    >>> along_x = Hessian(lambda w: w["w"][0].square() / 2 + w["w"][1], {"w": torch.tensor([1.0, 0.0])})
    >>> along_y = Hessian(lambda w: w["w"][0], {"w": torch.tensor([1.0, 0.0])})
    >>> round(commutator_defect(along_x, along_y).item(), 4)  # ‖(1, 0)‖ / (√2 · 1)
    0.7071
    """
    if first.size != second.size:
        raise ValueError(f"expected two losses of the same weights, got {first.size} and {second.size} weights")
    a, b = first.gradient, second.gradient
    gap = (first @ b - second @ a).norm()
    scale = a.norm() * b.norm()
    return torch.where(scale > 0, gap / scale.clamp(min=torch.finfo(scale.dtype).tiny), torch.zeros_like(gap))
