"""Elementwise work on many tensors in pieces that stay in a core's cache.

Two elementwise passes over the same memory cost two trips to memory, unless the second finds in the cache what the
first left there. So large tensors are split, and small ones are put together, into pieces of one size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from surgecollapse.torch_utils.compiled import flattened

BLOCK = 1 << 16
"""Entries of a piece: two to four float32 arrays of it fit into a second-level cache of 1 MB."""


def blocks(items: Iterable[Sequence[Tensor]], size: int = BLOCK) -> Iterator[tuple[list[Tensor], ...]]:
    """Regroup tuples of equally shaped tensors into tuples of lists of about ``size`` entries a list.

    Args:
        items: tuples of tensors; those of one tuple have the same shape and correspond entry by entry.
        size: entries that a list may have; what cannot be split (differing strides) is given whole.

    Yields:
        One list for each position in the tuples, all views of the given memory, corresponding to each other.

    >>> import torch
    >>> pairs = [(torch.arange(5), torch.arange(5) * 10), (torch.ones(2), torch.ones(2))]
    >>> [[[len(view) for view in views] for views in lists] for lists in blocks(pairs, 4)]
    [[[4], [4]], [[1, 2], [1, 2]]]
    """
    gathered: list[tuple[Tensor, ...]] = []
    entries = 0
    for item in items:
        for piece in [tuple(item)] if item[0].numel() <= size else _split(item, size):
            if gathered and entries + piece[0].numel() > size:
                yield tuple(map(list, zip(*gathered, strict=True)))
                gathered, entries = [], 0
            gathered.append(piece)
            entries += piece[0].numel()
    if gathered:
        yield tuple(map(list, zip(*gathered, strict=True)))


def _split(item: Sequence[Tensor], size: int) -> Iterable[tuple[Tensor, ...]]:
    flat = flattened(item)
    if flat is None:
        return [tuple(item)]
    return zip(*(view.split(size) for view in flat), strict=True)  # type: ignore[no-untyped-call]
