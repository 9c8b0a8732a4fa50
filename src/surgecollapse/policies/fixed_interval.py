"""The classic, non-adaptive rule of surge-collapse training: collapse and surge at fixed intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation as guards


@dataclass(slots=True)
class _Run:
    """What changes during a run."""

    plan: Plan | None = None
    phase: str = "dense"
    collapses: int = 0
    surges: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedInterval:
    """Collapse every ``collapse_every`` steps, refill every zero with noise every ``surge_every`` steps.

    The published rule, faults included (Surge-Collapse Training, R. Aragon): per tensor the ``sparsity``
    share of lowest |w| is set to zero, biases and norms too; then, where a surge falls due, every exact zero
    is drawn from N(0, ``recovery``²). No mask is held, so weights that were set to zero train on at once, and
    the noise is not bounded by the energy of the weights. It keeps its own ``sparsity`` whatever the plan's
    is; ``controller.finalize()`` prunes to the plan's.

    It is level-triggered by counting: at step t, t // collapse_every collapses should have been made. A
    skipped one is made at the next step that is due; two skipped ones are one collapse.

    Args:
        collapse_every: steps between collapses, ≥ 1.
        surge_every: steps between surges, ≥ 1. Where both fall together the collapse comes first.
        sparsity: share of each tensor set to zero, in [0, 1).
        recovery: standard deviation of the noise, ≥ 0.

    Raises:
        ValueError: if an option is out of range.

    >>> policy = FixedInterval()
    >>> policy.start(Plan(sparsity=0.9, total_steps=None, every=50))
    >>> [step for step in range(1, 401) if policy.due(step)]
    [100, 200, 300, 400]
    >>> decisions = [policy.decide(Reading(step=step)) for step in (100, 200)]
    >>> [(decision.depth, decision.surge, decision.sigma) for decision in decisions]
    [(0.5, None, None), (0.5, 1.0, 0.1)]
    """

    collapse_every: int = 100
    surge_every: int = 200
    sparsity: float = 0.5
    recovery: float = 0.1
    growth: ClassVar[str] = "random"
    """What the controller need not track: no dense gradient is ever asked for."""
    _run: _Run = field(default_factory=_Run, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        guards.whole("collapse_every", self.collapse_every)
        guards.whole("surge_every", self.surge_every)
        guards.fraction("sparsity", self.sparsity, one=False)
        guards.not_negative("recovery", self.recovery)

    def start(self, plan: Plan) -> None:
        """Learn the plan and forget any earlier run.

        Raises:
            ValueError: if the plan is out of range.
        """
        guards.check_plan(plan, owner="FixedInterval", scheduled=False)
        run = self._run
        run.plan, run.phase, run.collapses, run.surges = plan, "dense", 0, 0

    def due(self, step: int) -> bool:
        """Whether ``step`` is a multiple of either interval."""
        return step > 0 and (step % self.collapse_every == 0 or step % self.surge_every == 0)

    def decide(self, reading: Reading) -> Decision:
        """Collapse, surge, both or neither, by the number of intervals that have passed."""
        run = self._run
        plan = guards.started(run.plan, owner="FixedInterval")
        idle = guards.pause(reading, plan, "hold" if reading.finite else run.phase)
        if idle is not None:
            return idle
        collapses, surges = reading.step // self.collapse_every, reading.step // self.surge_every
        collapse, surge = collapses > run.collapses, surges > run.surges
        run.collapses, run.surges = collapses, surges
        if not collapse and not surge:
            return Decision(phase=run.phase, reason=f"step {reading.step}: neither interval has passed")
        run.phase = "open" if surge else "sparse"
        return Decision(
            phase=run.phase,
            reason=self._reason(reading.step, collapse, surge),
            depth=self.sparsity if collapse else None,
            distribution="layer",
            scope="all",
            held=False,
            surge=1.0 if surge else None,
            reopen="zeros",
            growth="random",
            initial="noise",
            sigma=self.recovery if surge else None,
        )

    def _reason(self, step: int, collapse: bool, surge: bool) -> str:
        """Name the intervals that have passed, and whether a skipped one is made up for."""
        parts = []
        for wanted, name, every in (
            (collapse, "collapse", self.collapse_every),
            (surge, "surge", self.surge_every),
        ):
            if wanted:
                late = step % every
                note = f", made up for {late} steps late" if late else ""
                parts.append(f"{name} every {every} steps{note}")
        return f"fixed intervals at step {step}: {'; '.join(parts)}"

    def state_dict(self) -> dict[str, Any]:
        """The phase and how many of each have been made."""
        run = self._run
        return {"policy": "FixedInterval", "phase": run.phase, "collapses": run.collapses, "surges": run.surges}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged.
        """
        guards.check_state(state, owner="FixedInterval", keys=("phase", "collapses", "surges"))
        run = self._run
        run.phase, run.collapses, run.surges = state["phase"], state["collapses"], state["surges"]
