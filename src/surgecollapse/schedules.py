"""Sparsity as a function of the step, in plain floats."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi


def constant(step: int, start: int, end: int, initial: float, final: float) -> float:
    """Go to the final sparsity at once: ``initial`` before ``start``, ``final`` from there on.

    Args:
        step: optimizer step asked about.
        start: first step at the final sparsity.
        end: last step of the schedule, at least ``start``; only checked.
        initial: sparsity before ``start``, in [0, 1].
        final: sparsity from ``start``, in [0, 1].

    Returns:
        Sparsity in [0, 1].

    Raises:
        ValueError: if ``end`` comes before ``start`` or a sparsity lies outside [0, 1].

    >>> [constant(step, 10, 20, 0.0, 0.9) for step in (9, 10, 30)]
    [0.0, 0.9, 0.9]
    """
    _check(start, end, initial, final)
    return initial if step < start else final


def cubic(step: int, start: int, end: int, initial: float, final: float) -> float:
    """Prune fast at first, then ever more slowly: Zhu and Gupta 2017 (arXiv 1710.01878, §3).

    final + (initial − final)(1 − u)³ with u = (step − start)/(end − start), held at both ends.

    Args:
        step: optimizer step asked about.
        start: step until which the sparsity is ``initial``.
        end: step from which it is ``final``, at least ``start``.
        initial: first sparsity, in [0, 1].
        final: last sparsity, in [0, 1].

    Returns:
        Sparsity in [0, 1].

    Raises:
        ValueError: if ``end`` comes before ``start`` or a sparsity lies outside [0, 1].

    >>> [round(cubic(step, 0, 100, 0.0, 0.8), 6) for step in (0, 50, 100, 200)]
    [0.0, 0.7, 0.8, 0.8]
    """
    _check(start, end, initial, final)
    return _between(initial, final, (1 - _progress(step, start, end)) ** 3)


def cosine(step: int, start: int, end: int, initial: float, final: float) -> float:
    """Prune slowly at both ends, fastest in the middle.

    final + (initial − final)(1 + cos πu)/2 with u = (step − start)/(end − start), held at both ends. The
    cosine decay of Dettmers and Zettlemoyer 2019 (arXiv 1907.04840) has this form for the rate of exchange;
    here it is the sparsity.

    Arguments, result and errors are those of :func:`cubic`.

    >>> [round(cosine(step, 0, 100, 0.0, 0.8), 6) for step in (0, 50, 100, 200)]
    [0.0, 0.4, 0.8, 0.8]
    """
    _check(start, end, initial, final)
    return _between(initial, final, (1 + cos(pi * _progress(step, start, end))) / 2)


def _between(initial: float, final: float, remaining: float) -> float:
    # The ends are returned as given: a rounded final sparsity could miss the exact live count by one.
    if remaining in (0.0, 1.0):
        return final if remaining == 0.0 else initial
    return final + (initial - final) * remaining


def _progress(step: int, start: int, end: int) -> float:
    if step >= end:
        return 1.0
    return 0.0 if step <= start else (step - start) / (end - start)


def _check(start: int, end: int, initial: float, final: float) -> None:
    if end < start:
        raise ValueError(f"the schedule must not end before it starts, got start {start} and end {end}")
    for name, value in (("initial", initial), ("final", final)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} sparsity must lie in [0, 1], got {value}")


SCHEDULES: dict[str, Callable[[int, int, int, float, float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "cubic": cubic,
}
"""Sparsity schedules by name."""
