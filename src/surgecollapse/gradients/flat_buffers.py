"""Many tensors as rows of one matrix, so that an accelerator is told each operation once and not once a tensor.

Launching an operation costs some microseconds whatever the size of its tensor. A net of a hundred parameters and a
filter of ten operations would wait for a thousand launches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from surgecollapse.functional.projections import widest

ROW = 256
"""Entries of a row: each tensor begins a new one, and leaves the rest of its last one empty."""
_AT_ONCE = 1 << 14
"""Rows that are widened to float64 at a time."""
_GROUP = 1 << 24
"""Entries that are copied at a time, where a copy is made for one step."""


class FlatBuffer:
    """Where each of many tensors lies in a matrix (rows, 256).

    Args:
        shapes: of the tensors.
        device: where they lie.

    Attributes:
        shapes: as given, in their order.
        heights: rows of each tensor.

    >>> together = FlatBuffer([(3,), (2, 2)], torch.device("cpu"))
    >>> matrix = together.zeros(torch.float32)
    >>> first, second = together.views(matrix)
    >>> _ = first.fill_(1.0), second.fill_(2.0)
    >>> matrix.sum(1).tolist(), together.each_row(torch.tensor([5, 7])).flatten().tolist()
    ([3.0, 8.0], [5, 7])
    """

    def __init__(self, shapes: Sequence[Sequence[int]], device: torch.device) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self._sizes = [math.prod(shape) for shape in shapes]
        self.heights = [-(-size // ROW) for size in self._sizes]
        self._starts = [0, *accumulate(self.heights)]
        self._device = device
        self._turns: dict[int, list[Tensor]] = {}
        counts = torch.tensor(self.heights)
        self._owners = torch.repeat_interleave(torch.arange(len(counts)), counts).to(device)

    def zeros(self, dtype: torch.dtype, count: int | None = None) -> Tensor:
        """A matrix (rows, 256) of zeros, or ``count`` of them (count, rows, 256)."""
        shape = (self._starts[-1], ROW) if count is None else (count, self._starts[-1], ROW)
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def views(self, matrix: Tensor) -> list[Tensor]:
        """The part of each tensor in a matrix (…, rows, 256), as (…, its shape)."""
        flat = matrix.flatten(-2)
        return [
            flat[..., start * ROW : start * ROW + size].view((*flat.shape[:-1], *shape))
            for start, size, shape in zip(self._starts, self._sizes, self.shapes, strict=False)
        ]

    def each_row(self, numbers: Tensor) -> Tensor:
        """One number a tensor (tensors,), as one a row (rows, 1)."""
        return numbers.index_select(0, self._owners).unsqueeze(1)

    def sums(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products a·b, a·a and b·b of each tensor's parts of two matrices, in float64 (tensors, 3)."""
        wide = widest(a.device)
        parts = []
        for some, others in zip(torch.split(a, _AT_ONCE), torch.split(b, _AT_ONCE), strict=True):
            x, y = some.to(wide), others.to(wide)
            parts.append(torch.stack([(x * y).sum(1), (x * x).sum(1), (y * y).sum(1)], 1))
        return torch.stack([own.sum(0) for own in torch.split(torch.cat(parts), self.heights)])

    def turns(self, count: int) -> list[Tensor]:
        """Numbers of the rows in ``count`` shares, such that each tensor has about as many rows in each of them."""
        if count in self._turns:
            return self._turns[count]
        turn = torch.cat([torch.arange(height) // max(-(-height // count), 1) for height in self.heights])
        order = turn.argsort(stable=True)
        sizes = torch.bincount(turn, minlength=count).tolist()
        self._turns[count] = list(torch.split(order.to(self._device), sizes))
        return self._turns[count]


def groups(pairs: Sequence[tuple[Tensor, Tensor]], size: int = _GROUP) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Cut a sequence of pairs into lists of at most ``size`` entries, or of one pair that is larger.

    >>> [len(some) for some in groups([(torch.ones(3), torch.ones(3))] * 5, 7)]
    [2, 2, 1]
    """
    gathered: list[tuple[Tensor, Tensor]] = []
    entries = 0
    for pair in pairs:
        if gathered and entries + pair[0].numel() > size:
            yield gathered
            gathered, entries = [], 0
        gathered.append(pair)
        entries += pair[0].numel()
    if gathered:
        yield gathered


def all_finite(tensors: Sequence[Tensor], largest: float = math.inf) -> Tensor:
    """Whether all entries of each tensor are finite, bool (tensors,); the host does not wait for it.

    Args:
        tensors: of one dtype and device; none is empty.
        largest: magnitude that no entry may exceed.

    >>> all_finite([torch.ones(2), torch.tensor([1.0, float("inf")]), torch.tensor([float("nan")])]).tolist()
    [True, False, False]
    """
    most = torch.stack(torch._foreach_norm(list(tensors), math.inf))
    return most.isfinite() & (most.to(widest(most.device)) <= largest)
