"""Sums over the entries of many tensors on the CPU, in float64, that do not depend on threads.

Products of float32 numbers are exact in float64. Rows of one length are widened, multiplied and summed while the cache
holds them; their sums are added in their order. So each row is summed on one thread, and no library splits a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from surgecollapse.torch_utils.chunking import Run, faster, share, shared
from surgecollapse.torch_utils.compiled import flattened

ROW = 30 << 10
"""Entries that are summed at a time: fewer than torch shares among its threads."""
_ROWS = 8
"""Rows for each thread that an operation takes together: long enough for the threads to meet seldom."""
_MOST = 16
"""Rows that it takes at most: three copies of 4 MB, so that a third-level cache holds them."""
Work = Callable[..., Sequence[Tensor]]
"""Takes the number of an item, its float64 matrices (rows, n) and a spare one, all to change; returns sums (rows,)."""


def grams(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The inner products a·b, a·a and b·b of each pair of equally shaped real tensors on the CPU (pairs, 3).

    >>> grams([(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))]).tolist()
    [[11.0, 5.0, 25.0]]
    """

    def work(_: int, a: Tensor, b: Tensor, spare: Tensor) -> list[Tensor]:
        both = torch.mul(a, b, out=spare).sum(1)
        return [both, a.mul_(a).sum(1), b.mul_(b).sum(1)]

    return row_sums("grams", pairs, work, sums=3)


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of each real tensor on the CPU (tensors,).

    >>> squares([torch.tensor([3.0, 4.0]), torch.ones(4)]).tolist()
    [25.0, 4.0]
    """
    return row_sums("squares", [(tensor,) for tensor in tensors], lambda _, a, __: [a.mul_(a).sum(1)], sums=1)[:, 0]


@torch.no_grad()
def row_sums(kind: Hashable, items: Sequence[Sequence[Tensor]], work: Work, *, sums: int) -> Tensor:
    """Sum over all entries of each item; nothing waits for a number.

    Args:
        kind: of the work, whose times are remembered.
        items: tuples of real tensors on the CPU; those of one tuple have the same shape.
        work: what is summed.
        sums: how many sums that returns.

    Returns:
        float64 tensor (items, sums).

    >>> ones = torch.ones(40_000)
    >>> row_sums("doctest", [(ones,), (3 * ones,)], lambda _, x, __: [x.sum(1), x.mul_(x).sum(1)], sums=2).tolist()
    [[40000.0, 40000.0], [120000.0, 360000.0]]
    """
    matrices = [(i, matrix) for i, item in enumerate(items) for matrix in _matrices(item)]
    heights = [len(matrix[0]) for _, matrix in matrices]
    starts = list(accumulate(heights, initial=0))
    found = torch.empty(starts[-1], sums, dtype=torch.float64)

    def sum_rows(place: tuple[int, int, int], held: Tensor | None = None) -> None:
        j, first, last = place
        i, matrix = matrices[j]
        parts = [part[first:last] for part in matrix]
        size, shape = parts[0].numel(), parts[0].shape
        held = torch.empty(len(parts) + 1, size, dtype=torch.float64) if held is None else held
        wide = [memory[:size].view(shape) for memory in held.unbind()]
        for memory, part in zip(wide, parts, strict=False):
            memory.copy_(part)
        torch.stack(list(work(i, *wide)), 1, out=found[starts[j] + first : starts[j] + last])

    def run_all(numbers: list[int], run: Run) -> None:
        height = 1 if run is shared else min(_ROWS * torch.get_num_threads(), _MOST)
        places = [
            (j, first, min(first + height, heights[j])) for j in numbers for first in range(0, heights[j], height)
        ]
        if run is shared:
            share(sum_rows, places)
        else:
            # In one piece, taken once: the system would give memory page by page, and take it back after each use.
            most = max((last - first) * matrices[j][1][0].shape[1] for j, first, last in places)
            held = torch.empty(len(items[0]) + 1, most, dtype=torch.float64)
            for place in places:
                sum_rows(place, held)

    faster(kind, range(len(matrices)), lambda j: matrices[j][1][0].numel(), run_all)
    counts = [0] * len(items)
    for (i, _), height in zip(matrices, heights, strict=True):
        counts[i] += height
    return torch.stack([own.sum(0) for own in found.split(counts)])  # type: ignore[no-untyped-call]


def _matrices(item: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The entries of each tensor as rows: those of full length, and the rest."""
    flat = flattened(item) or [tensor.reshape(-1) for tensor in item]
    count = flat[0].numel()
    whole = count // ROW
    if whole:
        yield [part[: whole * ROW].view(whole, ROW) for part in flat]
    if count % ROW or not count:
        yield [part[whole * ROW :].view(1, count % ROW) for part in flat]
