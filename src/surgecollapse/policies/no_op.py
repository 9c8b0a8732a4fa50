"""The null control: a policy that never acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgecollapse.events import Decision, Reading
from surgecollapse.policies.base import BasePolicy
from surgecollapse.policies.registry import policy


@policy("no_op")
@dataclass(frozen=True, kw_only=True, eq=False)
class NoOp(BasePolicy):
    """Take readings at the usual cadence and never act.

    The weights are those of plain training, bit for bit: w_t = w_t(no controller) at every step t.

    >>> from surgecollapse.events import Plan
    >>> policy = NoOp()
    >>> policy.start(Plan(sparsity=0.9, total_steps=None, every=50))
    >>> policy.due(50), policy.due(51), policy.decide(Reading(step=50)).acts
    (True, False, False)

    When to use:
        As the null control for every claim about the other policies.

    Cost:
        Readings only.

    Deviations:
        None.

    Source:
        This project.
    """

    growth: ClassVar[str] = "random"

    def _act(self, reading: Reading) -> Decision:
        return Decision(phase="dense", reason=f"step {reading.step}: this policy never acts (null control)")
