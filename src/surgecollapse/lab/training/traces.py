"""The course of a few entries of every weight matrix, and of its gradient, close enough in time for a spectrum."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

ENTRIES = 16
"""Of each weight matrix."""
PREFIX = "trace/"
"""What the names of the arrays begin with; the name of the parameter follows."""


class Traces:
    """Sixteen entries of each weight matrix and of its gradient, at places that depend on its name and size alone.

    Args:
        model: whose parameters of two dimensions and more.

    >>> model = torch.nn.Linear(3, 2)
    >>> {name: values.shape for name, values in Traces(model)().items()}
    {'weight': (2, 6)}
    """

    def __init__(self, model: nn.Module) -> None:
        self._followed = [
            (name, parameter, torch.tensor(_places(name, parameter.numel()), device=parameter.device))
            for name, parameter in model.named_parameters()
            if parameter.ndim >= 2 and parameter.requires_grad and parameter.numel()
        ]

    @torch.no_grad()
    def __call__(self) -> dict[str, NDArray[np.float32]]:
        """Weights and gradients (2, 16) as they are now, by parameter; zeros where there is no gradient."""
        found = {}
        for name, parameter, places in self._followed:
            weights = parameter.detach().reshape(-1)[places]
            gradient = torch.zeros_like(weights) if parameter.grad is None else parameter.grad.reshape(-1)[places]
            found[name] = torch.stack([weights, gradient]).float().cpu().numpy()
        return found


def _places(name: str, count: int) -> list[int]:
    return sorted(random.Random(name).sample(range(count), min(ENTRIES, count)))
