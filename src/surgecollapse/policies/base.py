"""What the policies share: frozen options beside one object of state, and the frame of a scheduled policy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation
from surgecollapse.policies.schedule import to_step

UNSAVED = {"saved": False}
"""Metadata of a field of the state that follows from the plan, and so is not in a checkpoint."""


@dataclass(slots=True)
class PolicyState:
    """All of a policy that changes during a run. Subclasses add fields, each with its value before the first step."""

    plan: Plan | None = field(default=None, metadata=UNSAVED)
    phase: str = "dense"

    def restart(self, plan: Plan) -> None:
        """Forget an earlier run."""
        for part in fields(self):
            fresh = part.default if part.default_factory is MISSING else part.default_factory()
            setattr(self, part.name, fresh)
        self.plan = plan

    def to_dict(self) -> dict[str, Any]:
        """The saved fields in plain values; parts with a state of their own give that."""
        saved = {part.name: getattr(self, part.name) for part in fields(self) if part.metadata != UNSAVED}
        return {name: value.state_dict() if hasattr(value, "state_dict") else value for name, value in saved.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`to_dict` returned."""
        for name in self.to_dict():
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])


@dataclass(frozen=True, kw_only=True, eq=False)
class BasePolicy:
    """A policy of frozen options and one :class:`PolicyState`. Subclasses write :meth:`_act`.

    One that never regrows by the dense gradient says ``growth: ClassVar[str] = "random"``, so that none is tracked.

    Level-triggered: a decision that is skipped, because the step was not finite, leaves the state as it is. So
    :meth:`_act` makes up for it at the next reading.
    """

    from_start: ClassVar[bool] = False
    """Whether it is asked before the first optimizer step too."""
    scheduled: ClassVar[bool] = False
    """Whether it cannot work without ``total_steps``."""
    _state: PolicyState = field(default_factory=PolicyState, init=False, repr=False)

    def start(self, plan: Plan) -> None:
        """Learn the plan and forget any earlier run.

        Raises:
            ValueError: if the plan cannot be followed.
        """
        validation.check_plan(plan, owner=type(self).__name__, scheduled=self.scheduled)
        self._state.restart(plan)
        self._begin(plan)

    def _begin(self, plan: Plan) -> None:
        """Prepare what follows from the plan."""

    @property
    def _plan(self) -> Plan:
        return validation.started(self._state.plan, owner=type(self).__name__)

    def _step(self, fraction: float) -> int:
        """The step of a fraction of the run."""
        return to_step(fraction * (self._plan.total_steps or 0))

    @property
    def last_step(self) -> int | None:
        """Step at which the mask becomes final; ``None`` without one."""
        at, total = getattr(self, "freeze_at", None), self._plan.total_steps
        return None if at is None or total is None else self._step(at)

    def due(self, step: int) -> bool:
        """Whether ``step`` is a multiple of the plan's ``every``."""
        return step > 0 and step % self._plan.every == 0

    def decide(self, reading: Reading) -> Decision:
        """Decide at one reading."""
        state = self._state
        idle = validation.pause(reading, self._plan, state.phase)
        if idle is not None:
            return idle
        if state.phase == "frozen":
            return Decision(phase="frozen", reason="frozen: the mask is final")
        decision = self._act(reading)
        state.phase = decision.phase
        return decision

    def _act(self, reading: Reading) -> Decision:
        """What is to be done at a finite reading, where the mask is not final yet."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The state, in plain values; what follows from the plan is left out."""
        return {"policy": type(self).__name__, **self._state.to_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged.
        """
        self._state.load(validation.check_state(state, owner=type(self).__name__, keys=self.state_dict()))


@dataclass(slots=True)
class ScheduledState(PolicyState):
    """That of a scheduled policy."""

    marks: frozenset[int] = field(default=frozenset(), metadata=UNSAVED)
    """Steps of the marks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScheduledPolicy(BasePolicy):
    """A policy whose decisions depend on the step alone: subclasses say what is due when, and what then."""

    growth: ClassVar[str] = "random"
    """What the controller need not track: no dense gradient is ever asked for."""
    scheduled: ClassVar[bool] = True
    _state: ScheduledState = field(default_factory=ScheduledState, init=False, repr=False)

    def _begin(self, plan: Plan) -> None:
        marks = [self._step(at) for at in self._marks()]
        if any(later <= earlier for earlier, later in zip([0, *marks], marks, strict=False)):
            raise ValueError(
                f"total_steps={plan.total_steps} is too short for {type(self).__name__}: its marks fall on the steps "
                f"{', '.join(map(str, marks))}, which must be distinct and after 0. Train for {self._shortest()} steps "
                "or more, move the marks apart, or use a policy with fewer, such as 'gmp'"
            )
        self._state.marks = frozenset(marks)

    def _shortest(self) -> int:
        """Steps of a run from which on the marks are distinct, however they round."""
        marks = [0.0, *self._marks()]
        return math.ceil(1.0 / min(later - earlier for earlier, later in pairwise(marks)) - 1e-6)

    def _marks(self) -> tuple[float, ...]:
        """Fractions of the run at which something must happen, ascending."""
        return ()

    @property
    def last_step(self) -> int | None:
        """The last mark; ``None`` without marks."""
        return max(self._state.marks, default=None)

    def due(self, step: int) -> bool:
        """Whether ``step`` is a mark of the schedule or a multiple of ``every``."""
        return super().due(step) or step in self._state.marks
