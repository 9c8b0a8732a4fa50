"""Elementwise work on large tensors in one compiled pass, where a compiler is there; else as it was.

Plain operations go over the memory once each. A compiled pass reads every tensor once and writes it once, which is all
that memory asks for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

SMALLEST = 1 << 18
"""Entries below which calling a compiled pass costs more than it saves."""

_Pass = Callable[..., None]
_proven: set[_Pass] = set()
_refused: set[_Pass] = set()


@cache
def _compiled(function: _Pass) -> _Pass:
    # One kernel for all sizes: a net has tensors of many.
    return torch.compile(function, dynamic=True)


def in_one_pass(function: _Pass, *tensors: Tensor) -> bool:
    """Run ``function`` compiled; say whether that was possible.

    A function that cannot be compiled the first time (no C++ compiler, a Python that torch does not support yet) warns
    once and is not tried again in this process.

    Args:
        function: of module level, changing its first arguments in place.
        tensors: its arguments; one-dimensional, or numbers.

    Returns:
        ``False`` if nothing was done, and the caller must do it with plain operations.
    """
    if function in _refused:
        return False
    try:
        # Without the marks of a view: dynamo would compile anew for every rank of what it is a view of.
        _compiled(function)(*(tensor.data for tensor in tensors))
    except RuntimeError as error:
        if function in _proven:
            raise
        _refused.add(function)
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        warnings.warn(
            f"compile=True could not be followed, and plain operations are used ({reason}): install a C++ compiler "
            "that torch.compile finds (g++ or clang++, or set CXX), or drop compile=True",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    _proven.add(function)
    return True


def ema_pass(average: Tensor, grad: Tensor, started: Tensor, weight: Tensor, lamb: Tensor) -> None:
    """One step of Grokfast-EMA: h ← h + (1 − α)(g − h), g ← g + λ h, entry by entry where g is finite.

    Args:
        average: h, changed in place.
        grad: g, changed in place.
        started: whether h holds something; else it starts at g.
        weight: 1 − α.
        lamb: λ.

    >>> average, grad = torch.tensor([1.0, 1.0]), torch.tensor([3.0, float("inf")])
    >>> ema_pass(average, grad, torch.tensor(True), torch.tensor(0.5), torch.tensor(2.0))
    >>> average.tolist(), grad.tolist()
    ([2.0, 1.0], [7.0, inf])
    """
    precise = grad.to(average.dtype)
    finite = torch.isfinite(precise)
    before = torch.where(started, average, precise)
    mean = before + weight * (precise - before)
    result = torch.where(finite, precise + lamb * mean, precise)
    average.copy_(torch.where(finite, mean, average))
    grad.copy_(result)


def ma_pass(total: Tensor, slot: Tensor, grad: Tensor, scale: Tensor) -> None:
    """One step of Grokfast-MA: the running sum and the slot that leaves, entry by entry where g is finite.

    Args:
        total: running sum, changed in place.
        slot: the oldest stored gradient, replaced by the present one in place.
        grad: g, changed in place.
        scale: what the sum is multiplied by, λ/w.

    >>> total, slot, grad = torch.tensor([5.0]), torch.tensor([2.0]), torch.tensor([4.0])
    >>> ma_pass(total, slot, grad, torch.tensor(1.0))
    >>> total.item(), slot.item(), grad.item()
    (7.0, 4.0, 11.0)
    """
    stored = grad.to(slot.dtype)
    finite = torch.isfinite(grad)
    coming = torch.where(finite, stored, slot)
    moved = total - slot + coming
    result = torch.where(finite, grad.to(total.dtype) + scale * moved, grad.to(total.dtype))
    total.copy_(torch.where(finite, moved, total))
    slot.copy_(coming)
    grad.copy_(result)
