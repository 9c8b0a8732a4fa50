"""Alternating compressed and decompressed training at fixed times (AC/DC)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation as guards
from surgecollapse.policies.schedule import Boundary, CycleSchedule


@dataclass(slots=True)
class _Run:
    """What changes during a run."""

    plan: Plan | None = None
    schedule: CycleSchedule | None = None
    phase: str = "dense"


@dataclass(frozen=True, kw_only=True, eq=False)
class ACDC:
    """AC/DC: sparse and dense phases of fixed length in turn, then the exact final mask.

    Dense until ``dense_until``; then collapses to the plan's sparsity and surges in turn, one every
    ``phase``, up to ``cycles_until``; open until ``freeze_at``; there the exact target is collapsed to and
    the mask frozen. All pruned weights reopen at zero (Peste, Iofinova, Vladu, Alistarh 2021, arXiv
    2106.12379). Level-triggered: the phase that the schedule wants is compared with the one training is in,
    so a skipped change is made at the next reading, and two skipped changes cancel.

    Args:
        dense_until: fraction of the run before the first collapse, in (0, 1).
        cycles_until: fraction at which the cycles end.
        freeze_at: fraction at which the mask is frozen, at most 1.
        phase: length of a phase, as a fraction of the run. With an even number of phases the last is an open
            one.
        surge: share of the pruned weights that a surge reopens, in (0, 1]; below 1 they are drawn at random.

    Raises:
        ValueError: if an option is out of range or the fractions do not ascend.

    >>> policy = ACDC()
    >>> policy.start(Plan(sparsity=0.9, total_steps=1000, every=1000))
    >>> steps = [step for step in range(1, 1001) if policy.due(step)]
    >>> steps[:4], steps[-4:]
    ([100, 150, 200, 250], [700, 750, 850, 1000])
    >>> decisions = [policy.decide(Reading(step=step)) for step in steps]
    >>> [(decision.phase, decision.depth, decision.surge) for decision in decisions[:2]]
    [('sparse', 0.9, None), ('open', None, 1.0)]
    >>> [decision.phase for decision in decisions[-4:]]
    ['sparse', 'open', 'frozen', 'frozen']
    """

    dense_until: float = 0.10
    cycles_until: float = 0.75
    freeze_at: float = 0.85
    phase: float = 0.05
    surge: float = 1.0
    growth: ClassVar[str] = "random"
    """What the controller need not track: no dense gradient is ever asked for."""
    _run: _Run = field(default_factory=_Run, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        guards.fraction("dense_until", self.dense_until, zero=False)
        guards.fraction("freeze_at", self.freeze_at, zero=False)
        guards.fraction("phase", self.phase, zero=False)
        guards.fraction("surge", self.surge, zero=False)
        if not self.dense_until < self.cycles_until < self.freeze_at:
            raise ValueError(
                "expected dense_until < cycles_until < freeze_at, got "
                f"{self.dense_until!r}, {self.cycles_until!r}, {self.freeze_at!r}"
            )

    @property
    def plan(self) -> Plan | None:
        """The plan, once the policy has been started."""
        return self._run.plan

    @property
    def schedule(self) -> CycleSchedule:
        """The boundaries in steps; there once the policy has been started."""
        guards.started(self._run.plan, owner="ACDC")
        assert self._run.schedule is not None
        return self._run.schedule

    def start(self, plan: Plan) -> None:
        """Learn the plan, lay out the schedule and forget any earlier run.

        Raises:
            ValueError: if ``total_steps`` is missing or too short for distinct boundaries.
        """
        guards.check_plan(plan, owner="a policy of cycles", scheduled=True)
        assert plan.total_steps is not None
        schedule = CycleSchedule.of(
            plan.total_steps,
            dense_until=self.dense_until,
            cycles_until=self.cycles_until,
            freeze_at=self.freeze_at,
            phase=self.phase,
        )
        run = self._run
        run.plan, run.schedule, run.phase = plan, schedule, "dense"

    def due(self, step: int) -> bool:
        """Whether ``step`` is a boundary or a multiple of ``every`` (where skipped ones are made up for)."""
        plan = guards.started(self._run.plan, owner="ACDC")
        return step > 0 and (step % plan.every == 0 or self.schedule.marks(step))

    def earliest(self, step: int) -> int | None:
        """The first step after ``step`` at which a phase begins; ``None`` once the mask is final."""
        if self._run.phase == "frozen":
            return None
        return next((mark.step for mark in self.schedule.boundaries if mark.step > step), step + 1)

    def decide(self, reading: Reading) -> Decision:
        """Bring training into the phase that the schedule wants at this step."""
        run = self._run
        plan = guards.started(run.plan, owner="ACDC")
        idle = guards.pause(reading, plan, run.phase)
        if idle is not None:
            return idle
        boundary = self.schedule.at(reading.step)
        if run.phase == "frozen":
            return Decision(phase="frozen", reason=f"frozen: the mask is final since step {self.schedule.freeze}")
        if boundary is None:
            return Decision(phase="dense", reason=f"dense until step {self.schedule.dense_end}, at step {reading.step}")
        # Before the first collapse nothing is closed, so there is nothing that an open phase could reopen.
        if boundary.phase == run.phase or (boundary.phase == "open" and run.phase == "dense"):
            return Decision(phase=run.phase, reason=f"{run.phase} phase runs as scheduled at step {reading.step}")
        return self._enter(boundary, reading.step, plan)

    def _enter(self, boundary: Boundary, step: int, plan: Plan) -> Decision:
        """Decide what leads into the phase that begins at ``boundary``."""
        run = self._run
        run.phase = boundary.phase
        late = f", made up for {step - boundary.step} steps late" if step > boundary.step else ""
        reason = f"schedule: {boundary.phase} phase begins at step {boundary.step}{late}"
        if boundary.phase == "open":
            return Decision(phase="open", reason=reason, surge=self.surge, growth="random", initial="zero")
        if boundary.phase == "sparse":
            return Decision(phase="sparse", reason=reason, depth=plan.sparsity)
        reason = f"schedule: exact target {plan.sparsity:.4g} and final mask at step {boundary.step}{late}"
        return Decision(phase="frozen", reason=reason, depth=plan.sparsity, freeze=True)

    def state_dict(self) -> dict[str, Any]:
        """The phase that training is in; the rest follows from the plan."""
        return {"policy": "ACDC", "phase": self._run.phase}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged.
        """
        guards.check_state(state, owner="ACDC", keys=("phase",))
        self._run.phase = state["phase"]
