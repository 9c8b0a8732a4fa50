"""The share of what is left of the tensor's energy (LAMP)."""

from __future__ import annotations

import torch
from torch import Tensor

from surgecollapse.functional.criteria.registry import criterion


@criterion("lamp", needs_gradient=False)
def lamp(weight: Tensor, signal: Tensor | None = None) -> Tensor:
    """Score by the share of what is left of the tensor's energy, wᵢ² / Σ wⱼ² over |wⱼ| ≥ |wᵢ| (LAMP).

    Lee et al. 2021 (arXiv 2010.07611, eq. 3). Inside a tensor the order is that of magnitude. Scores of different
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
