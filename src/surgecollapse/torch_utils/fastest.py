"""Of two ways to do the same work, the one that is the faster on this machine at this time.

An operation that torch splits among its threads is the fastest there is on idle cores. Where one of the threads has to
share its core, the others wait for it, for milliseconds. Which of the two it is changes while a program runs, so it is
measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

_RARELY = 16
"""The slower way is tried again after so many calls, times how much slower it was: a sixteenth of the time at most."""
_SOON = 2
"""The same for the first time, as first calls are slow for other reasons; it doubles with each trial."""
_WEIGHT = 0.25
"""Of the last call in the mean cost of the present way."""
_PATIENCE = 2
"""Times the last cost of the safe way that the quick one may take."""
_clock = time.perf_counter
_Item = TypeVar("_Item")


class Chooser:
    """Says which of two ways is next, from what they cost of late.

    The first two calls try both. Then the cheaper way stays until its mean cost, of about the last four calls, exceeds
    what the other one cost last.

    Now and then the other way is tried again. With r the cost of the other way over that of the present one, 16·r calls
    lie between two trials. So trials take 1/16 of the time at most, however slow that way is. The first three
    trials come earlier, after 2·r, 4·r and 8·r calls.

    >>> chooser = Chooser()
    >>> costs, ways = [3.0, 1.0], []
    >>> for _ in range(6):
    ...     way = chooser.way()
    ...     chooser.took(way, costs[way])
    ...     ways.append(way)
    >>> ways
    [0, 1, 1, 1, 1, 1]
    """

    def __init__(self) -> None:
        self._costs: list[float | None] = [None, None]
        self._present = 0
        self._calls = 0
        self._is_new = True
        self._pause = _SOON

    def way(self) -> int:
        """Number of the way to take now, 0 or 1."""
        mine, other = self._costs[self._present], self._costs[1 - self._present]
        if mine is None:
            return self._present
        if other is None or self._calls * mine >= self._pause * other:
            return 1 - self._present
        return self._present

    def cost(self, way: int) -> float:
        """What a way cost last; without limit where it is not known."""
        known = self._costs[way]
        return math.inf if known is None else known

    def took(self, way: int, cost: float) -> None:
        """Take in what a way cost, in any unit that makes calls comparable."""
        before = self._costs[way]
        if way != self._present:
            self._costs[way], self._calls = cost, 0
            if before is not None:
                self._pause = min(2 * self._pause, _RARELY)
            here = self._costs[self._present]
            if here is not None and cost < here:
                self._present, self._is_new = way, False
            return
        # A figure from before a change of ways is of another time.
        mine = cost if before is None or self._is_new else before + _WEIGHT * (cost - before)
        self._costs[way], self._is_new = mine, False
        self._calls += 1
        other = self._costs[1 - way]
        if other is not None and mine > other:
            self._present, self._calls, self._is_new = 1 - way, 0, True


_choosers: dict[Hashable, Chooser] = {}


def fastest(
    kind: Hashable,
    groups: Sequence[Sequence[_Item]],
    entries: int,
    safe: Callable[[list[_Item]], object],
    quick: Callable[[list[_Item]], object],
    *,
    counts: Callable[[], bool] = lambda: True,
) -> None:
    """Do work in the one of two ways that has been the faster of late in this process.

    Nothing but time may depend on the way. Once the quick way has taken twice as long as the safe one took last for the
    whole, the safe one does the rest. What is remembered belongs to the process: copies and checkpoints have none.

    Args:
        kind: of the work; figures are shared by calls of one kind and about as many entries.
        groups: of items that do not depend on each other.
        entries: amount of work.
        safe: does any number of items, in a way that is never very slow.
        quick: does the items of one group, in a way that may be.
        counts: asked afterwards whether the time of this call counts.

    >>> fastest(object(), [[1, 2], [3]], 3, lambda items: print("together", items), print)
    together [1, 2, 3]
    """
    chooser = _choosers.setdefault((kind, entries.bit_length()), Chooser())
    way, began, done = chooser.way(), _clock(), 0
    limit = _PATIENCE * chooser.cost(0) * entries
    while way == 1 and done < len(groups) and (not done or _clock() - began <= limit):
        quick(list(groups[done]))
        done += 1
    if rest := [item for group in groups[done:] for item in group]:
        safe(rest)
    taken = _clock() - began
    if counts():
        chooser.took(way, taken / max(entries, 1))
