"""Work on many tensors in pieces that stay in a core's cache, and that threads share without waiting for each other.

Two elementwise passes over the same memory cost two trips to memory, unless the second finds in the cache what the
first left there. So large tensors are split, and small ones are put together, into pieces of one size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from surgecollapse.torch_utils.compiled import flattened

BLOCK = 1 << 17
"""Entries of a list: two float32 arrays of it fit into a second-level cache of 1 MB, and its views cost little."""
SERIAL = 1 << 15
"""The most entries that torch takes on one thread; more it shares among all threads, and waits for the last of them."""
_LISTS = 4
"""Lists that are taken as one, at most, where threads are several: the interpreter runs one of them at a time."""
_FEW = 16
"""Items of those that one thread does alone: another would come too late."""
_Item = TypeVar("_Item")


def share(work: Callable[[_Item], object], items: Iterable[_Item]) -> None:
    """Call ``work`` for every item, on as many threads as torch may use; return when all are done.

    A parallel operation of torch waits for each of its threads, which beside a busy process come late by milliseconds.
    Here a thread takes the next item when it is free, and one that has not come by the end is not waited for.

    Args:
        work: what to do; runs without gradients. Its operations are on :data:`SERIAL` entries at most, so that torch
            does not share them in turn.
        items: on what. They must not depend on each other.

    Raises:
        Exception: what ``work`` raised; some items may then be undone.

    >>> found = []
    >>> share(found.append, range(5))
    >>> sorted(found)
    [0, 1, 2, 3, 4]
    """
    todo = list(items)
    left = iter(todo)  # of which next() is one step for the interpreter

    @torch.no_grad()
    def until_none_is_left() -> None:
        for item in left:
            work(item)

    threads = 1 if len(todo) < _FEW or torch.compiler.is_compiling() else torch.get_num_threads()
    others = [_pool(threads).submit(until_none_is_left) for _ in range(threads - 1)]
    try:
        until_none_is_left()
    finally:
        for other in others:
            if not other.cancel():  # whoever has not begun by now need not come
                other.result()


def on_pieces(work: Callable[..., object], items: Sequence[Sequence[Tensor]]) -> None:
    """Call a foreach operation on lists of tensors; where the CPU has several threads, on pieces that they share.

    torch splits a large tensor among all threads and waits for the last of them, tensor by tensor.

    Args:
        work: takes as many lists as an item has tensors; entry by entry, so that pieces give the same values.
        items: tuples of tensors; those of one tuple have the same shape.

    >>> on_pieces(torch._foreach_mul_, [(ones := torch.ones(2), torch.tensor([0.0, 3.0]))])
    >>> ones.tolist()
    [0.0, 3.0]
    """
    if not items:
        return
    on_host = all(item[0].device.type == "cpu" for item in items)
    if on_host and torch.get_num_threads() > 1 and not torch.compiler.is_compiling():
        share(lambda lists: work(*lists), blocks(items))
    else:
        work(*map(list, zip(*items, strict=True)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="surgecollapse-share")


def blocks(items: Iterable[Sequence[Tensor]], size: int = BLOCK) -> Iterator[tuple[list[Tensor], ...]]:
    """Regroup tuples of equally shaped tensors into tuples of lists of about ``size`` entries a list.

    Args:
        items: tuples of tensors; those of one tuple have the same shape and correspond entry by entry.
        size: entries that a list may have; what cannot be split (differing strides) is given whole. With several
            threads, lists are of views of :data:`SERIAL` entries at most. They are up to four times as long where there
            are enough of them for every thread.

    Yields:
        One list for each position in the tuples, all views of the given memory, corresponding to each other.

    >>> import torch
    >>> pairs = [(torch.arange(5), torch.arange(5) * 10), (torch.ones(2), torch.ones(2))]
    >>> [[[len(view) for view in views] for views in lists] for lists in blocks(pairs, 4)]
    [[[4], [4]], [[1, 2], [1, 2]]]
    """
    most, threads = size, torch.get_num_threads()
    if threads > 1:
        items = list(items)
        fair = sum(item[0].numel() for item in items) // (_FEW * threads)
        size, most = min(max(size, fair), _LISTS * size), min(size, SERIAL)
    gathered: list[tuple[Tensor, ...]] = []
    entries = 0
    for item in items:
        for piece in [tuple(item)] if item[0].numel() <= most else _split(item, most):
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
    whole, rest = divmod(flat[0].numel(), size)
    sizes = [size] * whole + [rest] * (rest > 0)
    return zip(*(view.split_with_sizes(sizes) for view in flat), strict=True)
