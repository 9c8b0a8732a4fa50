"""The training samples with the greatest loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from surgecollapse.lab.data.streamed import StreamedData
from surgecollapse.lab.training.evaluation import predict

if TYPE_CHECKING:
    from surgecollapse.lab.training.trainer import Training

HARDEST = "samples/hardest"
"""Name of the array: one line a sample, with its row, its loss in nats, its label and the class that the net gives."""
_MOST_RANKED = 50_000
_MOST = 1_000


def rank_samples(training: Training, count: int) -> str:
    """Record the training samples whose cross-entropy is greatest, hardest first.

    Raises:
        ValueError: if samples do not lie in memory, or have no class each.
    """
    data = training.data
    if isinstance(data, StreamedData) or data.y_train.is_floating_point() or data.y_train.ndim != 1:
        raise ValueError("samples are ranked where each has one class and lies in memory")
    x, y = data.x_train[:_MOST_RANKED], data.y_train[:_MOST_RANKED]
    logits = predict(training.model, x)
    losses = nn.functional.cross_entropy(logits.double(), y, reduction="none")
    worst = losses.nan_to_num(nan=float("inf")).argsort(descending=True, stable=True)[: min(count, _MOST)]
    lines = torch.stack([worst.double(), losses[worst], y[worst].double(), logits[worst].argmax(1).double()], dim=1)
    training.store.put_array(training.step, HARDEST, lines.cpu().numpy())
    wrong = int((lines[:, 2] != lines[:, 3]).sum())
    return f"the {len(lines)} hardest of {len(x)} samples: {wrong} are wrong, loss {float(lines[0, 1]):.4g} at most"
