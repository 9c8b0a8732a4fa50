"""Corrupted images: sixteen kinds in five severities, to measure robustness on pixels that were never trained on."""

from __future__ import annotations

import math
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Tensor, kind: str, severity: int, *, seed: int = 0) -> Tensor:
    """Images as a disturbed sensor or a moved camera would give them.

    The fifteen kinds of MNIST-C (Mu and Gilmer 2019, arXiv 1906.02337) and Gaussian noise. Their definitions are
    followed in words, with strengths of our own after ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261). So
    figures do not compare with published ones.

    Args:
        images: gray values in [0, 1], ``(n, 1, height, width)``.
        kind: a key of :data:`CORRUPTIONS`.
        severity: 1, the weakest, to 5.
        seed: of all draws.

    Returns:
        Images of the same shape, in [0, 1].

    Raises:
        ValueError: for an unknown kind, a severity out of range, or images of another shape or range.

    >>> image = torch.zeros(1, 1, 8, 8)
    >>> [round(float(corrupt(image, "brightness", severity).mean()), 2) for severity in (1, 5)]
    [0.1, 0.5]
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {kind!r}; there are {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, got {severity!r}")
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"expected images of shape (n, 1, height, width), got {tuple(images.shape)}")
    if images.numel() and (images.min() < 0 or images.max() > 1):
        raise ValueError(f"expected gray values in [0, 1], got {images.min():g} to {images.max():g}")
    draws = torch.Generator().manual_seed(seed)
    return CORRUPTIONS[kind](images, severity - 1, draws).clamp(0, 1)


def moved(images: Tensor, matrix: Tensor) -> Tensor:
    """Images seen through an affine map, black outside.

    Args:
        images: ``(n, 1, height, width)``.
        matrix: ``(n, 2, 3)`` or ``(2, 3)``: from the place in the result to the place in the image. Both go from −1 to
            1 with (x, y) in this order.

    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3) / 9
    >>> torch.allclose(moved(image, torch.tensor([[0.0, -1, 0], [1, 0, 0]])), image.rot90(1, (2, 3)), atol=1e-6)
    True
    """
    grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with σ in pixels, black outside."""
    radius = max(1, math.ceil(3 * sigma))
    places = torch.arange(-radius, radius + 1, dtype=images.dtype)
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    rows = F.conv2d(images, weights.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(rows, weights.view(1, 1, 1, -1), padding=(0, radius))


def edges(images: Tensor) -> Tensor:
    """Norm of the Sobel gradient, where 1 is that of a step from black to white.

    >>> float(edges(torch.ones(1, 1, 5, 5))[0, 0, 2, 2])
    0.0
    """
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=images.dtype) / 4
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    kernels = torch.stack([across, across.T]).unsqueeze(1)
    found: Tensor = F.conv2d(padded, kernels).norm(dim=1, keepdim=True)
    return found


def smooth_noise(shape: tuple[int, ...], draws: torch.Generator) -> Tensor:
    """Noise of several scales, each twice as fine and half as strong as the one before; every image from 0 to 1."""
    count, _, height, width = shape
    total = torch.zeros(count, 1, height, width)
    size, strength = 2, 1.0
    while size <= min(height, width):
        coarse = torch.rand(count, 1, size, size, generator=draws)
        total += strength * F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
        size, strength = size * 2, strength / 2
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-12)


def _gaussian_noise(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    sigma = (0.08, 0.16, 0.24, 0.36, 0.5)[at]
    return images + sigma * torch.randn(images.shape, generator=draws)


def _shot_noise(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    photons = (60, 25, 12, 5, 3)[at]
    return torch.poisson(images * photons, generator=draws) / photons


def _impulse_noise(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    share = (0.03, 0.06, 0.12, 0.2, 0.3)[at]
    hit = torch.rand(images.shape, generator=draws)
    return torch.where(hit < share / 2, 0.0, torch.where(hit < share, 1.0, images))


def _glass_blur(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    sigma, reach = ((0.4, 1), (0.5, 1), (0.6, 1), (0.7, 2), (0.8, 2))[at]
    return blurred(jittered(blurred(images, sigma), reach, draws), sigma)


def jittered(images: Tensor, reach: int, draws: torch.Generator) -> Tensor:
    """Every pixel from a random place at most ``reach`` pixels away in each direction; places end at the border."""
    count, _, height, width = images.shape
    offsets = torch.randint(-reach, reach + 1, (2, count, height, width), generator=draws)
    rows = (torch.arange(height).view(1, -1, 1) + offsets[0]).clamp(0, height - 1)
    columns = (torch.arange(width).view(1, 1, -1) + offsets[1]).clamp(0, width - 1)
    return images.flatten(1).gather(1, (rows * width + columns).flatten(1)).view_as(images)


def _motion_blur(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    length = (3, 4, 6, 8, 10)[at]
    angle = math.pi * torch.rand(len(images), generator=draws)
    steps = 2 * length + 1
    total = torch.zeros_like(images)
    for place in torch.linspace(-length / 2, length / 2, steps).tolist():
        shift = 2 * place * torch.stack([angle.cos(), angle.sin()], 1)
        total += moved(images, _matrices(len(images), shift=shift / torch.tensor(images.shape[:1:-1])))
    return total / steps


def _shear(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    amount = (0.2, 0.35, 0.5, 0.65, 0.8)[at] * _signs(len(images), draws)
    matrix = _matrices(len(images))
    matrix[:, 0, 1] = amount
    return moved(images, matrix)


def _scale(images: Tensor, at: int, draws: torch.Generator) -> Tensor:  # noqa: ARG001
    return moved(images, _matrices(len(images)) / (0.9, 0.8, 0.7, 0.6, 0.5)[at])


def _rotate(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    angle = math.radians((10, 20, 30, 40, 50)[at]) * _signs(len(images), draws)
    matrix = _matrices(len(images))
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin(), angle.sin()
    return moved(images, matrix)


def _translate(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    share = (0.04, 0.08, 0.12, 0.16, 0.2)[at]
    angle = 2 * math.pi * torch.rand(len(images), generator=draws)
    return moved(images, _matrices(len(images), shift=2 * share * torch.stack([angle.cos(), angle.sin()], 1)))


def _brightness(images: Tensor, at: int, draws: torch.Generator) -> Tensor:  # noqa: ARG001
    return images + (0.1, 0.2, 0.3, 0.4, 0.5)[at]


def _stripe(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    width = images.shape[3]
    wide = max(1, round(width * (0.04, 0.08, 0.12, 0.2, 0.3)[at]))
    start = torch.randint(width // 4, width - width // 4 - wide + 1, (len(images), 1, 1, 1), generator=draws)
    columns = torch.arange(width)
    return torch.where((columns >= start) & (columns < start + wide), 1 - images, images)


def _fog(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    thickness = (0.25, 0.5, 0.75, 1.0, 1.5)[at]
    return (images + thickness * smooth_noise(tuple(images.shape), draws)) / (1 + thickness)


def _spatter(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    share = (0.03, 0.06, 0.1, 0.15, 0.2)[at]
    drops = blurred(torch.randn(images.shape, generator=draws), 1.0)
    limit = drops.flatten(1).quantile(1 - share, dim=1).view(-1, 1, 1, 1)
    return torch.where(drops > limit, 0.8, images)


def _dotted_line(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    ends = torch.rand(len(images), (1, 2, 3, 4, 6)[at], 2, 2, generator=draws)
    for line in range(ends.shape[1]):
        images = _dots(images, ends[:, line, 0], ends[:, line, 1], every=3)
    return images


def _zigzag(images: Tensor, at: int, draws: torch.Generator) -> Tensor:
    turns = (2, 3, 4, 6, 8)[at]
    across = torch.linspace(0.05, 0.95, turns + 1)
    heights = torch.rand(len(images), turns + 1, generator=draws)
    for turn in range(turns):
        start, end = (torch.stack([across[k].expand(len(images)), heights[:, k]], 1) for k in (turn, turn + 1))
        images = _dots(images, start, end, every=1)
    return images


def _dots(images: Tensor, start: Tensor, end: Tensor, *, every: int) -> Tensor:
    """White pixels on the way from ``start`` to ``end``, (x, y) from 0 to 1; only each ``every``-th pixel."""
    count, _, height, width = images.shape
    steps = 2 * max(height, width)
    way = torch.linspace(0, 1, steps)[:: 2 * every].view(1, -1, 1)
    places = start[:, None] + way * (end - start)[:, None]
    columns = (places[..., 0] * width).long().clamp(0, width - 1)
    rows = (places[..., 1] * height).long().clamp(0, height - 1)
    return images.flatten(1).scatter(1, rows * width + columns, 1.0).view(count, 1, height, width)


def _edges(images: Tensor, at: int, draws: torch.Generator) -> Tensor:  # noqa: ARG001
    mixed = (0.4, 0.55, 0.7, 0.85, 1.0)[at]
    return (1 - mixed) * images + mixed * (edges(blurred(images, 0.5)) > 0.3)


def _matrices(count: int, shift: Tensor | None = None) -> Tensor:
    """``count`` identities, with what to add to the places."""
    matrix = torch.eye(2, 3).repeat(count, 1, 1)
    if shift is not None:
        matrix[:, :, 2] = shift
    return matrix


def _signs(count: int, draws: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count,), generator=draws) * 2.0 - 1


CORRUPTIONS = MappingProxyType(
    {
        "gaussian_noise": _gaussian_noise,
        "shot_noise": _shot_noise,
        "impulse_noise": _impulse_noise,
        "glass_blur": _glass_blur,
        "motion_blur": _motion_blur,
        "shear": _shear,
        "scale": _scale,
        "rotate": _rotate,
        "translate": _translate,
        "brightness": _brightness,
        "stripe": _stripe,
        "fog": _fog,
        "spatter": _spatter,
        "dotted_line": _dotted_line,
        "zigzag": _zigzag,
        "edges": _edges,
    }
)
"""Kinds by name; ``edges`` stands for the Canny edges of MNIST-C, without thinning."""
