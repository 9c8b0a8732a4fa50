"""How deep a collapse may go: a bisection against an entropy floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Depth:
    """What the search found."""

    sparsity: float
    measured: float
    """The measure at that sparsity."""
    tries: int


def deepest(measure: Callable[[float], float], least: float, most: float, floor: float, *, tries: int = 5) -> Depth:
    """Find the greatest sparsity in ``[least, most]`` at which ``measure`` is still at or over ``floor``.

    Tries ``most``, then ``least``, then halves. ``least`` is accepted whatever it measures: the caller's target comes
    before the floor. The measure is taken as falling with depth; where it is not, the result is a sparsity that was
    itself measured, never one in between.

    Args:
        measure: sparsity → measure (one pass of the probe batch).
        least: the shallowest sparsity, always allowed.
        most: the deepest.
        floor: lowest allowed value.
        tries: most measurements, at least 2.

    >>> deepest(lambda s: 1.0 - s, 0.5, 0.75, 0.375)
    Depth(sparsity=0.625, measured=0.375, tries=5)
    >>> deepest(lambda s: 1.0, 0.5, 0.75, 0.4)
    Depth(sparsity=0.75, measured=1.0, tries=1)
    >>> deepest(lambda s: 0.0, 0.5, 0.75, 0.4)
    Depth(sparsity=0.5, measured=0.0, tries=2)
    """
    value = measure(most)
    if value >= floor:
        return Depth(most, value, 1)
    found, low, high = Depth(least, measure(least), 2), least, most
    while found.tries < tries and found.measured >= floor:
        middle = (low + high) / 2
        value = measure(middle)
        if value >= floor:
            low, found = middle, Depth(middle, value, found.tries + 1)
        else:
            high, found = middle, Depth(found.sparsity, found.measured, found.tries + 1)
    return found
