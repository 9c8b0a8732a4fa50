"""The null control: a policy that never acts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation as guards


@dataclass(slots=True)
class _Run:
    """What changes during a run."""

    plan: Plan | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class NoOp:
    """Take readings at the usual cadence and never act.

    Training under it is the plain training, bit for bit: the control for every claim about the other
    policies.

    >>> policy = NoOp()
    >>> policy.start(Plan(sparsity=0.9, total_steps=None, every=50))
    >>> policy.due(50), policy.due(51), policy.decide(Reading(step=50)).acts
    (True, False, False)
    """

    growth: ClassVar[str] = "random"
    """What the controller need not track: no dense gradient is ever asked for."""
    _run: _Run = field(default_factory=_Run, init=False, repr=False)

    def start(self, plan: Plan) -> None:
        """Learn the plan; any valid one will do.

        Raises:
            ValueError: if the plan is out of range.
        """
        guards.check_plan(plan, owner="NoOp", scheduled=False)
        self._run.plan = plan

    def due(self, step: int) -> bool:
        """Whether ``step`` is a multiple of the plan's ``every``."""
        return step > 0 and step % guards.started(self._run.plan, owner="NoOp").every == 0

    def decide(self, reading: Reading) -> Decision:
        """Do nothing."""
        return Decision(phase="hold", reason=f"step {reading.step}: this policy never acts (null control)")

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the policy's name: there is no state."""
        return {"policy": "NoOp"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept a state of this policy.

        Raises:
            ValueError: if it was written by another policy.
        """
        guards.check_state(state, owner="NoOp", keys=())
