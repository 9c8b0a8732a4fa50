"""The summary of a run's times of fitting and generalising; the times are defined in :mod:`surgecollapse.forecast`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from surgecollapse.forecast.times import FIT, GENERALISE, GROKKED, IN_A_ROW, GrokkingTimes, first_at, grokking_times

__all__ = [
    "FIT",
    "GENERALISE",
    "GROKKED",
    "IN_A_ROW",
    "GrokkingTimes",
    "first_at",
    "grokking_summary",
    "grokking_times",
]


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
