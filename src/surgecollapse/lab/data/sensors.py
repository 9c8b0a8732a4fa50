"""Time series of several sensors of one machine, generated, and sensors that fail."""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS, STEPS, CLASSES = 8, 32, 6
FAILURES = ("silent", "stuck", "gaps")
FAILING = (1, 2, 3, 4, 5)
"""Numbers of failing channels, by severity."""


def sensor_series(count: int, *, seed: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Vibrations that eight sensors see of one source, and which of six states it is in.

    State k makes the source swing with k + 2 periods in the window, at a random phase φ and a random strength
    r ∈ [0.5, 1.5]. Channel c sees it late by c/8 of a period of its own scale, beside noise of σ = ``noise``::

        x_c(t) = r·sin(2π·(k + 2)·t/T + φ + 2π·c/8) + σ·ε

    Every channel tells the state by itself, so that a network can do without some of them.

    Args:
        count: series.
        seed: of all draws.
        noise: σ.

    Returns:
        Series ``(count, 8, 32)``; states ``(count,)`` from 0 to 5.
    """
    draws = torch.Generator().manual_seed(seed)
    states = torch.randint(CLASSES, (count,), generator=draws)
    phase = 2 * torch.pi * torch.rand(count, 1, 1, generator=draws)
    strength = 0.5 + torch.rand(count, 1, 1, generator=draws)
    time = torch.arange(STEPS) / STEPS
    late = torch.arange(CHANNELS).view(-1, 1) / CHANNELS
    swing = torch.sin(2 * torch.pi * ((states.view(-1, 1, 1) + 2) * time + late) + phase)
    return strength * swing + noise * torch.randn(swing.shape, generator=draws), states


def failed(series: Tensor, kind: str, channels: int, *, seed: int = 0) -> Tensor:
    """Series of which some channels fail, others in each series.

    ``silent``: they read 0 throughout. ``stuck``: from a random time on they repeat their last value. ``gaps``: each
    of their values is missing, and reads 0, with probability 1/2.

    Args:
        series: ``(n, channels, time)``.
        kind: one of :data:`FAILURES`.
        channels: how many fail, up to all.
        seed: of all draws.

    Returns:
        New series of the same shape.

    Raises:
        ValueError: for an unknown kind, or more failing channels than there are.

    >>> failed(torch.ones(1, 2, 3), "silent", 2).sum().item(), failed(torch.ones(1, 2, 3), "stuck", 2).sum().item()
    (0.0, 6.0)
    """
    if kind not in FAILURES:
        raise ValueError(f"unknown failure {kind!r}; there are {', '.join(FAILURES)}")
    count, every, steps = series.shape
    if not 0 <= channels <= every:
        raise ValueError(f"channels must be 0 to {every}, got {channels}")
    draws = torch.Generator().manual_seed(seed)
    order = torch.rand(count, every, generator=draws).argsort(1)
    broken = torch.zeros(count, every, dtype=torch.bool).scatter_(1, order[:, :channels], True).unsqueeze(2)
    if kind == "silent":
        return torch.where(broken, 0.0, series)
    if kind == "gaps":
        missing = torch.rand(series.shape, generator=draws) < 0.5
        return torch.where(broken & missing, 0.0, series)
    start = torch.randint(steps, (count, every, 1), generator=draws)
    last = torch.minimum(torch.arange(steps).expand_as(series), start)
    return torch.where(broken, series.gather(2, last), series)
