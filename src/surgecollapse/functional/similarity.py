"""How alike two representations of the same samples are: linear CKA.

It takes ``(samples, features)`` of two layers, nets or times, whose widths may differ; rows must be the same samples.
It does not depend on shifts, rotations or one scale for all features. Directions of small variance count for little.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Hilbert–Schmidt independence criterion of two kernels, without bias (Song et al. 2012; arXiv 2010.15327, eq. 3).

    K̃ and L̃ are the kernels with zeros on their diagonals. Then::

        HSIC₁ = [tr(K̃L̃) + 1ᵀK̃1·1ᵀL̃1/((n−1)(n−2)) − 2·1ᵀK̃L̃1/(n−2)]/(n(n−3))

    The expectation is 0 for independent samples, so that it may come out negative.

    Args:
        first: K, symmetric ``(n, n)``, n at least 4.
        second: L, of the same shape.

    Returns:
        0-dim tensor.

    Raises:
        ValueError: if the kernels are not square, differ in shape, or are smaller than 4.

    >>> k = torch.diag(torch.ones(3), 1) + torch.diag(torch.ones(3), -1)
    >>> unbiased_hsic(k, k)  # (6 + 36/6 − 2·10/2)/4
    tensor(0.5000)
    """
    n = len(first)
    if first.shape != second.shape or first.shape != (n, n) or n < 4:
        raise ValueError(
            f"expected two kernels of one shape (n, n), n ≥ 4, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    k, l = first - torch.diag(first.diagonal()), second - torch.diag(second.diagonal())
    rows_k, rows_l = k.sum(1), l.sum(1)
    found: Tensor = (k * l).sum() + rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2)) - 2 * (rows_k @ rows_l) / (n - 2)
    return found / (n * (n - 3))


def linear_cka(first: Tensor, second: Tensor, *, debiased: bool = True) -> Tensor:
    """Centered kernel alignment with the linear kernel (Kornblith et al. 2019, arXiv 1905.00414, eq. 3).

    CKA = HSIC(XXᵀ, YYᵀ)/√(HSIC(XXᵀ, XXᵀ)·HSIC(YYᵀ, YYᵀ)). The biased form is ‖YᵀX‖²_F/(‖XᵀX‖_F‖YᵀY‖_F) on centered
    columns. It goes to 1 for *unrelated* representations that are wider than there are samples. The debiased form
    (Nguyen et al., arXiv 2010.15327) takes :func:`unbiased_hsic` and has expectation near 0 there.

    Args:
        first: X ``(n, p)``, n at least 4.
        second: Y ``(n, q)``.
        debiased: whether the bias of small samples is taken away.

    Returns:
        0-dim tensor, 1 for representations that are equal up to shift, rotation and scale. It starts from 0 if biased;
        the debiased form can be a little below. NaN for a constant representation, or one that is not finite.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer than 4 samples.

    >>> x = torch.tensor([[0.0, 1], [2, 0], [1, 5], [3, 3], [4, 1]])
    >>> linear_cka(x, 3 * x.flip(1) + 7)
    tensor(1.)
    >>> linear_cka(x[:, :1] * 0 + torch.tensor([[1.0], [-1], [-1], [1], [0]]), x[:, :1] - 2, debiased=False) < 0.2
    tensor(True)
    """
    x, y = _paired(first, second)
    if debiased:
        k, l = x @ x.T, y @ y.T
        cross, own, other = unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l)
    elif x.shape[1] + y.shape[1] > 2 * len(x):  # the smaller matrices
        k, l = x @ x.T, y @ y.T
        cross, own, other = (k * l).sum(), k.square().sum(), l.square().sum()
    else:
        cross, own, other = ((a.T @ b).square().sum() for a, b in ((x, y), (x, x), (y, y)))
    # Of a constant representation rounding leaves something that is not zero.
    known = (own > 0) & (other > 0) & (x.abs().amax() > 0) & (y.abs().amax() > 0)
    return torch.where(known, cross / (own.clamp(min=0) * other.clamp(min=0)).sqrt(), torch.nan).to(_narrow(first))


def _paired(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 with centered columns of about unit size."""
    if first.dim() != 2 or second.dim() != 2 or len(first) != len(second) or len(first) < 4:
        raise ValueError(
            "expected the same n ≥ 4 samples as (n, features) twice, "
            f"got the shapes {tuple(first.shape)} and {tuple(second.shape)}"
        )
    return _centered(first), _centered(second)


def _centered(x: Tensor) -> Tensor:
    wide = x.detach().double()
    wide = wide - wide.mean(0)
    # What is left of a constant is rounding: far below the values themselves.
    wide = torch.where(wide.abs().amax() > 1e-14 * x.detach().double().abs().amax(), wide, 0.0)
    return wide / wide.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)


def _narrow(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
