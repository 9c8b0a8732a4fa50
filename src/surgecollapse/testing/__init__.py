"""The contracts of parts as public checks: what the library's own parts must do, third parties run on theirs.

Each ``check_…`` raises :class:`AssertionError` with what went wrong, and returns nothing where all is well. The
``…_CHECKS`` are the single claims, for ``pytest.mark.parametrize``::

    @pytest.mark.parametrize("check", POLICY_CHECKS)
    def test_my_policy(check):
        check(MyPolicy)
"""

from __future__ import annotations

from surgecollapse.testing.analysis import ANALYSIS_CHECKS, check_analysis
from surgecollapse.testing.criterion import CRITERION_CHECKS, check_criterion
from surgecollapse.testing.monitor import MONITOR_CHECKS, check_monitor
from surgecollapse.testing.policy import POLICY_CHECKS, check_policy
from surgecollapse.testing.task import TASK_CHECKS, check_task
from surgecollapse.testing.tracker import TRACKER_CHECKS, check_tracker
from surgecollapse.testing.transform import TRANSFORM_CHECKS, check_transform

__all__ = [
    "ANALYSIS_CHECKS",
    "CRITERION_CHECKS",
    "MONITOR_CHECKS",
    "POLICY_CHECKS",
    "TASK_CHECKS",
    "TRACKER_CHECKS",
    "TRANSFORM_CHECKS",
    "check_analysis",
    "check_criterion",
    "check_monitor",
    "check_policy",
    "check_task",
    "check_tracker",
    "check_transform",
]
