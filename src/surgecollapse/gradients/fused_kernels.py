"""What the filters do to one parameter in one pass over memory; see :mod:`surgecollapse.torch_utils.compiled`."""

from __future__ import annotations

import torch
from torch import Tensor


def ema_pass(average: Tensor, grad: Tensor, started: Tensor, weight: Tensor, lamb: Tensor, largest: Tensor) -> None:
    """One step of Grokfast-EMA: h ← h + (1 − α)(g − h), g ← g + λ h, entry by entry where g is finite.

    Args:
        average: h, changed in place.
        grad: g, changed in place.
        started: whether h holds something; else it starts at g.
        weight: 1 − α.
        lamb: λ.
        largest: magnitude above which an entry counts as not finite.

    >>> average, grad = torch.tensor([1.0, 1.0]), torch.tensor([3.0, float("inf")])
    >>> ema_pass(average, grad, torch.tensor(True), torch.tensor(0.5), torch.tensor(2.0), torch.tensor(1e38))
    >>> average.tolist(), grad.tolist()
    ([2.0, 1.0], [7.0, inf])
    """
    precise = grad.to(average.dtype)
    finite = precise.abs() <= largest
    before = torch.where(started, average, precise)
    mean = before + weight * (precise - before)
    result = torch.where(finite, precise + lamb * mean, precise)
    average.copy_(torch.where(finite, mean, average))
    grad.copy_(result)


def ma_pass(total: Tensor, slot: Tensor, grad: Tensor, scale: Tensor, largest: Tensor) -> None:
    """One step of Grokfast-MA: the running sum and the slot that leaves, entry by entry where g is finite.

    Args:
        total: running sum, changed in place.
        slot: the oldest stored gradient, replaced by the present one in place.
        grad: g, changed in place.
        scale: what the sum is multiplied by, λ/w.
        largest: magnitude above which an entry counts as not finite.

    >>> total, slot, grad = torch.tensor([5.0]), torch.tensor([2.0]), torch.tensor([4.0])
    >>> ma_pass(total, slot, grad, torch.tensor(1.0), torch.tensor(1e38))
    >>> total.item(), slot.item(), grad.item()
    (7.0, 4.0, 11.0)
    """
    stored = grad.to(slot.dtype)
    finite = grad.to(total.dtype).abs() <= largest
    coming = torch.where(finite, stored, slot)
    moved = total - slot + coming
    result = torch.where(finite, grad.to(total.dtype) + scale * moved, grad.to(total.dtype))
    total.copy_(torch.where(finite, moved, total))
    slot.copy_(coming)
    grad.copy_(result)


def ema_rows(average: Tensor, grads: Tensor, finite: Tensor, weights: Tensor, scales: Tensor) -> None:
    """One step of Grokfast-EMA for many parameters: h ← h + w(g − h), g ← g + s h, in rows whose parameter is finite.

    Args:
        average: h (rows, entries), changed in place.
        grads: g, changed in place.
        finite: bool (rows, 1).
        weights: w (rows, 1): 1 − α, or 1 where h holds nothing yet.
        scales: s (rows, 1): λ, and 0 in rows that are not finite.

    >>> average, grads = torch.tensor([[1.0], [1.0]]), torch.tensor([[3.0], [float("inf")]])
    >>> half, two = torch.full((2, 1), 0.5), torch.tensor([[2.0], [0.0]])
    >>> ema_rows(average, grads, torch.tensor([[True], [False]]), half, two)
    >>> average.flatten().tolist(), grads.flatten().tolist()
    ([2.0, 1.0], [7.0, inf])
    """
    average.lerp_(torch.where(finite, grads, average), weights)
    grads.copy_(torch.where(scales != 0, torch.addcmul(grads, average, scales), grads))


def ma_rows(
    total: Tensor, slots: Tensor, grads: Tensor, place: Tensor, row: Tensor, finite: Tensor, scales: Tensor
) -> None:
    """One step of Grokfast-MA for many parameters, in rows whose parameter is finite.

    Args:
        total: running sums (rows, entries), changed in place.
        slots: stored gradients (window, rows, entries); the oldest of each row is replaced in place.
        grads: g (rows, entries), changed in place.
        place: int64 (rows,), the oldest slot of each row.
        row: 0, 1, 2, …
        finite: bool (rows, 1).
        scales: what the sums are multiplied by (rows, 1): λ/w, and 0 in rows that are not finite.

    >>> total, slots, grads = torch.tensor([[5.0]]), torch.tensor([[[3.0]], [[2.0]]]), torch.tensor([[4.0]])
    >>> one, row = torch.ones(1, 1), torch.tensor([0])
    >>> ma_rows(total, slots, grads, torch.tensor([1]), row, one.bool(), one)
    >>> total.item(), slots.flatten().tolist(), grads.item()
    (7.0, [3.0, 4.0], 11.0)
    """
    leaving = slots[place, row]
    coming = torch.where(finite, grads.to(slots.dtype), leaving)
    slots.index_put_((place, row), coming)
    # The difference is exactly zero where nothing comes.
    total.add_(coming.to(total.dtype) - leaving.to(total.dtype))
    grads.copy_(torch.where(scales != 0, torch.addcmul(grads, total, scales), grads))
