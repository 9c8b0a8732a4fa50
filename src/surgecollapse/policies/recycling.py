"""Dormant units are recycled at a fixed interval, beside whatever another policy decides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation as guards
from surgecollapse.policies.no_op import NoOp
from surgecollapse.protocols import Policy

_KEYS = ("last", "over")


@dataclass(slots=True)
class _Run:
    """What changes during a run."""

    plan: Plan | None = None
    last: int = 0
    over: Policy = field(default_factory=NoOp)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recycle:
    """ReDo: units that say next to nothing get new incoming weights, and their outgoing ones are zeroed.

    Sokar, Agarwal, Castro, Evci 2023 (arXiv 2302.12902): every ``interval`` steps, units of a dormancy of at most
    ``tau`` (:func:`~surgecollapse.functional.dormancy`), scored on the probe batch. The paper recycles every 1,000
    steps, with τ of .025 or .1 as the agent and its replay ratio ask; dormant units matter in its reinforcement
    learning, little in training on a fixed data set.

    By itself it holds: attach it with ``sparsity=0`` to recycle without pruning. ``over`` adds recycling to another
    policy's decisions; new weights respect its masks. Level-triggered: recycling skipped on a non-finite step is made
    up for at the next reading.

    Args:
        tau: greatest dormancy that is recycled, at least 0; 0 takes units that are silent on the whole probe.
        interval: steps between two recyclings.
        over: the other policy: a name, or a policy object.

    Raises:
        ValueError: if an option is out of range, or the name is unknown.

    >>> policy = Recycle(tau=0.1, interval=100)
    >>> policy.start(Plan(sparsity=0.0, total_steps=None, every=50))
    >>> [(step, policy.decide(Reading(step=step)).recycle) for step in (50, 100, 150, 200)]
    [(50, None), (100, 0.1), (150, None), (200, 0.1)]
    """

    tau: float = 0.025
    interval: int = 1000
    over: str | Policy = "hold"
    _run: _Run = field(default_factory=_Run, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options and find the other policy."""
        from surgecollapse.policies import make_policy  # it knows this class by name, too

        guards.not_negative("tau", self.tau)
        guards.whole("interval", self.interval)
        self._run.over = make_policy(self.over)

    @property
    def growth(self) -> Any:
        """The growth criterion of the other policy: what the controller must track."""
        return getattr(self._run.over, "growth", "ema_gradient")

    @property
    def from_start(self) -> bool:
        """Whether the other policy decides before the first step."""
        return bool(getattr(self._run.over, "from_start", False))

    def start(self, plan: Plan) -> None:
        """Learn the plan, hand it on, and forget any earlier run.

        Raises:
            ValueError: if the plan is out of range, or the other policy cannot follow it.
        """
        guards.check_plan(plan, owner="Recycle", scheduled=False)
        self._run.over.start(plan)
        self._run.plan, self._run.last = plan, 0

    def due(self, step: int) -> bool:
        """Whether the other policy is due, or ``step`` is a multiple of ``every`` or of ``interval``."""
        every = guards.started(self._run.plan, owner="Recycle").every
        return step > 0 and (step % every == 0 or step % self.interval == 0 or self._run.over.due(step))

    def decide(self, reading: Reading) -> Decision:
        """Decide as the other policy does, and recycle where an interval is over."""
        run = self._run
        plan = guards.started(run.plan, owner="Recycle")
        decision = run.over.decide(reading)
        idle = guards.pause(reading, plan, decision.phase)
        if idle is not None:
            return idle
        last = reading.step == plan.total_steps  # nothing would be learnt any more
        if last or reading.step // self.interval <= run.last // self.interval:
            return decision
        run.last = reading.step
        why = f"units of dormancy up to {self.tau:g} recycled at step {reading.step}"
        reason = why if not decision.acts else f"{decision.reason}; {why}"
        return replace(decision, recycle=self.tau, reason=reason)

    def state_dict(self) -> dict[str, Any]:
        """When units were last recycled, and the state of the other policy."""
        return {"policy": "Recycle", "last": self._run.last, "over": self._run.over.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged.
        """
        guards.check_state(state, owner="Recycle", keys=_KEYS)
        self._run.over.load_state_dict(state["over"])
        self._run.last = state["last"]
