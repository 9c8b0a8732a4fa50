"""Streams of tasks, each seen once and in order."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

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
        for rows in _batches(torch.arange(len(x)), batches, batch_size, generator):
            yield task, x[rows][:, places], y[rows]


def permuted_labels(
    x: Tensor, y: Tensor, *, tasks: int, batches: int, batch_size: int, seed: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """As :func:`permuted_inputs`, but each task gives the classes other names.

    Elsayed and Mahmood 2024 (arXiv 2404.00781) do so with EMNIST.

    Args:
        x: ``(n, d)``.
        y: ``(n,)``, classes from 0.
        tasks: how many.
        batches: of each task.
        batch_size: samples of each.
        seed: of permutations and samples.

    Yields:
        Number of the task, inputs, labels.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = int(y.max()) + 1
    for task in range(tasks):
        names = torch.randperm(classes, generator=generator)
        for rows in _batches(torch.arange(len(x)), batches, batch_size, generator):
            yield task, x[rows], names[y[rows]]


def class_groups(classes: int, size: int, seed: int) -> list[Tensor]:
    """The classes in random groups of a size, for :func:`class_increments`.

    >>> groups = class_groups(10, 2, seed=0)
    >>> [len(group) for group in groups], sorted(int(c) for group in groups for c in group) == list(range(10))
    ([2, 2, 2, 2, 2], True)
    """
    return list(torch.split(torch.randperm(classes, generator=torch.Generator().manual_seed(seed)), size))


def class_increments(
    x: Tensor, y: Tensor, groups: Sequence[Tensor], *, tasks: int, batches: int, batch_size: int, seed: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Tasks that show a few classes each, group after group and round after round (class-incremental, one head).

    Args:
        x: ``(n, d)``.
        y: ``(n,)``, classes from 0.
        groups: classes of each task of a round, see :func:`class_groups`.
        tasks: how many; task t shows group t modulo the number of groups.
        batches: of each task.
        batch_size: samples of each.
        seed: of the samples.

    Yields:
        Number of the task, inputs, labels.
    """
    generator = torch.Generator().manual_seed(seed)
    for task in range(tasks):
        own = torch.isin(y, groups[task % len(groups)]).nonzero().flatten()
        for rows in _batches(own, batches, batch_size, generator):
            yield task, x[rows], y[rows]


def _batches(rows: Tensor, batches: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of rows without replacement, as long as there are enough."""
    needed = batches * size
    order = torch.cat([rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-needed // len(rows)))])
    yield from torch.split(order[:needed], size)


def forgetting(accuracies: Sequence[Sequence[float]]) -> float:
    """Mean over groups of the best accuracy so far less the last one, but for the group that was learned last.

    Chaudhry, Dokania, Ajanthan and Torr 2018 (ECCV, arXiv 1801.10112): f_k = max_{t<T} a_{t,k} − a_{T,k}. Here a_{t,k}
    is the accuracy after task t on group k, and T is the last task.

    Args:
        accuracies: of each group, after each task; task t learned group t modulo their number.

    Returns:
        From −1 to 1; 0 with one task or one group, where nothing can be forgotten.

    >>> forgetting([[1.0, 0.0], [0.25, 0.75]])
    0.75
    >>> forgetting([[0.5, 0.0], [0.75, 0.5]])  # it went on getting better
    -0.25
    """
    *earlier, last = accuracies
    latest = len(earlier) % len(last)
    lost = [max(then[k] for then in earlier) - now for k, now in enumerate(last) if k != latest] if earlier else []
    return statistics.fmean(lost) if lost else 0.0
