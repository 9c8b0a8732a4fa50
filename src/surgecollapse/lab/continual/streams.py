"""Generated streams whose concept drifts, and how to judge predictions on them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Drift = Literal["none", "abrupt", "gradual", "recurring"]
DRIFTS: tuple[Drift, ...] = ("none", "abrupt", "gradual", "recurring")
_FEATURES = 10


def share_of_second(drift: Drift, length: int, periods: int = 4) -> Tensor:
    """Probability that a sample follows the second of two concepts, at each place of a stream.

    ``abrupt``: 0 up to the middle, then 1. ``gradual``: a logistic curve of a fifth of the length around the middle.
    ``recurring``: 0 and 1 in turn, ``periods`` of them. ``none``: 0.

    >>> share_of_second("recurring", 4).tolist(), share_of_second("abrupt", 4).tolist()
    ([0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0])
    """
    place = torch.arange(length, dtype=torch.float64) / length
    if drift == "abrupt":
        return (place >= 0.5).double()
    if drift == "gradual":
        return torch.sigmoid((place - 0.5) * 20 * 2)
    if drift == "recurring":
        return (place * periods).floor() % 2
    return torch.zeros(length, dtype=torch.float64)


def drifting_hyperplanes(
    length: int, drift: Drift, *, seed: int, noise: float = 0.05, stay: float | None = None
) -> tuple[Tensor, Tensor]:
    """Samples whose label is the side of a hyperplane, which another one replaces (after Hulten et al. 2001).

    Ten features uniform on [−1, 1]; both planes pass through the origin and are orthogonal to each other. So the old
    concept is right on half of the samples of the new one. A share of the labels is flipped.

    Args:
        length: samples.
        drift: when the second plane replaces the first, see :func:`share_of_second`.
        seed: of all draws.
        noise: share of flipped labels.
        stay: probability that a label is followed by the same one; samples are drawn until their label fits.
            ``None``: labels are independent.

    Returns:
        Features ``(length, 10)`` in float32, labels ``(length,)`` of 0 and 1.
    """
    draws = torch.Generator().manual_seed(seed)
    planes = torch.linalg.qr(torch.randn(_FEATURES, 2, generator=draws, dtype=torch.float64)).Q
    second = torch.rand(length, generator=draws, dtype=torch.float64) < share_of_second(drift, length)
    x = torch.rand(length, _FEATURES, generator=draws, dtype=torch.float64) * 2 - 1
    normals = planes.T[second.long()]
    side = (x * normals).sum(1)
    if stay is not None:
        switches = torch.rand(length, generator=draws) >= stay
        wanted = switches.long().cumsum(0) % 2 == 1
        # The mirror image of a sample lies on the other side, with the same density.
        x = torch.where(((side > 0) != wanted)[:, None], -x, x)
        side = (x * normals).sum(1)
    flipped = torch.rand(length, generator=draws) < noise
    return x.float(), ((side > 0) != flipped).long()


def second_sine(x: Tensor) -> Tensor:
    """Side of the curve x₀ = 0.5 + 0.3·sin(3π·x₁), on the left of which samples are 1 (SINE2)."""
    return x[:, 0] < 0.5 + 0.3 * torch.sin(3 * torch.pi * x[:, 1])


def drifting_sines(
    length: int, drift: Drift, *, seed: int, noise: float = 0.05, stay: float | None = None
) -> tuple[Tensor, Tensor]:
    """Samples on the sides of one curve, which another one replaces.

    Gama, Medas, Castillo and Rodrigues 2004 (SBIA, "Learning with drift detection"). Two features uniform on [0, 1].
    The label is 1 where x₀ < sin(x₁) (SINE1), then where :func:`second_sine` says so (SINE2). Both concepts are curved.
    A share of the labels is flipped.

    Args:
        length: samples.
        drift: when the second curve replaces the first, see :func:`share_of_second`.
        seed: of all draws.
        noise: share of flipped labels.
        stay: probability that a label is followed by the same one; samples are drawn until their label fits.
            ``None``: samples are independent.

    Returns:
        Features ``(length, 2)`` in float32, labels ``(length,)`` of 0 and 1.
    """
    draws = torch.Generator().manual_seed(seed)
    second = torch.rand(length, generator=draws, dtype=torch.float64) < share_of_second(drift, length)

    def sampled() -> tuple[Tensor, Tensor]:
        x = torch.rand(length, 2, generator=draws, dtype=torch.float64)
        return x, torch.where(second, second_sine(x), x[:, 0] < torch.sin(x[:, 1]))

    x, side = sampled()
    if stay is not None:
        wanted = (torch.rand(length, generator=draws) >= stay).long().cumsum(0) % 2 == 1
        while bool((side != wanted).any()):
            fresh, its = sampled()
            x = torch.where((side != wanted)[:, None], fresh, x)
            side = torch.where(side != wanted, its, side)
    flipped = torch.rand(length, generator=draws) < noise
    return x.float(), (side != flipped).long()


def repeat_last_label(y: Tensor) -> Tensor:
    """The predictions of the classifier that repeats the label before; 0 for the first sample.

    >>> repeat_last_label(torch.tensor([1, 1, 0])).tolist()
    [0, 1, 1]
    """
    return torch.cat([torch.zeros_like(y[:1]), y[:-1]])


def kappa_temporal(predictions: Tensor, y: Tensor) -> float:
    """Accuracy over that of :func:`repeat_last_label`: (p − p′)/(1 − p′); 1 is perfect, 0 no better, below 0 worse.

    Žliobaitė, Bifet, Read, Pfahringer and Holmes 2015, Machine Learning 98. NaN where repeating is always right.

    >>> y = torch.tensor([0, 0, 1, 1])
    >>> kappa_temporal(y, y), kappa_temporal(repeat_last_label(y), y), kappa_temporal(1 - y, y)
    (1.0, 0.0, -3.0)
    """
    right, repeated = (float((p == y).double().mean()) for p in (predictions, repeat_last_label(y)))
    return (right - repeated) / (1 - repeated) if repeated < 1 else math.nan
