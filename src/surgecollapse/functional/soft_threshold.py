"""Soft thresholds: small weights become zero and the others shrink, with no jump between them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def soft_threshold(weight: Tensor, threshold: Tensor | float, p: float = 1.0) -> Tensor:
    """Shrink weights toward zero: sign(w)·(|w|ᵖ − tᵖ)₊^(1/p), and for p = 0 the hard threshold w·1[|w| > t].

    p = 1 is sign(w)·(|w| − t)₊, the proximal operator of the ℓ₁ norm. The greater p is, the less the weights above the
    threshold shrink. It is taken as w·(1 − (t/|w|)ᵖ)^(1/p), with 1 − (t/|w|)ᵖ = −expm1(p·log1p(−(|w| − t)/|w|)). So a
    weight just above the threshold keeps its relative precision and never becomes zero.

    Args:
        weight: w, finite, floating point, of any shape.
        threshold: t, finite and at least 0; a number, or a tensor that broadcasts to ``weight``; rounded to its dtype.
        p: 0, or at least 1.

    Returns:
        New tensor of the shape and dtype of ``weight``; exactly the entries with |w| ≤ t are zero.

    Raises:
        ValueError: if ``p`` is neither 0 nor at least 1.

    Reference:
        p = 1 in ST-3 (Vanderschueren and De Vleeschouwer 2023, arXiv 2212.01076), p = 3 in Feather (Glentis
        Georgoulakis et al. 2023, arXiv 2310.02448).

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0, p=0)
    tensor([-3.,  0.,  2.])
    """
    check_exponent(p)
    limit = torch.as_tensor(threshold, dtype=weight.dtype, device=weight.device)
    if p == 1:
        return weight - torch.maximum(torch.minimum(weight, limit), -limit)
    closed = weight.abs() <= limit
    if p == 0:
        return weight.masked_fill(closed, 0)
    size = weight.abs().to(torch.promote_types(weight.dtype, torch.float32))
    share = (size - limit).div_(size)  # of an open weight in (0, 1]; what closed ones give is thrown away
    kept = share.neg_().log1p_().mul_(p).expm1_().neg_().pow_(1.0 / p).mul_(weight)
    return kept.masked_fill_(closed, 0).to(weight.dtype)


def soft_threshold_inverse(value: Tensor, threshold: float, p: float = 1.0) -> Tensor:
    """The weights whose :func:`soft_threshold` is ``value``: sign(v)·(|v|ᵖ + tᵖ)^(1/p), and 0 where v is 0.

    Args:
        value: v, floating point, of any shape.
        threshold: t, finite and at least 0.
        p: 0, or at least 1; for 0 the weights are the values.

    Returns:
        New tensor of the shape and dtype of ``value``.

    Raises:
        ValueError: if ``p`` is neither 0 nor at least 1.

    >>> soft_threshold_inverse(torch.tensor([-2.0, 0.0, 1.0]), 1.0)
    tensor([-3.,  0.,  2.])
    """
    check_exponent(p)
    if p == 0 or threshold == 0.0:
        return value.clone()
    wide = value.abs().to(torch.promote_types(value.dtype, torch.float32))
    greater, smaller = wide.clamp(min=threshold), wide.clamp(max=threshold)
    return greater.mul_(smaller.div_(greater).pow_(p).add_(1.0).pow_(1.0 / p)).to(value.dtype).mul_(value.sign())


def magnitude_restoring_scale(weight: Tensor, thresholded: Tensor) -> Tensor:
    """Scale that gives the open weights their magnitude back: Σ|w| / Σ|v|, both over the entries where v is not 0.

    One a tensor, and over the open weights alone; ST-3 scales otherwise (:func:`channel_scale`).

    Args:
        weight: w, before the threshold.
        thresholded: v, after it, of the same shape.

    Returns:
        Scalar in float32 (float64 for float64 weights), 1 where no weight is open.

    >>> magnitude_restoring_scale(torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([-2.0, 0.0, 1.0]))
    tensor(1.6667)
    """
    before, after = magnitudes(weight, thresholded)
    return torch.where(after > 0, before / after, torch.ones_like(after))


def magnitudes(weight: Tensor, thresholded: Tensor) -> tuple[Tensor, Tensor]:
    """Σ|w| and Σ|v| over the entries where v is not 0: what :func:`magnitude_restoring_scale` divides."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return weight.abs().mul_(thresholded != 0).sum(dtype=wide), thresholded.abs().sum(dtype=wide)


def channel_scale(weight: Tensor, mask: Tensor) -> Tensor:
    """Scale of each row in ST-3: 1.01/(r + 0.01), with r = (mean(|w|·m) + 10⁻⁶)/(mean(|w|) + 10⁻⁶) over the row.

    It gives what is open about the magnitude that the whole row had before pruning, at most 101 times. A row is an
    output channel: an index of the first dimension.

    Args:
        weight: w, before the threshold, of two or more dimensions.
        mask: boolean, true where a weight is open, of the same shape.

    Returns:
        Tensor of the dtype of ``weight`` and of shape (rows, 1, …), which broadcasts to it.

    Reference:
        ST-3 (arXiv 2212.01076), as in its published code.

    >>> channel_scale(torch.tensor([[4.0, 1.0], [2.0, 3.0]]), torch.tensor([[True, False], [True, True]]))
    tensor([[1.2469],
            [1.0000]])
    """
    size = weight.abs().to(torch.promote_types(weight.dtype, torch.float32))
    others = tuple(range(1, weight.ndim))
    part, whole = (x.mean(dim=others, keepdim=True).add_(1e-6) for x in (size * mask, size))
    return part.div_(whole).add_(0.01).reciprocal_().mul_(1.01).to(weight.dtype)


def check_exponent(p: float) -> float:
    """Return ``p``.

    Raises:
        ValueError: if it is neither 0 nor finite and at least 1.
    """
    if p == 0 or (p >= 1 and math.isfinite(p)):
        return p
    raise ValueError(f"p must be 0 (hard threshold) or at least 1 (1: soft), got {p!r}")
