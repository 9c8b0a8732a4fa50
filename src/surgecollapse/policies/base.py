"""The frame that scheduled rivals share: a start, an end, a final mask, and the phase in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation as guards
from surgecollapse.policies.schedule import to_step


@dataclass(slots=True)
class _Run:
    """What changes during a run."""

    plan: Plan | None = None
    phase: str = "dense"
    marks: frozenset[int] = frozenset()
    """Steps of the marks; they follow from the plan."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScheduledPolicy:
    """A policy whose decisions depend on the step alone: subclasses say what is due when, and what then.

    Level-triggered: :meth:`decide` asks :meth:`_act` for what the schedule wants at this step, whatever was skipped.
    """

    growth: ClassVar[str] = "random"
    """What the controller need not track: no dense gradient is ever asked for."""
    _run: _Run = field(default_factory=_Run, init=False, repr=False)

    def start(self, plan: Plan) -> None:
        """Learn the plan and forget any earlier run.

        Raises:
            ValueError: if ``total_steps`` is missing or too short.
        """
        guards.check_plan(plan, owner=type(self).__name__, scheduled=True)
        self._run.plan, self._run.phase = plan, "dense"
        marks = [self._step(at) for at in self._marks()]
        if any(later <= earlier for earlier, later in zip([0, *marks], marks, strict=False)):
            raise ValueError(
                f"total_steps={plan.total_steps} is too short for {type(self).__name__}: its marks fall on the steps "
                f"{', '.join(map(str, marks))}, which must be distinct and after 0; train longer or move them apart"
            )
        self._run.marks = frozenset(marks)

    def _marks(self) -> tuple[float, ...]:
        """Fractions of the run at which something must happen, ascending."""
        return ()

    @property
    def _plan(self) -> Plan:
        return guards.started(self._run.plan, owner=type(self).__name__)

    def _step(self, fraction: float) -> int:
        """The step of a fraction of the run."""
        return to_step(fraction * (self._plan.total_steps or 0))

    def due(self, step: int) -> bool:
        """Whether ``step`` is a mark of the schedule or a multiple of ``every``."""
        return step > 0 and (step % self._plan.every == 0 or step in self._run.marks)

    def decide(self, reading: Reading) -> Decision:
        """Do what the schedule wants at this step."""
        run = self._run
        idle = guards.pause(reading, self._plan, run.phase)
        if idle is not None:
            return idle
        if run.phase == "frozen":
            return Decision(phase="frozen", reason="frozen: the mask is final")
        decision = self._act(reading)
        run.phase = decision.phase
        return decision

    def _act(self, reading: Reading) -> Decision:
        """What the schedule wants at the step of ``reading``, where the mask is not final yet."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The phase that training is in; the rest follows from the plan and the step."""
        return {"policy": type(self).__name__, "phase": self._run.phase}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged.
        """
        guards.check_state(state, owner=type(self).__name__, keys=("phase",))
        self._run.phase = state["phase"]
