"""CyclicPruning, the default: gradual pruning in several cycles, with regrowth (a surge) between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, get_args

from surgecollapse.errors import one_of
from surgecollapse.events import Decision, Prune, Reading, Regrow
from surgecollapse.policies import validation
from surgecollapse.policies.base import ScheduledPolicy, ScheduledState
from surgecollapse.policies.recovery import NotRecovering, Recovery
from surgecollapse.policies.registry import policy
from surgecollapse.policies.signals import DepthMeasure
from surgecollapse.schedules import cubic


@dataclass(slots=True)
class _State(ScheduledState):
    cycle: int = -1
    """Index of the cycle; −1 before the first."""
    start: float = 0.0
    """Sparsity that the surge before it left."""
    begun: int | None = None
    """Step at which pruning began."""
    backed_off: bool = False
    """Whether the target was lowered, so that no cycle goes deeper than it."""
    recovery: Recovery = field(default_factory=Recovery)


@policy("cyclic_pruning")
@dataclass(frozen=True, kw_only=True, eq=False)
class CyclicPruning(ScheduledPolicy):
    """Prune gradually, regrow (*surge*), prune again: gradual pruning several times over. The default policy.

    Cycle k = 0 … ``cycles`` − 1 begins at the fraction b_k of the run. The first begins at ``dense_until``, the last at
    ``last_cycle_start``, the others evenly in between. Within a cycle the sparsity follows the cubic schedule of
    gradual pruning (Zhu and Gupta 2017, arXiv 1710.01878). It goes from s_k, what the surge left, to d, its depth::

        s(t) = s_k + (d − s_k)·(1 − (1 − u)³),    u = (t − b_k·T)/((e_k − b_k)·T)

    It ends at e_k: ``settle_fraction`` before the next one begins, so that training can settle; the last at
    ``freeze_at``, with the exact target and the final mask. At the beginning of every cycle but the first a *surge*
    regrows ``surge`` of the pruned weights, at zero, by |EMA of the dense gradient|. The depth d of the last cycle is
    the target. That of the others lies between the target and ``min_density_ratio`` of the target's density. The
    controller goes as deep as leaves the ``measure`` of the probe batch at ``floor`` or above. By default the measure
    is the confidence of the predictions. With ``floor=1`` the depth stays at the target, with ``floor=0`` it always
    goes to ``min_density_ratio``.

    The nearest published relative is Cyclical Pruning (arXiv 2202.01290;
    :class:`~surgecollapse.policies.CyclicalPruning`): it repeats gradual pruning from dense with a periodic sparsity.
    AC/DC (arXiv 2106.12379) alternates too, but prunes at once and regrows everything. One cycle is gradual pruning.

    Args:
        dense_until: fraction of the run before the first cycle, in (0, 1).
        cycles: how many, at least 1.
        last_cycle_start: fraction at which the last one begins, in (dense_until, freeze_at); unused with one cycle.
        freeze_at: fraction at which the mask is frozen, at most 1.
        settle_fraction: fraction of the run between the end of a cycle and the next surge, in [0, 1).
        surge: share of the pruned weights that a surge regrows, in (0, 1].
        min_density_ratio: least density of the cycles before the last, as a share of the target's density, in (0, 1].
        floor: lowest value of ``measure`` that counts as enough (bits for ``on_off``), in [0, 1].
        measure: ``prediction_confidence`` (1 − the normalized entropy of the predictions on the probe batch),
            ``on_off`` (lowest on/off unit entropy over layers) or ``entropy`` (mean activation entropy).
        when_not_recovering: ``exact``: the target is reached in any case. ``at_most``: pruning begins with the first
            cycle after training has learned, or at two thirds of ``freeze_at``. It has learned once its loss is a tenth
            of the first, or its predictions are 90% confident. Where the last cycle is the first, it takes half of the
            time until ``freeze_at``. Where training does not recover (see
            :class:`~surgecollapse.policies.recovery.Recovery`), the density is doubled, the reason is recorded, and
            that sparsity is the new target. Both warn, and record an event ``warning``, where training does not recover
            in the last cycle, or has learned nothing. ``exact`` sees it by the noted loss alone.

    Raises:
        ValueError: if an option is out of range, or a cycle would be no longer than ``settle_fraction``.

    >>> from surgecollapse.events import Plan
    >>> policy = CyclicPruning(cycles=2, last_cycle_start=0.45, floor=0.0)
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=5))
    >>> made, sparsity = {}, 0.0
    >>> for step in filter(policy.due, range(101)):
    ...     decision = made[step] = policy.decide(Reading(step=step, sparsity=sparsity))
    ...     for action in decision.actions:
    ...         if isinstance(action, Prune):
    ...             sparsity = action.range[1]
    ...         elif isinstance(action, Regrow):
    ...             sparsity *= 1 - action.fraction
    >>> round(made[43].find(Prune).range[1], 3), made[45].find(Regrow).fraction
    (0.98, 0.35)
    >>> made[75].actions
    (Prune(sparsity=0.8, ...), Freeze())

    When to use:
        The default: thousands of steps, a network that can overfit, and a target of 90% or more. On networks that
        do not overfit, use ``cycles=2, floor=0.0, min_density_ratio=1.0``; where pruning stops learning,
        ``when_not_recovering="at_most"``. In fewer than about 500 steps use gradual pruning.

    Cost:
        Mean training density 0.20 at 90% sparsity on the MLP of MNIST-1D, 0.22 to 0.29 on other tasks. A prune with
        the floor takes up to five passes of the probe batch; growth keeps a running mean of dense gradients.

    Deviations:
        This project's own form. Of Cyclical Pruning it has the repeated gradual pruning, of AC/DC the alternation, of
        Zhu and Gupta the cubic schedule.

    Source:
        After Zhu and Gupta 2017, arXiv 1710.01878, Peste et al. 2021, arXiv 2106.12379, and Srinivas et al. 2022, arXiv
        2202.01290.
    """

    dense_until: float = 0.05
    cycles: int = 4
    last_cycle_start: float = 0.5
    freeze_at: float = 0.75
    settle_fraction: float = 0.025
    surge: float = 0.35
    min_density_ratio: float = 0.1
    floor: float = 0.6
    measure: DepthMeasure = "prediction_confidence"
    when_not_recovering: NotRecovering = "exact"
    growth: ClassVar[str] = "ema_gradient"
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        validation.fraction("dense_until", self.dense_until, zero=False, one=False)
        validation.whole("cycles", self.cycles)
        validation.fraction("last_cycle_start", self.last_cycle_start, zero=False, one=False)
        validation.fraction("freeze_at", self.freeze_at, zero=False)
        validation.fraction("settle_fraction", self.settle_fraction, one=False)
        validation.fraction("surge", self.surge, zero=False)
        validation.fraction("min_density_ratio", self.min_density_ratio, zero=False)
        validation.fraction("floor", self.floor)
        one_of("measure", self.measure, get_args(DepthMeasure))
        one_of("when_not_recovering", self.when_not_recovering, get_args(NotRecovering))
        if not self.dense_until < self.last_cycle_start < self.freeze_at:
            raise ValueError(
                "expected dense_until < last_cycle_start < freeze_at, got "
                f"{self.dense_until!r}, {self.last_cycle_start!r}, {self.freeze_at!r}"
            )
        if self.cycles > 1 and not self.settle_fraction < self._length:
            raise ValueError(
                f"settle_fraction={self.settle_fraction!r} leaves nothing of a cycle: {self.cycles} cycles are "
                f"{self._length:.4g} of the run long; give a smaller settle_fraction or fewer cycles"
            )

    @property
    def _length(self) -> float:
        """Of a cycle and its settling, the last aside, as a fraction of the run."""
        return (self.last_cycle_start - self.dense_until) / (self.cycles - 1) if self.cycles > 1 else 0.0

    def _begins(self) -> tuple[float, ...]:
        """Fractions of the run at which the cycles begin."""
        return tuple(self.dense_until + k * self._length for k in range(self.cycles))

    def _ends(self) -> tuple[float, ...]:
        """Fractions of the run at which they reach their depth."""
        return (*(begin - self.settle_fraction for begin in self._begins()[1:]), self.freeze_at)

    def _marks(self) -> tuple[float, ...]:
        return tuple(sorted({*self._begins(), *self._ends()}))

    @property
    def measures(self) -> tuple[str, ...]:
        """What a reading must hold beside activation entropy."""
        return ("prediction_confidence",) if self.when_not_recovering == "at_most" else ()

    def _act(self, reading: Reading) -> Decision:
        step, state, target = reading.step, self._state, self._plan.sparsity
        freeze, at_most = self._step(self.freeze_at), self.when_not_recovering == "at_most"
        state.recovery.read(reading)
        if step >= freeze:
            return state.recovery.final(reading, freeze, target, at_most=at_most, begun=state.begun is not None)
        index = sum(step >= self._step(begin) for begin in self._begins()) - 1
        if index < 0:
            return Decision(phase="dense", reason=f"dense until step {self._step(self.dense_until)}, at step {step}")
        if state.begun is None and at_most and (why := self._waits(step, index)):
            return Decision(phase="dense", reason=why)
        state.begun = state.begun or step
        if not state.recovery.failed:
            return self._cycle(reading, index)
        if at_most:
            return self._back_off(reading)
        decision = self._cycle(reading, index)
        if index < self.cycles - 1:
            return decision
        return replace(decision, actions=(state.recovery.warning(), *decision.actions))

    def _waits(self, step: int, index: int) -> str | None:
        """Why pruning does not begin yet, where the target may be given up."""
        if why := self._state.recovery.waits(step, self._step(self.freeze_at * 2 / 3)):
            return why
        begins = [self._step(begin) for begin in self._begins()]
        if step == begins[index] or index == self.cycles - 1:
            return None
        return f"dense at step {step}: training has learned, and the next cycle begins at step {begins[index + 1]}"

    def _cycle(self, reading: Reading, index: int) -> Decision:
        """Begin a cycle with a surge, or go on with it."""
        state = self._state
        if index != state.cycle:
            state.cycle, state.start = index, (1.0 - self.surge) * reading.sparsity if index else 0.0
            if index and reading.sparsity:
                reason = f"cycle {index + 1} of {self.cycles} begins: surge"
                regrow = Regrow(self.surge, growth=self.growth, regrow_init="zero")
                return Decision(phase="open", reason=reason, actions=(regrow,))
        return self._prune(reading)

    def _back_off(self, reading: Reading) -> Decision:
        """Double the density, and make that the target and the deepest of what is left."""
        state = self._state
        why, said, lower = state.recovery.lower(reading, self._plan.sparsity)
        state.start, state.backed_off = lower, True
        actions = said
        if reading.sparsity > lower:
            regrow = Regrow(1.0 - lower / reading.sparsity, growth=self.growth, regrow_init="zero")
            actions = (*said, regrow)
        return Decision(phase="open", reason=why, actions=actions)

    def _prune(self, reading: Reading) -> Decision:
        """As deep as the cycle is at this step, or nothing where the net is as sparse already."""
        step, start, target, index = reading.step, self._state.start, self._plan.sparsity, self._state.cycle
        begin, end = self._step(self._begins()[index]), self._step(self._ends()[index])
        last, begun = index == self.cycles - 1, self._state.begun or 0
        late = last and begun >= begin and self.when_not_recovering == "at_most"
        if late:
            begin, end = begun, (begun + end) // 2  # what is left of the time shows whether training recovers
        at_target = last or self._state.backed_off
        name, least, most = f"cycle {index + 1} of {self.cycles}", 0.0, 0.0
        if step <= end or late:
            deepest = target if at_target else max(target, 1.0 - self.min_density_ratio * (1.0 - target))
            least, most = (cubic(step, begin, end, start, max(start, depth)) for depth in (target, deepest))
        if most <= reading.sparsity:
            phase = "sparse" if reading.sparsity else "dense"
            return Decision(phase=phase, reason=f"{name}: settles at sparsity {reading.sparsity:.4g}")
        least = max(least, reading.sparsity)
        if least == most:
            reason = f"{name}: sparsity {least:.4g}"
            return Decision(phase="sparse", reason=reason, actions=(Prune(most),))
        reason = f"{name}: sparsity between {least:.4g} and {most:.4g}"
        prune = Prune((least, most), floor=self.floor, measure=self.measure)
        return Decision(phase="sparse", reason=reason, actions=(prune,))
