"""What every analysis must give."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

Findings = Sequence[Any]


def check_analysis(analysis: Callable[[Sequence[Any]], Findings], runs: Sequence[Any]) -> None:
    """Check an analysis on runs: named findings that can be drawn and kept, the same again.

    Args:
        analysis: function of the loaded runs.
        runs: what it takes, see :mod:`surgecollapse.report.analyses.loaded_run`.

    Raises:
        AssertionError: for the first claim that does not hold.
    """
    for check in ANALYSIS_CHECKS:
        check(lambda: analysis(runs))


def findings_are_named(make: Callable[[], Findings]) -> None:
    """Each is an ``AnalysisResult`` with a file name of its own, a title, a caption and a summary."""
    from surgecollapse.report.analyses.result import AnalysisResult

    found = list(make())
    assert found, "it found nothing: raise NotApplicable with the reason instead"
    for one in found:
        assert isinstance(one, AnalysisResult), f"expected AnalysisResult, got {type(one).__name__}"
        for field in ("stem", "title", "caption", "said", "subject"):
            assert getattr(one, field), f"{field} of {one.stem or one.title!r} is empty"
    stems = [one.stem for one in found]
    assert len(set(stems)) == len(stems), f"two findings would write to one file: {', '.join(stems)}"


def results_can_be_kept(make: Callable[[], Findings]) -> None:
    """``to_dict`` gives what JSON can hold, and the same for a second analysis of the same runs."""
    first, again = (
        [json.dumps(one.result.to_dict(), sort_keys=True) for one in make()],
        [json.dumps(one.result.to_dict(), sort_keys=True) for one in make()],
    )
    assert first == again, "a second analysis of the same runs gives other values"


def results_can_be_drawn(make: Callable[[], Findings]) -> None:
    """``plot`` returns a Matplotlib figure."""
    from matplotlib.figure import Figure

    for one in make():
        figure = one.result.plot()
        assert isinstance(figure, Figure), f"plot() of {one.stem} returns {type(figure).__name__}, expected a Figure"


ANALYSIS_CHECKS: tuple[Callable[[Callable[[], Findings]], None], ...] = (
    findings_are_named,
    results_can_be_kept,
    results_can_be_drawn,
)
"""The claims, each a function of what gives the findings."""
