"""Pictures of roads, drawn, with the steering that each of them needs: a small stand-in for driving."""

from __future__ import annotations

import torch
from torch import Tensor

_HORIZON = 0.35
"""Share of the height that is sky."""


def roads(count: int, *, seed: int, height: int = 16, width: int = 32) -> tuple[Tensor, Tensor]:
    """Random roads as a camera in the car sees them, and the steering.

    A flat road of constant curvature κ ∈ [−1, 1], seen from a place o ∈ [−1, 1] beside its middle. Sky, verge and road
    have random gray values, and every pixel has noise of σ = 0.02. See :func:`picture` and :func:`steering`.

    Args:
        count: pictures.
        seed: of all draws.
        height: rows of pixels.
        width: columns.

    Returns:
        Gray values ``(count, 1, height, width)`` in [0, 1]; steering ``(count,)``, to the right above zero.
    """
    draws = torch.Generator().manual_seed(seed)
    curvature, offset = torch.rand(2, count, generator=draws) * 2 - 1
    grays = torch.tensor([[0.7], [0.45], [0.15]]) + 0.2 * torch.rand(3, count, generator=draws)
    images = picture(curvature, offset, grays, height=height, width=width)
    images = images + 0.02 * torch.randn(images.shape, generator=draws)
    return images.clamp(0, 1), steering(curvature, offset)


def steering(curvature: Tensor, offset: Tensor) -> Tensor:
    """What keeps the car on the road: κ follows the curve, −o/2 leads back to the middle.

    >>> steering(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.0])).tolist()
    [-0.25, 1.0]
    """
    return curvature - offset / 2


def picture(curvature: Tensor, offset: Tensor, grays: Tensor, *, height: int = 16, width: int = 32) -> Tensor:
    """Draw roads, without noise.

    A row at depth share v ∈ (0, 1], from the horizon to the bumper, shows the road at the distance 1/v. Its middle is
    at x = −o·v + κ·(1/v − 1)/6 and its half width 0.6·v, where x runs from −1 to 1. The middle line is bright.

    Args:
        curvature: κ ``(n,)``, to the right above zero.
        offset: o ``(n,)``, how far the car is to the right of the middle.
        grays: values of sky, verge and road, ``(3, n)`` in [0, 1].
        height: rows of pixels.
        width: columns.

    Returns:
        ``(n, 1, height, width)``.
    """
    sky, verge, road = (gray.view(-1, 1, 1) for gray in grays)
    rows = (torch.arange(height) + 0.5) / height
    near = ((rows - _HORIZON) / (1 - _HORIZON)).clamp_min(0.05).view(1, -1, 1)
    x = ((torch.arange(width) + 0.5) / width * 2 - 1).view(1, 1, -1)
    middle = -offset.view(-1, 1, 1) * near + curvature.view(-1, 1, 1) * (1 / near - 1) / 6
    away = (x - middle).abs()
    ground = torch.where(away < 0.6 * near, road, verge)
    ground = torch.where(away < 0.06 * near, 0.95, ground)
    return torch.where((rows < _HORIZON).view(1, -1, 1), sky, ground).unsqueeze(1)
