"""When a run fits, and when it generalizes: times read from the accuracies of its evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

FIT, GENERALIZE = 0.99, 0.95
"""Training accuracy that counts as fitted, validation accuracy that counts as generalized."""
IN_A_ROW = 3
"""Evaluations on end that must keep an accuracy, for it to count as sustained."""
GROKKED = 2.0
"""Generalizing that many times later than fitting is grokking."""


@dataclass(frozen=True, kw_only=True)
class GrokkingTimes:
    """Optimizer steps; ``None`` where it did not happen."""

    t_fit: int | None
    """First evaluation with training accuracy ≥ .99."""
    t_gen: int | None
    """First evaluation with validation accuracy ≥ .95."""
    t_fit_sustained: int | None
    """First of three evaluations on end with training accuracy ≥ .99."""
    t_gen_sustained: int | None
    """First of three evaluations on end with validation accuracy ≥ .95."""
    delay: int | None
    """t_gen − t_fit; negative where the training set was fitted later."""
    outcome: str
    """``grokked`` (sustained, and t_gen ≥ 2·t_fit), ``at once`` (sustained, sooner), ``not`` (not sustained)."""


def first_at(steps: Sequence[int], values: Sequence[float], level: float, *, in_a_row: int = 1) -> int | None:
    """Step of the first of ``in_a_row`` values on end that are at ``level`` or above.

    Args:
        steps: of the evaluations, ascending.
        values: what was measured; one that is not a number is below every level.
        level: to be reached.
        in_a_row: evaluations that must reach it one after the other.

    Returns:
        The step, or ``None`` if it never was so.

    Raises:
        ValueError: if steps and values do not correspond.

    >>> first_at([10, 20, 30, 40, 50], [0.2, 0.96, 0.3, 0.95, 0.97], 0.95)
    20
    >>> first_at([10, 20, 30, 40, 50], [0.2, 0.96, 0.3, 0.95, 0.97], 0.95, in_a_row=2)
    40
    """
    kept = 0
    for i, (_, value) in enumerate(zip(steps, values, strict=True)):
        kept = kept + 1 if value >= level else 0
        if kept == in_a_row:
            return int(steps[i + 1 - in_a_row])
    return None


def grokking_times(
    steps: Sequence[int],
    train: Sequence[float],
    validation: Sequence[float],
    *,
    in_a_row: int = IN_A_ROW,
    generalize: float = GENERALIZE,
) -> GrokkingTimes:
    """Times of fitting and generalizing, from evaluations of both accuracies at the same steps.

    Args:
        steps: of the evaluations, ascending.
        train: training accuracy, in [0, 1].
        validation: validation accuracy, in [0, 1].
        in_a_row: evaluations on end that count as sustained.
        generalize: validation accuracy that counts as generalized, for tasks on which 0.95 is out of reach.

    Raises:
        ValueError: if the three do not correspond.

    >>> found = grokking_times([1, 2, 3, 4, 5, 6], [0.5, 1, 1, 1, 1, 1], [0.1, 0.1, 0.2, 0.95, 0.97, 0.99])
    >>> found.t_fit, found.t_gen, found.t_gen_sustained, found.delay, found.outcome
    (2, 4, 4, 2, 'grokked')
    """
    t_fit, t_gen = first_at(steps, train, FIT), first_at(steps, validation, generalize)
    sustained = first_at(steps, validation, generalize, in_a_row=in_a_row)
    outcome = "not"
    if sustained is not None:
        late = t_fit is not None and sustained >= GROKKED * t_fit
        outcome = "grokked" if late else "at once"
    return GrokkingTimes(
        t_fit=t_fit,
        t_gen=t_gen,
        t_fit_sustained=first_at(steps, train, FIT, in_a_row=in_a_row),
        t_gen_sustained=sustained,
        delay=None if t_fit is None or t_gen is None else t_gen - t_fit,
        outcome=outcome,
    )


def grokking_summary(
    steps: Sequence[int], train: Sequence[float], validation: Sequence[float], seconds_a_step: float | None = None
) -> dict[str, Any]:
    """:func:`grokking_times` as plain values, with the seconds of training up to t_gen.

    Args:
        steps: of the evaluations.
        train: training accuracy.
        validation: validation accuracy.
        seconds_a_step: mean time of a training step.

    >>> grokking_summary([10], [0.2], [0.1])["outcome"]
    'not'
    """
    times = grokking_times(steps, train, validation)
    known = times.t_gen is not None and seconds_a_step is not None
    return {**asdict(times), "seconds_to_t_gen": (times.t_gen or 0) * (seconds_a_step or 0.0) if known else None}
