"""Work on many tensors in pieces that stay in the cache.

Two elementwise passes over the same memory cost two trips to memory, unless the second finds in the cache what the
first left there. So large tensors are split, and small ones are put together, into pieces of one size.

Several threads work in one of two ways. With :func:`one_by_one`, torch splits one operation after another among its
threads. With :func:`shared`, each thread does all operations on pieces of its own, without waiting for the others. The
former is the faster on idle cores, the latter beside busy processes. :func:`faster` takes what has been the faster of
late. Both give bitwise the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from surgecollapse.torch_utils.compiled import flattened
from surgecollapse.torch_utils.fastest import fastest

BLOCK = 1 << 17
"""Entries of a list: two float32 arrays of it fit into a second-level cache of 1 MB, and its views cost little."""
SERIAL = 1 << 15
"""The most entries that torch takes on one thread; more it shares among all threads, and waits for the last of them."""
GROUP = 1 << 20
"""Entries of a list that torch splits among its threads: enough that these need not meet often."""
_AT_ONCE = 1 << 18
"""The same where one thread works: they stay in its cache while several operations go over them."""
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


class Run(Protocol):
    """A way to do work on many tensors."""

    def __call__(
        self, work: Callable[[tuple[list[Tensor], ...]], object], items: Sequence[Sequence[Tensor]], *, streams: int = 2
    ) -> None:
        """Call ``work`` on lists of tensors until all items are done.

        Args:
            work: takes a tuple of lists, and works entry by entry.
            items: tuples of tensors; those of one tuple have the same shape.
            streams: tensors that ``work`` goes through for each item; lists are shorter where there are more than two.
        """


def one_by_one(
    work: Callable[[tuple[list[Tensor], ...]], object], items: Sequence[Sequence[Tensor]], *, streams: int = 2
) -> None:
    """One list after another, on this thread and those of torch; see :class:`Run`.

    >>> one_by_one(lambda lists: torch._foreach_mul_(*lists), [(ones := torch.ones(2), torch.tensor([0.0, 3.0]))])
    >>> ones.tolist()
    [0.0, 3.0]
    """
    size = BLOCK if torch.get_num_threads() == 1 else GROUP
    if len(items) == 1 and items[0][0].numel() <= _length(size, streams):
        work(tuple([tensor] for tensor in items[0]))
        return
    for lists in blocks(items, _length(size, streams)):
        work(lists)


def shared(
    work: Callable[[tuple[list[Tensor], ...]], object], items: Sequence[Sequence[Tensor]], *, streams: int = 2
) -> None:
    """Lists of small pieces that threads share; see :class:`Run`.

    >>> shared(lambda lists: torch._foreach_mul_(*lists), [(ones := torch.ones(2), torch.tensor([0.0, 3.0]))])
    >>> ones.tolist()
    [0.0, 3.0]
    """
    share(work, blocks(items, _length(BLOCK, streams), threads=torch.get_num_threads()))


def faster(
    kind: Hashable,
    items: Sequence[_Item],
    size: Callable[[_Item], int],
    work: Callable[[list[_Item], Run], object],
    *,
    counts: Callable[[], bool] = lambda: True,
) -> None:
    """Do work on the CPU in one of the two ways: on several threads, in that which has been the faster of late.

    Args:
        kind: of the work, whose figures are remembered.
        items: on what. They must not depend on each other.
        size: entries of an item.
        work: does some items in the way that it is given.
        counts: asked afterwards whether the time of this call counts.

    >>> faster("doctest", [3, 4], lambda item: item, lambda items, run: print(items, run.__name__))
    [3, 4] one_by_one
    """
    sizes = list(map(size, items))
    threads, entries = torch.get_num_threads(), sum(sizes)
    alone = threads == 1 or entries <= SERIAL or torch.compiler.is_compiling()
    groups: list[list[_Item]] = [[]]
    held, most = 0, _AT_ONCE if alone else GROUP
    # Small ones go together, so that their own operations are few.
    for item, own in sorted(zip(items, sizes, strict=True), key=lambda pair: pair[1] > SERIAL):
        if held and held + own > most:
            groups.append([])
            held = 0
        groups[-1].append(item)
        held += own
    if alone:
        for group in groups:
            work(group, one_by_one)
        return
    fastest(
        (kind, threads),
        groups,
        entries,
        lambda some: work(some, shared),
        lambda some: work(some, one_by_one),
        counts=counts,
    )


def on_pieces(work: Callable[..., object], items: Sequence[Sequence[Tensor]]) -> None:
    """Call a foreach operation on lists of tensors, on the CPU in the faster way.

    Args:
        work: takes as many lists as an item has tensors; entry by entry, so that pieces give the same values.
        items: tuples of tensors; those of one tuple have the same shape.

    >>> on_pieces(torch._foreach_mul_, [(ones := torch.ones(2), torch.tensor([0.0, 3.0]))])
    >>> ones.tolist()
    [0.0, 3.0]
    """
    if not items:
        return
    if torch.get_num_threads() == 1 or any(item[0].device.type != "cpu" for item in items):
        work(*map(list, zip(*items, strict=True)))
        return
    kind = getattr(work, "__qualname__", repr(work)), items[0][0].dtype
    faster(kind, items, lambda item: item[0].numel(), lambda some, run: run(lambda lists: work(*lists), some))


def _length(size: int, streams: int) -> int:
    return max(2 * size // max(streams, 2), 4096)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="surgecollapse-share")


def blocks(
    items: Iterable[Sequence[Tensor]], size: int = BLOCK, threads: int = 1
) -> Iterator[tuple[list[Tensor], ...]]:
    """Regroup tuples of equally shaped tensors into tuples of lists of about ``size`` entries a list.

    Args:
        items: tuples of tensors; those of one tuple have the same shape and correspond entry by entry.
        size: entries that a list may have; what cannot be split (differing strides) is given whole.
        threads: how many are to share the lists. For several, lists are of views of :data:`SERIAL` entries at most.
            They are up to four times as long where there are enough of them for every thread.

    Yields:
        One list for each position in the tuples, all views of the given memory, corresponding to each other.

    >>> import torch
    >>> pairs = [(torch.arange(5), torch.arange(5) * 10), (torch.ones(2), torch.ones(2))]
    >>> [[[len(view) for view in views] for views in lists] for lists in blocks(pairs, 4)]
    [[[4], [4]], [[1, 2], [1, 2]]]
    """
    most = size
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
