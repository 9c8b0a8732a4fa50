"""Egalitarian gradient descent (Pasand and Dohmatob 2025, arXiv 2510.04930): all singular values alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from surgecollapse.gradients.dense_check import check_whole
from surgecollapse.gradients.stateless import Stateless


class EqualizeSpectrum(Stateless):
    """EGD: replace each gradient matrix G = USVᵀ by UVᵀ = (GGᵀ)^(−1/2)G, so that no direction is slower than another.

    * Singular values up to ``floor`` · σ₁ count as zero, and their directions get nothing.
    * Gradients of more than two dimensions are matrices of one row an output; vectors are left alone.
    * A zero gradient, and one that is not finite, are left as they are. Half precision is computed in float32.

    Args:
        floor: relative, in [0, 1). Default: ε · max(rows, columns), as ``torch.linalg.matrix_rank`` has it.
        parameters: equalize these only; default: all. The authors' code does so for the matrices of MLPs.

    Raises:
        ValueError: if ``floor`` lies outside [0, 1).

    >>> import torch
    >>> gradient = torch.tensor([[3.0, 0.0], [0.0, -0.5]])
    >>> EqualizeSpectrum()([torch.ones(2, 2)], [gradient])
    >>> gradient.round(decimals=5).tolist()
    [[1.0, 0.0], [0.0, -1.0]]

    When to use:
        Plain SGD, or momentum, on problems whose gradients are dominated by few directions. With Adam the second
        moments rescale the entries again. Muon does nearly the same to the momentum.

    Cost:
        No state. One singular value decomposition of each matrix a step, O(mn·min(m, n)): meant for small nets.

    Deviations:
        The authors' code divides by max(σ, 1e-9), which brings directions of pure rounding to full size; here they get
        nothing. It acts on chosen matrices of MLPs; here on all, unless ``parameters`` says otherwise.

    Source:
        Pasand, Dohmatob 2025, arXiv 2510.04930, eq. 1.
    """

    stage = "project"

    def __init__(self, *, floor: float | None = None, parameters: Iterable[Tensor] | None = None) -> None:
        if floor is not None and not 0.0 <= floor < 1.0:
            raise ValueError(f"floor must lie in [0, 1), got {floor}")
        self.floor = floor
        self._only = None if parameters is None else dict.fromkeys(parameters)

    def __repr__(self) -> str:
        return f"EqualizeSpectrum(floor={self.floor})"

    @torch.no_grad()
    def __call__(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Equalize ``grads`` in place, once per optimizer step; the two sequences correspond.

        Raises:
            TypeError: if a gradient is sparse, or a shard of a distributed tensor.
        """
        for weight, grad in zip(params, grads, strict=True):
            if grad.ndim < 2 or grad.numel() == 0 or (self._only is not None and weight not in self._only):
                continue
            check_whole(self, grad, "singular values would be those of one shard")
            grad.copy_(self._equalized(grad.flatten(1)).reshape(grad.shape))

    def _equalized(self, grad: Tensor) -> Tensor:
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
        if not math.isfinite(wide.abs().sum().item()):
            return grad
        left, singular, right = torch.linalg.svd(wide, full_matrices=False)
        floor = torch.finfo(wide.dtype).eps * max(wide.shape) if self.floor is None else self.floor
        equalized: Tensor = (left * (singular > floor * singular[0])) @ right
        return equalized
