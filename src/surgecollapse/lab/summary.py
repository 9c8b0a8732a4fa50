"""How large a trained net is, dense and sparse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgecollapse.controller import Controller


def sparse_bytes(weight: Tensor) -> int:
    """Bytes of a tensor as its non-zero values and one bit per entry, or dense where that is smaller.

    >>> sparse_bytes(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0])), sparse_bytes(torch.ones(8))
    (10, 32)
    """
    values = int(torch.count_nonzero(weight)) * weight.element_size()
    return min(values + (weight.numel() + 7) // 8, weight.numel() * weight.element_size())


@torch.no_grad()
def weight_summary(model: nn.Module, controller: Controller | None) -> dict[str, Any]:
    """Counts and sizes of the parameters as they are now.

    Returns:
        ``parameters`` and ``nonzeros`` of the whole model; ``prunable`` of them under a mask; ``sparsity``,
        share of the prunable that the mask holds at zero; ``sparsity_total``, share of all parameters that
        are exactly zero; ``bytes_dense`` and ``bytes_sparse`` (an estimate: non-zero values and a bit mask
        for each parameter).
    """
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    nonzeros = sum(int(torch.count_nonzero(parameter)) for parameter in parameters)
    return {
        "parameters": count,
        "prunable": 0 if controller is None else sum(mask.numel() for mask in controller.masks.values()),
        "nonzeros": nonzeros,
        "sparsity": 0.0 if controller is None else controller.sparsity,
        "sparsity_total": 1 - nonzeros / count,
        "bytes_dense": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "bytes_sparse": sum(sparse_bytes(parameter) for parameter in parameters),
    }
