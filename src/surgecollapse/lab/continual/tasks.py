"""Streams of tasks, each seen once and in order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def permuted_inputs(
    x: Tensor, y: Tensor, *, tasks: int, batches: int, batch_size: int, seed: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Batches of tasks that each shuffle the inputs in a way of their own (online permuted MNIST, Dohare et al. 2024).

    The first task permutes, too. Samples of a task are drawn without replacement, as long as there are enough.

    Args:
        x: ``(n, d)``.
        y: ``(n,)``.
        tasks: how many.
        batches: of each task.
        batch_size: samples of each.
        seed: of permutations and samples.

    Yields:
        Number of the task, inputs, labels.
    """
    generator = torch.Generator().manual_seed(seed)
    for task in range(tasks):
        places = torch.randperm(x.shape[1], generator=generator)
        needed = batches * batch_size
        order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(-(-needed // len(x)))])
        for rows in torch.split(order[:needed], batch_size):
            yield task, x[rows][:, places], y[rows]
