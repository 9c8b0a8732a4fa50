"""Bounds of rounding errors, which hold on any processor.

Kernels add in an order of their own: in one vector lane or sixteen, in blocks, by threads, with fused products or
without. So a bound of a test follows from the number of terms and the precision, for every order.

Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, chapters 2 to 4.
"""

from __future__ import annotations

import torch


def unit(dtype: torch.dtype) -> float:
    """Unit roundoff u = ε/2: the largest relative error of one operation.

    >>> unit(torch.float64) == 2.0**-53
    True
    """
    return torch.finfo(dtype).eps / 2


def any_order(terms: int, dtype: torch.dtype) -> float:
    """γ = n·u/(1 − n·u): the error of a sum of n products in any order, relative to Σ|x·y|.

    Products of numbers that were rounded before count the more operations: add their number to ``terms``.

    >>> any_order(1, torch.float64) == 2.0**-53 / (1 - 2.0**-53)
    True
    """
    rounded = terms * unit(dtype)
    assert rounded < 0.5, f"{terms} terms lose every digit of {dtype}"
    return rounded / (1 - rounded)
