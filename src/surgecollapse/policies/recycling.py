"""Dormant units are recycled at a fixed interval, beside whatever another policy decides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from surgecollapse import events
from surgecollapse.events import Decision, Freeze, Plan, Reading, SetNoise
from surgecollapse.policies import validation
from surgecollapse.policies.base import BasePolicy, PolicyState
from surgecollapse.policies.registry import make_policy, policy
from surgecollapse.protocols import Policy


@dataclass(slots=True)
class _State(PolicyState):
    last: int = 0
    """Step of the last recycling."""


@policy("redo")
@dataclass(frozen=True, kw_only=True, eq=False)
class Recycle(BasePolicy):
    """ReDo: dormant units get new incoming weights, and their outgoing ones are zeroed.

    Every ``interval`` steps, units of a dormancy of at most τ (:func:`~surgecollapse.functional.dormancy`) are
    recycled. Of a layer of H units with activations h::

        dormancy of unit i = E|h_i| / (1/H · Σ_k E|h_k|) ≤ τ

    The paper recycles every 1,000 steps, with τ of 0.025 or 0.1.

    By itself it holds: attach it with ``sparsity=0`` to recycle without pruning. ``over`` adds recycling to another
    policy's decisions; new weights respect its masks. Level-triggered: recycling skipped on a non-finite step is made
    up for at the next reading.

    Args:
        tau: τ, greatest dormancy that is recycled, at least 0; 0 takes units that are silent on the whole probe.
        interval: steps between two recyclings.
        over: the other policy: a name, or a policy object.

    Raises:
        ValueError: if an option is out of range, or the name is unknown.

    >>> policy = Recycle(tau=0.1, interval=100)
    >>> policy.start(Plan(sparsity=0.0, total_steps=None, every=50))
    >>> [(step, policy.decide(Reading(step=step)).actions) for step in (50, 100, 150, 200)]
    [(50, ()), (100, (Recycle(dormancy=0.1),)), (150, ()), (200, (Recycle(dormancy=0.1),))]

    When to use:
        Units go dormant because the task changes, as in reinforcement learning. Expect little on a fixed data set.

    Cost:
        One pass of the probe batch at each interval. No pruning: density is that of the policy beneath it.

    Deviations:
        Units are scored on the probe batch. Where a unit has not exactly one reader, its layer is left as it is,
        and the event says why.

    Source:
        Sokar, Agarwal, Castro, Evci 2023, arXiv 2302.12902 (ReDo).
    """

    tau: float = 0.025
    interval: int = 1000
    over: str | Policy = "no_op"
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options and find the other policy."""
        validation.not_negative("tau", self.tau)
        validation.whole("interval", self.interval)
        self._over  # noqa: B018  the name must be known

    @cached_property
    def _over(self) -> Policy:
        """The other policy, as an object."""
        return make_policy(self.over)

    @property
    def growth(self) -> Any:
        """The growth criterion of the other policy: what the controller must track."""
        return getattr(self._over, "growth", "ema_gradient")

    @property
    def counting(self) -> Any:
        """What the other policy has counted of each weight; ``None`` for nothing."""
        return getattr(self._over, "counting", None)

    @property
    def from_start(self) -> bool:  # type: ignore[override]
        """Whether the other policy decides before the first step."""
        return bool(getattr(self._over, "from_start", False))

    def _begin(self, plan: Plan) -> None:
        self._over.start(plan)

    @property
    def last_step(self) -> int | None:
        """That of the other policy."""
        found: int | None = getattr(self._over, "last_step", None)
        return found

    def due(self, step: int) -> bool:
        """Whether the other policy is due, or ``step`` is a multiple of ``every`` or of ``interval``."""
        return super().due(step) or (step > 0 and (step % self.interval == 0 or self._over.due(step)))

    def decide(self, reading: Reading) -> Decision:
        """Decide as the other policy does, and recycle where an interval is over."""
        state, plan = self._state, self._plan
        decision = self._over.decide(reading)
        state.phase = decision.phase
        idle = validation.pause(reading, plan, decision.phase)
        if idle is not None:
            return idle
        last = reading.step == plan.total_steps  # nothing would be learned any more
        if last or reading.step // self.interval <= state.last // self.interval:
            return decision
        state.last = reading.step
        why = f"units of dormancy up to {self.tau:g} recycled at step {reading.step}"
        reason = why if not decision.acts else f"{decision.reason}; {why}"
        before = [action for action in decision.actions if not isinstance(action, SetNoise | Freeze)]
        after = decision.actions[len(before) :]
        return replace(decision, actions=(*before, events.Recycle(self.tau), *after), reason=reason)

    def state_dict(self) -> dict[str, Any]:
        """When units were last recycled, and the state of the other policy."""
        return {**super().state_dict(), "over": self._over.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged.
        """
        super().load_state_dict(state)
        self._over.load_state_dict(state["over"])
