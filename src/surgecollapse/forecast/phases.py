"""The phases of a run that may grok, read afterwards from the series of its evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import isfinite

from surgecollapse.forecast.times import FIT, GENERALIZE, GROKKED, IN_A_ROW, first_at, grokking_times

PHASES = ("memorization", "plateau", "circuit formation", "cleanup", "grokked", "collapsed")
"""In the order in which a run that groks passes through them; the last may follow any."""
TAKE_OFF = 0.1
"""Share of the way to generalizing (in accuracy), or of the fall of the validation loss, that counts as begun."""
COLLAPSED = 0.9
"""Training accuracy below which a run that had fitted counts as collapsed."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """When something happened, as well as evaluations can tell: later than ``after``, at ``by`` at the latest."""

    after: int
    """The evaluation before, or 0: it had not happened."""
    by: int
    """The evaluation that saw it first."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Evaluations on end that belong to one phase."""

    phase: str
    """One of :data:`PHASES`."""
    first: int
    """Step of its first evaluation."""
    last: int
    """Step of its last evaluation."""


@dataclass(frozen=True, kw_only=True)
class Phases:
    """What a run went through. Times are intervals, ``None`` where it did not happen."""

    spans: tuple[Span, ...]
    t_fit: Interval | None
    """Training accuracy ≥ .99 for the first time."""
    t_gen: Interval | None
    """Validation accuracy ≥ .95 for the first time."""
    sustained: Interval | None
    """Validation accuracy ≥ .95, kept for three evaluations."""
    stable: Interval | None
    """Validation accuracy ≥ .95, kept to the end of the record (three evaluations at least)."""
    delay: tuple[int, int] | None
    """Least and most optimizer steps from t_fit to t_gen that the intervals allow."""
    outcome: str
    """``grokked | at once | not``, see :class:`surgecollapse.forecast.times.GrokkingTimes`."""
    certain: bool
    """Whether finer evaluations of the same run, within the intervals, could not have changed the outcome from
    ``grokked`` to ``at once`` or back."""


def interval(steps: Sequence[int], step: int | None) -> Interval | None:
    """The interval that ends with the evaluation at ``step``.

    Args:
        steps: of the evaluations, ascending.
        step: of the evaluation that saw it first; ``None`` if none did.

    Raises:
        ValueError: if there was no evaluation at that step.

    >>> interval([10, 20, 30], 20)
    Interval(after=10, by=20)
    >>> interval([10, 20, 30], 10)
    Interval(after=0, by=10)
    """
    if step is None:
        return None
    index = list(steps).index(step)
    return Interval(after=int(steps[index - 1]) if index else 0, by=int(step))


def stable_from(steps: Sequence[int], values: Sequence[float], level: float, *, in_a_row: int = IN_A_ROW) -> int | None:
    """Step of the first evaluation from which on every one is at ``level`` or above.

    Args:
        steps: of the evaluations, ascending.
        values: what was measured.
        level: to be kept.
        in_a_row: evaluations that must have kept it, at least.

    >>> stable_from([1, 2, 3, 4, 5, 6], [0.96, 0.96, 0.2, 0.97, 0.98, 0.99], 0.95)
    4
    """
    kept = 0
    for value in reversed(values):
        if not value >= level:
            break
        kept += 1
    return int(steps[-kept]) if kept >= in_a_row else None


def _collapsed(train: Sequence[float], train_loss: Sequence[float] | None, in_a_row: int) -> list[bool]:
    """Evaluations at which the loss is not finite, or that lie in a lasting fall of a fitted training accuracy."""
    broken = [train_loss is not None and not isfinite(train_loss[i]) for i in range(len(train))]
    fitted, start = False, 0
    for i, value in enumerate(train):
        fitted = fitted or value >= FIT
        if not fitted or value >= COLLAPSED:
            start = i + 1
        elif i + 1 - start >= in_a_row:
            broken[start : i + 1] = [True] * (i + 1 - start)
    return broken


def _circuits_from(
    steps: Sequence[int], losses: Sequence[float] | None, start: int, end: int, in_a_row: int
) -> int | None:
    """When the validation loss, for a while, is a tenth below the highest value that it had since fitting."""
    if losses is None:
        return None
    falls, highest = [], float("-inf")
    for step, loss in zip(steps, losses, strict=True):
        if step >= start:
            highest = max(highest, loss)
        falls.append(float(start <= step < end and loss <= (1 - TAKE_OFF) * highest))
    return first_at(steps, falls, 1.0, in_a_row=in_a_row)


def phases(
    steps: Sequence[int],
    train: Sequence[float],
    validation: Sequence[float],
    *,
    train_loss: Sequence[float] | None = None,
    validation_loss: Sequence[float] | None = None,
    in_a_row: int = IN_A_ROW,
) -> Phases:
    """Label every evaluation of a run with its phase; in hindsight, so no detector may read these labels.

    After Nanda et al. (arXiv 2301.05217), but from what every run records, in place of their restricted and excluded
    losses, which need to know the circuit: *memorization* before t_fit. *plateau* until the validation loss has fallen
    a tenth below its highest value since t_fit (three evaluations on end). *circuit formation* from there until the
    validation accuracy has gone a tenth of the way from its value at t_fit to 0.95. *cleanup* until 0.95 is sustained.
    Then *grokked*: also the phase of runs that generalized at once, which the outcome tells apart. *Collapsed*: the
    training loss is not finite, or a fitted training accuracy is below 0.9 for three evaluations. Without validation
    losses no circuit formation is seen: the plateau lasts until cleanup.

    Args:
        steps: of the evaluations, ascending.
        train: training accuracy, in [0, 1].
        validation: validation accuracy, in [0, 1].
        train_loss: mean training loss, for divergence.
        validation_loss: mean validation loss (nats), for circuit formation.
        in_a_row: evaluations on end that count as lasting.

    Raises:
        ValueError: if the series differ in length, or the steps do not ascend.

    >>> found = phases([1, 2, 3, 4, 5, 6, 7], [0.5, 1, 1, 1, 1, 1, 1], [0.1, 0.1, 0.1, 0.5, 0.96, 0.97, 0.99])
    >>> [(span.phase, span.first, span.last) for span in found.spans]
    [('memorization', 1, 1), ('plateau', 2, 3), ('cleanup', 4, 4), ('grokked', 5, 7)]
    >>> found.outcome, found.delay, found.certain
    ('grokked', (2, 4), True)
    """
    series = {"train": train, "validation": validation, "train_loss": train_loss, "validation_loss": validation_loss}
    for name, values in series.items():
        if values is not None and len(values) != len(steps):
            raise ValueError(f"expected one value of {name} for each of the {len(steps)} steps, got {len(values)}")
    if any(later <= sooner for sooner, later in pairwise(steps)):
        raise ValueError("expected the steps of the evaluations in ascending order, each once: sort them first")
    times = grokking_times(steps, train, validation, in_a_row=in_a_row)
    labels = _labels(steps, validation, validation_loss, times.t_fit, times.t_gen_sustained, in_a_row)
    broken = _collapsed(train, train_loss, in_a_row)
    named = [(PHASES[-1] if bad else label, int(step)) for bad, label, step in zip(broken, labels, steps, strict=True)]
    groups = [(phase, [step for _, step in members]) for phase, members in groupby(named, key=lambda pair: pair[0])]
    fit, gen = interval(steps, times.t_fit), interval(steps, times.t_gen)
    sustained = interval(steps, times.t_gen_sustained)
    return Phases(
        spans=tuple(Span(phase=phase, first=within[0], last=within[-1]) for phase, within in groups),
        t_fit=fit,
        t_gen=gen,
        sustained=sustained,
        stable=interval(steps, stable_from(steps, validation, GENERALIZE, in_a_row=in_a_row)),
        delay=None if fit is None or gen is None else (gen.after - fit.by, gen.by - fit.after),
        outcome=times.outcome,
        certain=_certain(times.outcome, fit, sustained),
    )


def _labels(
    steps: Sequence[int],
    validation: Sequence[float],
    validation_loss: Sequence[float] | None,
    t_fit: int | None,
    t_gen: int | None,
    in_a_row: int,
) -> list[str]:
    """Phase of every evaluation, collapse aside."""
    never = int(steps[-1]) + 1 if len(steps) else 0
    fit, gen = never if t_fit is None else t_fit, never if t_gen is None else t_gen
    start = next((value for step, value in zip(steps, validation, strict=True) if step >= fit), 0.0)
    level = start + TAKE_OFF * (GENERALIZE - start)
    ways = [value if step > fit else 0.0 for step, value in zip(steps, validation, strict=True)]
    risen = first_at(steps, ways, level, in_a_row=in_a_row)
    cleanup = gen if risen is None else min(risen, gen)
    formed = _circuits_from(steps, validation_loss, fit, cleanup, in_a_row)
    bounds = (fit, cleanup if formed is None else formed, cleanup, gen)
    labels = []
    for step in steps:
        passed = [PHASES[i + 1] for i, bound in enumerate(bounds) if step >= bound]
        labels.append(passed[-1] if passed else PHASES[0])
    return labels


def _certain(outcome: str, fit: Interval | None, gen: Interval | None) -> bool:
    """Whether t_gen ≥ 2·t_fit holds, or fails, for all times within the intervals (open below, closed above)."""
    if gen is None or fit is None:
        return True
    return gen.after >= GROKKED * fit.by if outcome == "grokked" else gen.by <= GROKKED * fit.after
