"""Entropies of activations, predictions and labels: 0-dimensional tensors on the device, never a host sync.

Activations come as ``(rows, units)``, one row per sample. Low-precision and integer input is computed in float32,
float64 stays float64. A value that is not defined (one unit, too few rows) or not finite is NaN. So a caller that must
not wait for the device can still tell. Host code turns it into ``None``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, nan

import torch
from torch import Tensor


def sign_covariance_entropy(x: Tensor) -> Tensor:
    """Activation entropy: Rényi-2 of the sign covariance of disjoint pairwise differences, normalized.

    With uᵢ = (x₂ᵢ − x₂ᵢ₊₁)/‖x₂ᵢ − x₂ᵢ₊₁‖ for the rows in the order given and m = mean over i ≠ j of
    (uᵢ·uⱼ)²::

        E = clip(−ln max(m, 1/d) / ln d, 0, 1)

    m estimates tr Σ² of the spatial Kendall's tau Σ = E[uuᵀ] without bias: it needs no centering, no correction and no
    eigensolver. E is ln k/ln d for isotropic data of rank k. Scale and rotation of the units do not change it, nor does
    the scale of single rows. It is *not* robust to one unit of far larger scale than the rest.

    Pairs of equal rows have no direction and are left out. Constant activations have entropy 0, and so have
    those with a single pair that differs.

    Args:
        x: activations ``(rows, units)``; rows in random order, at least 4; an odd last row is left out.

    Returns:
        Entropy in [0, 1] (nats over ln d); NaN for one unit, fewer than 4 rows, or input that is not finite.

    Raises:
        ValueError: if ``x`` is not of two dimensions.

    References:
        The sign covariance is that of Visuri, Koivunen and Oja 2000, *Sign and rank covariance matrices*.

    >>> sign_covariance_entropy(torch.tensor([[1.0, 2], [0, 2], [5, 1], [2, 1]])).item()  # one axis
    0.0
    >>> sign_covariance_entropy(torch.tensor([[1.0, 2], [0, 2], [5, 1], [5, 3]])).item()  # two
    1.0
    """
    x = _rows(x)
    rows, units = x.shape
    if units < 2 or rows < 4:
        return x.new_tensor(nan)
    overlap, pairs = pair_overlap(x)
    entropy = (overlap.clamp(min=1 / units).reciprocal().log() / log(units)).clamp(0, 1)
    return _nan_unless_finite(torch.where(pairs < 1, 0.0, entropy), x)


def pair_overlap(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared overlap m of the directions of disjoint pairwise differences, and over how many pairs it is taken.

    It is the sufficient statistic of :func:`sign_covariance_entropy`. The mean of the m of several parts of a batch,
    weighted by their pairs, estimates tr Σ² without bias, too.

    Args:
        x: activations ``(rows, units)``; rows in random order, an odd last row is left out.

    Returns:
        m in [0, 1], 0 without a pair; and the number of ordered pairs of directions, n(n − 1).

    Raises:
        ValueError: if ``x`` is not of two dimensions.

    >>> pair_overlap(torch.tensor([[1.0, 2], [0, 2], [5, 1], [5, 3]]))  # directions at right angles
    (tensor(0.), tensor(2.))
    """
    x = _rows(x)
    rows, units = x.shape
    pairs = x[: rows - rows % 2].reshape(-1, 2, units)
    difference = pairs[:, 0] - pairs[:, 1]
    # Scaled by the largest entry first: the square of a small or large one leaves the range of float32.
    difference = difference / _nonzero(difference.abs().amax(1, keepdim=True))
    length = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
    direction = difference / _nonzero(length)
    count = (length != 0).sum().to(x.dtype)
    squares = (direction @ direction.T).square()
    ordered = count * (count - 1)
    return (squares.sum() - squares.diagonal().sum()) / ordered.clamp(min=1), ordered


def on_off_entropy(x: Tensor, threshold: float = 0.0) -> Tensor:
    """Mean over units of the binary entropy of being on.

    Let pⱼ be the share of rows in which unit j lies above the threshold. The entropy is the mean over j of −p log₂ p −
    (1−p) log₂(1−p).

    Args:
        x: activations ``(rows, units)``.
        threshold: a unit is on strictly above it; zero suits ReLU and GELU.

    Returns:
        Entropy in bits, in [0, 1]; NaN where an activation is NaN.

    Raises:
        ValueError: if ``x`` is not of two dimensions.

    >>> round(on_off_entropy(torch.tensor([[1.0, 1.0], [-1.0, 2.0]])).item(), 6)  # half the time, always
    0.5
    """
    x = _rows(x)
    on = torch.where(x.isnan(), nan, (x > threshold).to(x.dtype)).mean(0)
    bits: Tensor = (torch.special.entr(on) + torch.special.entr(1 - on)).mean() / log(2)
    return bits.clamp(0, 1)


def unit_energy_entropy(x: Tensor) -> Tensor:
    """Shannon entropy of how the energy spreads over the units; it falls when units die.

    With pⱼ = E[xⱼ²] / Σₖ E[xₖ²]: H(p)/ln d.

    Args:
        x: activations ``(rows, units)``.

    Returns:
        Entropy in [0, 1] (nats over ln d), 0 where all is zero; NaN for one unit or input that is not finite.

    Raises:
        ValueError: if ``x`` is not of two dimensions.

    >>> round(unit_energy_entropy(torch.tensor([[1.0, 1, 0, 0], [-1, 1, 0, 0]])).item(), 6)  # ln 2/ln 4
    0.5
    """
    x = _rows(x)
    scaled = x / _nonzero(x.abs().amax()) if x.numel() else x
    return _shannon(scaled.square().mean(0), x.shape[1])


def spectral_entropy(x: Tensor) -> Tensor:
    """Shannon entropy of the spectrum of the covariance: H(λ/Σλ)/ln d.

    Biased downwards for few rows (at most rows − 1 eigenvalues are not zero) and moved by single large rows.

    Args:
        x: activations ``(rows, units)``, at least 2 rows.

    Returns:
        Entropy in [0, 1] (nats over ln d). It is 0 for constant activations, and NaN for one unit, fewer than 2 rows,
        or input that is not finite.

    Raises:
        ValueError: if ``x`` is not of two dimensions.

    >>> x = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    >>> round(spectral_entropy(x).item(), 4)  # ln 2/ln 3
    0.6309
    """
    x = _rows(x)
    if x.shape[0] < 2 or x.shape[1] < 2:
        return x.new_tensor(nan)
    # The solver raises on input that is not finite; solve zeros instead and say so in the result.
    safe = torch.where(x.isfinite().all(), x, 0.0)
    safe = safe / _nonzero(safe.abs().amax())
    spread = torch.linalg.svdvals(safe - safe.mean(0)).square()
    # Rounding of the mean leaves a trace in constant columns; it is not a direction.
    spread = torch.where(spread > safe.shape[0] * torch.finfo(x.dtype).eps ** 2, spread, 0.0)
    return _nan_unless_finite(_shannon(spread, x.shape[1]), x)


def predictive_entropy(logits: Tensor) -> Tensor:
    """Mean over rows of the entropy of the predicted distribution: H(softmax(z))/ln K.

    Args:
        logits: ``(rows, classes)``; −∞ bars a class.

    Returns:
        Entropy in [0, 1] (nats over ln K); NaN for one class or where a logit is NaN.

    Raises:
        ValueError: if ``logits`` is not of two dimensions.

    >>> round(predictive_entropy(torch.zeros(3, 10)).item(), 6)
    1.0
    """
    logits = _rows(logits)
    if logits.shape[1] < 2:
        return logits.new_tensor(nan)
    entropy: Tensor = torch.special.entr(logits.softmax(1)).sum(1).mean() / log(logits.shape[1])
    return entropy.clamp(0, 1)


def histogram_entropy(x: Tensor, bins: int = 64) -> Tensor:
    """Shannon entropy of a histogram of all values between their extremes, over ln ``bins``.

    Known from other codes; one outlier empties the histogram, so it is an alternative for comparison only.

    Args:
        x: activations ``(rows, units)``.
        bins: number of equal bins between the least and the greatest value, at least 2.

    Returns:
        Entropy in [0, 1] (nats over ln bins), 0 for constant activations; NaN for input that is not finite.

    Raises:
        ValueError: if ``x`` is not of two dimensions or ``bins`` is below 2.

    >>> histogram_entropy(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), bins=4).item()
    1.0
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    x = _rows(x)
    if x.numel() == 0:
        return x.new_tensor(nan)
    safe = torch.where(x.isfinite().all(), x, 0.0).reshape(-1)
    least, most = safe.aminmax()
    place = ((safe - least) / _nonzero(most - least) * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(bins, dtype=x.dtype, device=x.device).scatter_add_(0, place, torch.ones_like(safe))
    return _nan_unless_finite(_shannon(counts, bins), x)


def target_entropy(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Shannon entropy of the labels of a batch, over ln K: the diversity of what is asked for.

    Args:
        labels: class indices of any shape, negative ones (ignored positions) left out. Alternatively a floating-point
            ``(rows, K)`` of class probabilities, of which the mean over rows is taken.
        num_classes: K. Without it, indices give K = 1 + the largest label of the batch.

    Returns:
        Entropy in [0, 1]; NaN for one class, no labels, or a label that is not below ``num_classes``.

    Raises:
        ValueError: if probabilities are not of two dimensions or do not have ``num_classes`` columns.

    >>> target_entropy(torch.tensor([0, 1, 0, 1]), num_classes=4).item()
    0.5
    """
    if labels.is_floating_point():
        labels = _rows(labels)
        if num_classes not in (None, labels.shape[1]):
            raise ValueError(f"labels have {labels.shape[1]} columns, but num_classes is {num_classes}")
        return _shannon(labels.mean(0), labels.shape[1], empty=nan)
    flat = labels.reshape(-1).long()
    if num_classes is None:
        return _entropy_of_indices(flat)
    known = (flat >= 0) & (flat < num_classes)
    counts = torch.zeros(num_classes, device=flat.device)
    counts.scatter_add_(0, flat.clamp(0, num_classes - 1), known.float())
    entropy = _shannon(counts, num_classes, empty=nan)
    return torch.where((flat >= num_classes).any(), nan, entropy)


def _entropy_of_indices(flat: Tensor) -> Tensor:
    """Entropy over ln(1 + largest), with nothing read back: −mean ln(share of the entries equal to this one)."""
    if not flat.numel():
        return torch.full((), nan, device=flat.device)
    ordered = flat.sort().values
    known = ordered >= 0
    equal = torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)
    surprise = torch.where(known, known.sum().log() - equal.float().log(), 0.0)
    entropy = surprise.sum() / known.sum() / (1 + ordered[-1]).float().log()
    return torch.where(ordered[-1] >= 1, entropy.clamp(0.0, 1.0), nan)


def dead_units(x: Tensor) -> Tensor:
    """Share of units that are constant over the rows.

    Args:
        x: activations ``(rows, units)``.

    Returns:
        Share in [0, 1]. NaN never equals itself, so a unit with NaN counts as alive.

    Raises:
        ValueError: if ``x`` is not of two dimensions.

    >>> dead_units(torch.tensor([[0.0, 1.0], [0.0, 2.0]])).item()
    0.5
    """
    x = _rows(x)
    return (x == x[:1]).all(0).to(x.dtype).mean()


def _rows(x: Tensor) -> Tensor:
    if x.ndim != 2:
        raise ValueError(f"expected (rows, units), got shape {tuple(x.shape)}: flatten to one row per sample")
    return x if x.dtype == torch.float64 else x.float()


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)


def _nan_unless_finite(value: Tensor, x: Tensor) -> Tensor:
    return torch.where(x.isfinite().all(), value, nan)


def _shannon(weights: Tensor, states: int, empty: float = 0.0) -> Tensor:
    """Entropy of ``weights`` over their sum, in units of ln ``states``; ``empty`` where all are zero."""
    if states < 2:
        return weights.new_tensor(nan)
    total = weights.sum()
    entropy = torch.special.entr(weights / _nonzero(total)).sum() / log(states)
    return torch.where(total == 0, empty, entropy.clamp(0, 1))


ENTROPY: dict[str, Callable[[Tensor], Tensor]] = {
    "renyi2": sign_covariance_entropy,
    "on_off": on_off_entropy,
    "unit_energy": unit_energy_entropy,
    "spectral": spectral_entropy,
    "predictive": predictive_entropy,
    "histogram": histogram_entropy,
}
"""Forms of activation entropy by name; ``renyi2`` is the default."""
