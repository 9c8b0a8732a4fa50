"""Alternating compressed and decompressed training at fixed times (AC/DC)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from surgecollapse.events import Decision, Freeze, Plan, Prune, Reading, Regrow
from surgecollapse.policies import validation
from surgecollapse.policies.base import UNSAVED, BasePolicy, PolicyState
from surgecollapse.policies.registry import policy
from surgecollapse.policies.schedule import Boundary, CycleSchedule


@dataclass(slots=True)
class _State(PolicyState):
    schedule: CycleSchedule | None = field(default=None, metadata=UNSAVED)


@policy("acdc")
@dataclass(frozen=True, kw_only=True, eq=False)
class ACDC(BasePolicy):
    """AC/DC: sparse and dense phases of fixed length in turn, then the exact final mask.

    Dense until ``dense_until``. Then collapses to the plan's sparsity and surges in turn, one every ``phase``, up to
    ``cycles_until``. Open until ``freeze_at``, where it collapses to the exact target and freezes the mask. All pruned
    weights reopen at zero. Level-triggered: the phase that the schedule wants is compared with the one training is in.
    So a skipped change is made at the next reading, and two skipped changes cancel.

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
    >>> [(decision.phase, *decision.actions) for decision in decisions[:2]]
    [('sparse', Prune(sparsity=0.9, ...)), ('open', Regrow(fraction=1.0, ...))]
    >>> [decision.phase for decision in decisions[-4:]]
    ['sparse', 'open', 'frozen', 'frozen']

    When to use:
        As the control for entropy: the same phases at fixed times. Also where a dense network is wanted as a
        by-product of the last open phase.

    Cost:
        Mean training density 0.55 at 90% sparsity. No dense gradients: all pruned weights are regrown.

    Deviations:
        Phases are fractions of the run instead of epochs. Momentum is reset where the mask changed, as in the
        paper.

    Source:
        Peste, Iofinova, Vladu, Alistarh 2021, arXiv 2106.12379.
    """

    dense_until: float = 0.10
    cycles_until: float = 0.75
    freeze_at: float = 0.85
    phase: float = 0.05
    surge: float = 1.0
    growth: ClassVar[str] = "random"
    scheduled: ClassVar[bool] = True
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        validation.fraction("dense_until", self.dense_until, zero=False)
        validation.fraction("freeze_at", self.freeze_at, zero=False)
        validation.fraction("phase", self.phase, zero=False)
        validation.fraction("surge", self.surge, zero=False)
        if not self.dense_until < self.cycles_until < self.freeze_at:
            raise ValueError(
                "expected dense_until < cycles_until < freeze_at, got "
                f"{self.dense_until!r}, {self.cycles_until!r}, {self.freeze_at!r}"
            )

    @property
    def schedule(self) -> CycleSchedule:
        """The boundaries in steps; there once the policy has been started."""
        schedule = self._state.schedule
        if schedule is None:
            raise RuntimeError("ACDC has no plan yet: call start(plan) first")
        return schedule

    def _begin(self, plan: Plan) -> None:
        assert plan.total_steps is not None
        self._state.schedule = CycleSchedule.of(
            plan.total_steps,
            dense_until=self.dense_until,
            cycles_until=self.cycles_until,
            freeze_at=self.freeze_at,
            phase=self.phase,
        )

    def due(self, step: int) -> bool:
        """Whether ``step`` is a boundary or a multiple of ``every`` (where skipped ones are made up for)."""
        return super().due(step) or (step > 0 and self.schedule.marks(step))

    def earliest(self, step: int) -> int | None:
        """The first step after ``step`` at which a phase begins; ``None`` once the mask is final."""
        if self._state.phase == "frozen":
            return None
        return next((mark.step for mark in self.schedule.boundaries if mark.step > step), step + 1)

    def _act(self, reading: Reading) -> Decision:
        """Bring training into the phase that the schedule wants at this step."""
        phase, boundary = self._state.phase, self.schedule.at(reading.step)
        if boundary is None:
            return Decision(phase="dense", reason=f"dense until step {self.schedule.dense_end}, at step {reading.step}")
        # Before the first collapse nothing is closed, so there is nothing that an open phase could reopen.
        if boundary.phase == phase or (boundary.phase == "open" and phase == "dense"):
            return Decision(phase=phase, reason=f"{phase} phase runs as scheduled at step {reading.step}")
        return self._enter(boundary, reading.step, self._plan.sparsity)

    def _enter(self, boundary: Boundary, step: int, target: float) -> Decision:
        """Decide what leads into the phase that begins at ``boundary``."""
        late = f", made up for {step - boundary.step} steps late" if step > boundary.step else ""
        reason = f"schedule: {boundary.phase} phase begins at step {boundary.step}{late}"
        if boundary.phase == "open":
            regrow = Regrow(self.surge, growth="random", regrow_init="zero")
            return Decision(phase="open", reason=reason, actions=(regrow,))
        if boundary.phase == "sparse":
            return Decision(phase="sparse", reason=reason, actions=(Prune(target),))
        reason = f"schedule: exact target {target:.4g} and final mask at step {boundary.step}{late}"
        return Decision(phase="frozen", reason=reason, actions=(Prune(target), Freeze()))
