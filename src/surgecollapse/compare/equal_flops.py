"""How long a method must train to cost the training FLOPs of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgecollapse.compare.plan import make_cell

if TYPE_CHECKING:
    from surgecollapse.compare.methods import Method
    from surgecollapse.compare.plan import Choices, Plan
    from surgecollapse.compare.rows import Row, Rows
    from surgecollapse.compare.suites import Entry

SEED = 0
"""Costs are those of this seed, so that further seeds do not change how long others train."""


def total_flops(row: Row) -> float:
    """Training FLOPs of a run, in those of one dense step."""
    return float(row["flops_training"]) * float(row["steps"])


def equal_steps(
    plan: Plan, rows: Rows, reference: str, tuned: Choices, entry: Entry, method: Method, sparsity: float
) -> int | None:
    """Steps for which ``method.longer`` costs what the reference costs, by their rows of the first seed.

    The cost of a step is taken as that of the shorter run, on average: schedules that are fractions of the run keep it.

    Args:
        plan: of the comparison.
        rows: finished runs.
        reference: name of the method whose cost is matched.
        tuned: settings that tuning chose, by (entry, method).
        entry: the net.
        method: one with ``longer``.
        sparsity: its target.

    Returns:
        ``None`` where one of the two runs is missing.
    """
    ours = _row(plan, rows, tuned, entry, reference, sparsity)
    theirs = _row(plan, rows, tuned, entry, method.longer or "", sparsity)
    if ours is None or theirs is None or not theirs["flops_training"]:
        return None
    return max(1, round(total_flops(ours) / float(theirs["flops_training"])))


def _row(plan: Plan, rows: Rows, tuned: Choices, entry: Entry, name: str, sparsity: float) -> Row | None:
    method = next((method for method in plan.methods if method.name == name), None)
    if method is None:
        return None
    settings: Mapping[str, Any] | None = plan.settings_of(tuned, entry, method)
    if settings is None:
        return None
    return rows.get(make_cell(entry, method, sparsity, SEED, settings, data_dir=plan.data_dir).key)
