"""What a chain of layers makes of its inputs: rank and dormant units."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn

from surgecollapse.functional import dormancy, effective_rank, singular_values

_DORMANT = 0.025


@torch.no_grad()
def hidden_state(model: nn.Sequential, x: Tensor) -> dict[str, float]:
    """Effective rank of the last hidden layer on a batch, and the share of dormant units.

    The share is the mean over the hidden layers, of units whose score is at most 0.025 (Sokar et al. 2023). The units
    of a convolution are its channels, and positions count as rows.

    Args:
        model: layers, of which the last one gives the output.
        x: a batch of inputs.

    Returns:
        ``rank``, rounded to three digits, 0 where the last hidden layer is silent; ``dormant``, in [0, 1].

    >>> layers = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = nn.init.eye_(layers[0].weight)
    >>> hidden_state(layers, torch.tensor([[1.0, 0.0], [2.0, -5.0]]))  # the second unit is never above zero
    {'rank': 1.0, 'dormant': 0.5}
    """
    hidden, shares = x, []
    for module in list(model)[:-1]:
        hidden = module(hidden)
        if isinstance(module, nn.ReLU):
            units = hidden.movedim(1, -1).flatten(0, -2)
            shares.append(float((dormancy(units) <= _DORMANT).double().mean()))
    rank = float(effective_rank(singular_values(hidden))) if bool(hidden.any()) else 0.0
    return {"rank": round(rank, 3), "dormant": statistics.fmean(shares)}
