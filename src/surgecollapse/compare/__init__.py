"""Methods side by side: paired seeds, equal tuning budgets, tables that grow while the runs go on.

Nothing here imports torch but the workers, which pin their threads first.
"""

from __future__ import annotations

from surgecollapse.compare.command import Choices, prepare
from surgecollapse.compare.comparison import Comparison, Outcome
from surgecollapse.compare.plan import Plan
from surgecollapse.compare.suites import SUITES, Entry, Suite
from surgecollapse.compare.twin import Curve, CurveDifference, Twin, twin

__all__ = [
    "SUITES",
    "Choices",
    "Comparison",
    "Curve",
    "CurveDifference",
    "Entry",
    "Outcome",
    "Plan",
    "Suite",
    "Twin",
    "prepare",
    "twin",
]
