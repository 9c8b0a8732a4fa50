"""The loss of the probe batch, for monitors that differentiate it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from surgecollapse.protocols import MonitorContext

Criterion = Callable[[Any, "Tensor"], "Tensor"]


class NoLossError(ValueError):
    """The output and the labels make no loss that is known."""


def class_loss(output: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of logits ``(n, classes)`` and labels ``(n,)``.

    Raises:
        NoLossError: for anything else.
    """
    fits = isinstance(output, torch.Tensor) and output.ndim == 2 and targets.shape == output.shape[:1]
    if not fits or targets.dtype != torch.int64:
        raise NoLossError("expected outputs (n, classes) and labels (n,)")
    return F.cross_entropy(output, targets)


def open_entries(context: MonitorContext, name: str) -> Tensor:
    """1 where a weight may move, 0 where its mask holds it at zero."""
    weight = context.weights[name]
    mask = context.masks.get(name)
    return torch.ones_like(weight) if mask is None else mask.to(weight)
