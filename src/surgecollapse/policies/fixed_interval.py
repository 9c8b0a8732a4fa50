"""The classic, non-adaptive rule of surge-collapse training: collapse and surge at fixed intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from surgecollapse.events import Action, Decision, Prune, Reading, Regrow
from surgecollapse.policies import validation
from surgecollapse.policies.base import BasePolicy, PolicyState
from surgecollapse.policies.registry import policy


@dataclass(slots=True)
class _State(PolicyState):
    collapses: int = 0
    surges: int = 0


@policy("fixed_interval")
@dataclass(frozen=True, kw_only=True, eq=False)
class FixedInterval(BasePolicy):
    """Collapse every ``collapse_every`` steps, refill every zero with noise every ``surge_every`` steps.

    The published rule, faults included (Surge-Collapse Training, R. Aragon), for each tensor, biases and norms too::

        collapse:  w ← 0 for the share sparsity of lowest |w|
        surge:     w ← N(0, recovery²) for every w = 0

    No mask is held, so weights that were set to zero train on at once. The noise is not bounded by the energy of the
    weights. It keeps its own ``sparsity`` whatever the plan's is; ``controller.finalize()`` prunes to the plan's.

    It is level-triggered by counting: at step t, t // collapse_every collapses should have been made. A
    skipped one is made at the next step that is due; two skipped ones are one collapse.

    Args:
        collapse_every: steps between collapses, ≥ 1.
        surge_every: steps between surges, ≥ 1. Where both fall together the collapse comes first.
        sparsity: share of each tensor set to zero, in [0, 1).
        recovery: standard deviation of the noise, ≥ 0.

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan
    >>> policy = FixedInterval()
    >>> policy.start(Plan(sparsity=0.9, total_steps=None, every=50))
    >>> [step for step in range(1, 401) if policy.due(step)]
    [100, 200, 300, 400]
    >>> decisions = [policy.decide(Reading(step=step)) for step in (100, 200)]
    >>> [[type(action).__name__ for action in decision.actions] for decision in decisions]
    [['Prune'], ['Prune', 'Regrow']]
    >>> decisions[1].find(Regrow).noise_std
    0.1

    When to use:
        To reproduce the published rule. Pruned only at the end, it lost 67 points to dense training on 5,000 MNIST
        digits at 90% sparsity.

    Cost:
        No mask is held: mean training density 1.0. One pass over all parameters at each interval.

    Deviations:
        None known from the published rule, faults included; the target is applied by ``finalize()``.

    Source:
        Surge-Collapse Training, R. Aragon.
    """

    collapse_every: int = 100
    surge_every: int = 200
    sparsity: float = 0.5
    recovery: float = 0.1
    growth: ClassVar[str] = "random"
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        validation.whole("collapse_every", self.collapse_every)
        validation.whole("surge_every", self.surge_every)
        validation.fraction("sparsity", self.sparsity, one=False)
        validation.not_negative("recovery", self.recovery)

    def due(self, step: int) -> bool:
        """Whether ``step`` is a multiple of either interval."""
        return step > 0 and (step % self.collapse_every == 0 or step % self.surge_every == 0)

    def _act(self, reading: Reading) -> Decision:
        """Collapse, surge, both or neither, by the number of intervals that have passed."""
        state = self._state
        collapses, surges = reading.step // self.collapse_every, reading.step // self.surge_every
        collapse, surge = collapses > state.collapses, surges > state.surges
        state.collapses, state.surges = collapses, surges
        if not collapse and not surge:
            return Decision(phase=state.phase, reason=f"step {reading.step}: neither interval has passed")
        actions: list[Action] = []
        if collapse:
            actions.append(Prune(self.sparsity, allocation="layer", scope="all", keep_mask=False))
        if surge:
            std = self.recovery
            actions.append(Regrow(1.0, source="zeros", scope="all", regrow_init="noise", noise_std=std))
        phase, reason = "open" if surge else "sparse", self._reason(reading.step, collapse, surge)
        return Decision(phase=phase, reason=reason, actions=tuple(actions))

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
