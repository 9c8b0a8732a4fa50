"""Rank in its forms: of a weight matrix, or of the covariance of activations. Largest to smallest, they are

    rank ≥ effective rank ≥ spectral rank ≥ participation ratio ≥ stable rank,

with equality exactly where all singular values that are not zero are equal. None of them depends on scale. Each takes
the singular values of one matrix, or of many as rows of one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
import torch.nn.functional as F
from torch import Tensor


def real(tensor: Tensor, what: str = "values") -> Tensor:
    """The tensor itself, if it is not complex.

    Raises:
        ValueError: if it is complex.

    >>> real(torch.ones(1) * 1j)
    Traceback (most recent call last):
    ValueError: expected real values, got torch.complex64: use .abs(), or torch.view_as_real for both parts
    """
    if tensor.is_complex():
        raise ValueError(f"expected real {what}, got {tensor.dtype}: use .abs(), or torch.view_as_real for both parts")
    return tensor


def as_double(tensor: Tensor) -> Tensor:
    """Double precision, detached; complex tensors stay complex."""
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)


def rounding_level(matrix: Tensor) -> float:
    """The size of singular values that a matrix may have by rounding alone.

    Entries that are rounded to a relative ε add a random matrix of variance at most ε²‖W‖²_F/12mn. Its norm is about
    ε‖W‖_F(1/√m + 1/√n)/√12. Fourteen times this is taken, for entries that were themselves computed from rounded ones,
    and at least the error of the decomposition in float64.

    Args:
        matrix: ``(rows, columns)``, in the dtype in which it was computed.

    Returns:
        A bound for singular values; 0 for a zero matrix.

    >>> one = torch.outer(torch.arange(1.0, 65.0).sqrt(), torch.arange(1.0, 65.0).log())
    >>> int((torch.linalg.svdvals(one.double()) > rounding_level(one)).sum())
    1
    """
    if not matrix.numel():
        return 0.0
    rows, columns = matrix.shape
    size = float(as_double(matrix).norm())
    stored = matrix.dtype if matrix.is_floating_point() or matrix.is_complex() else torch.float64
    rounding: float = 4 * torch.finfo(stored).eps * (rows**-0.5 + columns**-0.5)
    least: float = torch.finfo(torch.float64).eps * max(rows, columns)
    return size * max(rounding, least)


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values, largest first.

    Low-precision input is taken to float32, where the decomposition is defined.

    Args:
        matrix: ``(rows, columns)``; a convolution's weight as ``weight.flatten(1)``.

    Returns:
        σ of length min(rows, columns), at least 0; all NaN where the input is not finite.

    Raises:
        ValueError: if ``matrix`` is not of two dimensions.

    >>> singular_values(torch.diag(torch.tensor([3.0, -4.0])))
    tensor([4., 3.])
    """
    if matrix.dim() != 2:
        raise ValueError(f"expected a matrix (rows, columns), got shape {tuple(matrix.shape)}: use weight.flatten(1)")
    wide = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    if min(matrix.shape) == 0:
        return wide.new_zeros(0)
    finite = wide.isfinite().all()
    values: Tensor = torch.linalg.svdvals(torch.where(finite, wide, 0.0))
    return torch.where(finite, values, nan)


def gram_spectra(matrices: Sequence[Tensor]) -> Tensor:
    """Singular values of many small matrices by one batched decomposition of their Gram matrices, in float64.

    σ = √λ(XXᵀ) (or XᵀX, whichever is smaller), padded with zeros. Several times faster than one decomposition each;
    what is below about 1e-7·σ₁ is rounding.

    Args:
        matrices: ``(rows, columns)`` each, at least one.

    Returns:
        σ ``(matrices, k)``, largest first, k being the largest of min(rows, columns); a row of NaN for a matrix that is
        not finite.

    >>> gram_spectra([torch.diag(torch.tensor([3.0, -4.0])), torch.tensor([[3.0, 4.0]])])
    tensor([[4., 3.],
            [5., 0.]], dtype=torch.float64)
    """
    grams = []
    for matrix in matrices:
        wide = matrix.detach().double()
        grams.append(wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide)
    most = max(len(gram) for gram in grams)
    batch = torch.stack([F.pad(gram, (0, most - len(gram), 0, most - len(gram))) for gram in grams])
    finite = batch.isfinite().flatten(1).all(1)
    # The solver raises on what is not finite.
    values = torch.linalg.eigvalsh(torch.where(finite[:, None, None], batch, 0.0)).flip(-1).clamp(min=0.0).sqrt()
    return torch.where(finite[:, None], values, nan)


def numerical_rank(sigma: Tensor, relative: float | Tensor | None = None) -> Tensor:
    """Number of singular values above ``relative`` times the largest.

    Args:
        sigma: singular values (…, k), largest first.
        relative: tolerance; by default ε·k for the dtype, as in ``torch.linalg.matrix_rank`` of a square matrix;
            ``(…, 1)`` for one of each matrix.

    Returns:
        Float tensor (…).

    >>> numerical_rank(torch.tensor([2.0, 1.0, 1e-9]))
    tensor(2.)
    """
    if sigma.shape[-1] == 0:
        return sigma.sum(-1)
    tolerance = torch.finfo(sigma.dtype).eps * sigma.shape[-1] if relative is None else relative
    return _unless_nan((sigma > tolerance * sigma[..., :1]).sum(-1).to(sigma.dtype), sigma)


def effective_rank(sigma: Tensor) -> Tensor:
    """Exp H(σ/Σσ): the entropy of the singular values (Roy and Vetterli 2007, EUSIPCO, eq. 4).

    RankMe (Garrido et al., arXiv 2210.02885, eq. 1) is the same on a matrix of embeddings; it adds 1e-7 to each share,
    which changes nothing but values under about 1e-5.

    Args:
        sigma: singular values (…, k).

    Returns:
        Tensor (…) in [1, k]; 0 for a zero matrix.

    >>> round(effective_rank(torch.tensor([1.0, 1.0, 1.0, 0.0])).item(), 5)
    3.0
    """
    return _exponential_entropy(sigma)


def spectral_rank(sigma: Tensor) -> Tensor:
    """Exp H(λ/Σλ) with λ = σ²: the entropy of the variances, Shannon's H₁ as a number of dimensions.

    Args:
        sigma: singular values (…, k) of a centered matrix of activations, or of a weight.

    Returns:
        Tensor (…) in [1, k]; 0 for a zero matrix.

    >>> round(spectral_rank(torch.tensor([2.0, 2.0])).item(), 5)
    2.0
    """
    return _exponential_entropy(sigma.square())


def stable_rank(sigma: Tensor) -> Tensor:
    """‖W‖²_F/σ₁² (Rudelson and Vershynin 2007, arXiv math/0503442): robust where the small singular values are noise.

    Args:
        sigma: singular values (…, k), largest first.

    Returns:
        Tensor (…) in [1, k]; 0 for a zero matrix.

    >>> stable_rank(torch.tensor([2.0, 1.0, 1.0]))
    tensor(1.5000)
    """
    if sigma.shape[-1] == 0:
        return sigma.sum(-1)
    scaled = sigma / _nonzero(sigma[..., :1])
    return _unless_nan(scaled.square().sum(-1), sigma)


def participation_ratio(sigma: Tensor) -> Tensor:
    """(Σλ)²/Σλ² with λ = σ²: how many directions take part, as the spectrum has it.

    Of a sample covariance it is biased downwards; :func:`sample_participation_ratio` corrects that.

    Args:
        sigma: singular values (…, k).

    Returns:
        Tensor (…) in [1, k]; 0 for a zero matrix.

    >>> participation_ratio(torch.tensor([1.0, 1.0, 0.0]))
    tensor(2.)
    """
    if sigma.shape[-1] == 0:
        return sigma.sum(-1)
    energy = (sigma / _nonzero(sigma.amax(-1, keepdim=True))).square()
    return _unless_nan(energy.sum(-1).square() / _nonzero(energy.square().sum(-1)), sigma)


def sample_participation_ratio(x: Tensor, *, debiased: bool = True) -> Tensor:
    """Participation ratio of the covariance of activations, without a decomposition, corrected for the sample size.

    PR̂ = (tr C)²/tr C² on centered rows. For Gaussian rows 1/PR̂ ≈ 1/PR + 1/(n − 1), so that 64 rows of 512 independent
    units give 57 where 512 is right. The correction takes the second term away. Where the estimate then exceeds the
    number of units (or is not positive), it is that number: the sample cannot tell it from white noise.

    Args:
        x: activations ``(rows, units)``, at least 3 rows.
        debiased: whether to correct.

    Returns:
        0-dim tensor in [1, units]; 0 for constant activations; NaN where they are not finite.

    Raises:
        ValueError: if ``x`` is not of two dimensions or has fewer than 3 rows.

    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> sample_participation_ratio(x, debiased=False), sample_participation_ratio(x)
    (tensor(2.), tensor(2.))
    """
    if x.dim() != 2 or x.shape[0] < 3:
        raise ValueError(f"expected activations (rows, units) with at least 3 rows, got shape {tuple(x.shape)}")
    rows, units = x.shape
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    wide = wide - wide.mean(0)
    wide = wide / _nonzero(wide.abs().max())
    gram = wide @ wide.T if rows < units else wide.T @ wide
    trace, square = gram.diagonal().sum(), gram.square().sum()
    inverse = square / _nonzero(trace.square())
    if debiased:
        inverse = inverse - 1.0 / (rows - 1)
    found = torch.where(inverse * units > 1.0, 1.0 / _nonzero(inverse), float(units))
    return torch.where(wide.isfinite().all(), torch.where(trace > 0, found.clamp(min=1.0), 0.0), nan)


def _exponential_entropy(weights: Tensor) -> Tensor:
    total = weights.sum(-1)
    entropy = torch.special.entr(weights / _nonzero(total).unsqueeze(-1)).sum(-1)
    return torch.where(total > 0, entropy.exp(), torch.where(total.isnan(), nan, 0.0))


def _nonzero(value: Tensor) -> Tensor:
    return torch.where(value == 0, 1.0, value)


def _unless_nan(value: Tensor, source: Tensor) -> Tensor:
    return torch.where(source.isnan().any(-1), nan, value)
