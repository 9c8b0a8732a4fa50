"""What nets have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgecollapse.analysis.universality import universality
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, NotApplicable

if TYPE_CHECKING:
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("universality", "Universality")
def _universality(runs: Sequence[LoadedRun]) -> list[AnalysisResult]:
    """Whether the learning curves of several runs become one curve when they are rescaled.

    Time is divided by each run's own half-way time t½, and levels run from 0 at the start to 1 at the end::

        u(s) = (y(s·t½) − y_0)/(y_∞ − y_0),  distance of two runs = mean |u_1 − u_2| over ln s

    When to use:
        For two or more runs of one task.

    Cost:
        None beside reading the records.

    Deviations:
        The paper divides by final time and loss; half-way time suits curves that rise late, as in grokking.

    Source:
        Qiu et al. 2025, arXiv 2507.02119.
    """
    if len(runs) < 2:
        raise NotApplicable("it compares the learning curves of two runs at least")
    tasks = {(run.config.data.task, getattr(run.config.data, "operation", "")) for run in runs}
    if len(tasks) > 1:
        raise NotApplicable(
            f"it compares runs of one task, these are of {', '.join(sorted(' '.join(t) for t in tasks))}"
        )
    found = universality({run.name: (run.curve.steps, run.curve.values) for run in runs})
    left = f" Left out, as they did not move: {', '.join(found.left_out)}." if found.left_out else ""
    caption = (
        "Validation accuracy as recorded, and with time in units of each run's own half-way time t½ and the level from "
        f"0 at its start to 1 at its end. The distance is the mean gap of two curves over ln t.{left}"
    )
    return [
        AnalysisResult(
            "universality",
            "Learning curves, rescaled",
            caption,
            found,
            f"distance {found.before:.3f} → {found.after:.3f}",
            ", ".join(curve.name for curve in found.curves),
            wide=True,
        )
    ]
