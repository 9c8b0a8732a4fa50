"""A linear layer for inference that holds its weight as compressed sparse rows, and dense too where that is faster."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST = 2**31 - 1


class CsrLinear(nn.Module):
    r"""y = x·Wᵀ + b with W as compressed sparse rows (CSR): inference only, on the CPU, in float32 or float64.

    The rows of x multiply W in one call of the sparse kernel, (W·xᵀ)ᵀ. A single row does so in the kernel for one
    vector. Indices are 32-bit, which is faster than 64-bit ones. The result has the layout that
    :class:`torch.nn.Linear` gives.

    Args:
        weight: dense matrix (out, in).
        bias: vector (out,) or none.
        faster: number of rows → whether CSR is to be taken there; a call takes the nearest number by ratio. Where
            some are ``False``, the dense weight is held too.

    Raises:
        ValueError: if ``weight`` has too many entries or another dtype.

    >>> layer = CsrLinear(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([1.0, -1.0]))
    >>> layer(torch.tensor([[5.0, 3.0]]))
    tensor([[ 7., -1.]])
    >>> [(name, buffer.tolist()) for name, buffer in layer.named_buffers()]
    [('crow', [0, 1, 1]), ('columns', [1]), ('values', [2.0]), ('bias', [1.0, -1.0])]
    """

    crow: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None
    weight: Tensor | None
    _matrix: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, faster: Mapping[int, bool] | None = None) -> None:
        super().__init__()
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"CSR needs a weight of float32 or float64, got {weight.dtype}")
        if weight.numel() > _LARGEST:
            raise ValueError(f"CSR with 32-bit indices holds up to {_LARGEST} entries, got {weight.numel()}")
        self.out_features, self.in_features = weight.shape
        rows, columns = torch.nonzero(weight.detach(), as_tuple=True)
        counts = torch.bincount(rows, minlength=self.out_features)
        crow = nn.functional.pad(counts.cumsum(0), (1, 0))
        self.register_buffer("crow", crow.to(torch.int32))
        self.register_buffer("columns", columns.to(torch.int32))
        self.register_buffer("values", weight.detach()[rows, columns].clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.faster = dict(sorted((faster or {1: True}).items()))
        self.register_buffer("weight", None if all(self.faster.values()) else weight.detach().clone())
        self._matrix = None
        self.training = False

    def dense_weight(self) -> Tensor:
        """The matrix (out, in) with its zeros: a new tensor."""
        return self._assemble().to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, in).

        Raises:
            RuntimeError: in training mode, or if a gradient would be needed.
        """
        if self.training or (x.requires_grad and torch.is_grad_enabled()):
            raise RuntimeError(
                "a CSR layer is for inference: call eval(), and run it under torch.inference_mode(); "
                "train the dense model that it was made of"
            )
        flat = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        if not self.takes_csr(len(flat)):
            return nn.functional.linear(x, self.weight, self.bias)  # type: ignore[arg-type]
        matrix = self._matrix if self._matrix is not None else self._assemble()
        if len(flat) == 1:
            vector = flat[0]
            out = torch.mv(matrix, vector) if self.bias is None else torch.addmv(self.bias, matrix, vector)
        else:
            columns = flat.t()
            out = matrix @ columns if self.bias is None else torch.addmm(self.bias.unsqueeze(1), matrix, columns)
            out = out.t().contiguous()
        return out.view(*x.shape[:-1], self.out_features)

    def takes_csr(self, rows: int) -> bool:
        """Whether a call with so many rows is served by CSR.

        >>> layer = CsrLinear(torch.eye(4), None, {1: False, 16: True})
        >>> [layer.takes_csr(rows) for rows in (1, 3, 4, 1000)]
        [False, False, True, True]
        """
        if self.weight is None:
            return True
        known = list(self.faster)
        above = min(bisect_left(known, rows), len(known) - 1)
        below = max(above - 1, 0)
        # The nearest by ratio: rows/below < above/rows.
        return self.faster[known[below] if rows * rows < known[below] * known[above] else known[above]]

    def extra_repr(self) -> str:
        """Sizes, and where CSR is taken."""
        taken = "" if self.weight is None else f", csr at {[rows for rows, csr in self.faster.items() if csr]} rows"
        return f"in_features={self.in_features}, out_features={self.out_features}, nonzeros={len(self.values)}{taken}"

    def _assemble(self) -> Tensor:
        """The matrix over the buffers, once: building it takes longer than a small product."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(beta|prototype) state.*", category=UserWarning)
            # A wrong index would be a read outside of the memory.
            self._matrix = torch.sparse_csr_tensor(
                self.crow,
                self.columns,
                self.values,
                size=(self.out_features, self.in_features),
                check_invariants=True,
            )
        return self._matrix

    def _apply(self, *args: Any, **kwargs: Any) -> CsrLinear:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._matrix = None
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._matrix = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_matrix": None}
