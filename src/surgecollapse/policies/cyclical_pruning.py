"""CyclicalPruning: gradual pruning from dense to the target, over and over again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from surgecollapse.events import Decision, Freeze, Prune, Reading, Regrow
from surgecollapse.policies import validation
from surgecollapse.policies.base import ScheduledPolicy, ScheduledState
from surgecollapse.policies.registry import policy
from surgecollapse.schedules import cubic


@dataclass(slots=True)
class _State(ScheduledState):
    cycle: int = 0


@policy("cyclical_pruning")
@dataclass(frozen=True, kw_only=True, eq=False)
class CyclicalPruning(ScheduledPolicy):
    """Repeat gradual pruning with a periodic sparsity; every cycle begins dense, so that wrong prunes can be undone.

    The run has ``cycles`` cycles of equal length L. With the time τ ∈ [0, L) since the beginning of its cycle::

        s(τ) = target·(1 − (1 − u)³),    u = min(1, τ/(prune_fraction·L))

    Weights that a cycle prunes stay zero to its end. The next cycle begins by reopening all of them, at zero. In the
    last cycle the mask is final once the target is reached.

    :class:`~surgecollapse.policies.CyclicPruning`, the default, differs in three ways: its surges reopen a part, by the
    gradient. Its early cycles may go deeper than the target. Entropy decides how deep.

    Args:
        cycles: how many, at least 1; one is gradual pruning.
        prune_fraction: share of a cycle in which the sparsity rises; the rest trains at the target. In (0, 1].

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan
    >>> policy = CyclicalPruning(cycles=2, prune_fraction=0.5)
    >>> policy.start(Plan(sparsity=0.8, total_steps=400, every=50))
    >>> made = {step: policy.decide(Reading(step=step)) for step in filter(policy.due, range(401))}
    >>> round(made[50].find(Prune).sparsity, 6), made[100].find(Prune).sparsity, made[200].actions
    (0.7, 0.8, (Regrow(fraction=1.0, ...),))
    >>> made[300].actions
    (Prune(sparsity=0.8, ...), Freeze())

    When to use:
        As the nearest published relative of the default policy.

    Cost:
        Mean training density 0.27 at 90% sparsity: that of a cubic rise over three quarters of each cycle. No dense
        gradients.

    Deviations:
        What the abstract says is here: a periodic schedule, and pruned weights that may recover in the next cycle.
        That they regrow at zero is our reading of the paper; their values before pruning are not kept. The number of
        cycles and ``prune_fraction`` are ours, and the learning rate does not restart with a cycle. The cubic rise
        within a cycle is that of gradual pruning.

    Source:
        Srinivas, Kuzmin, Nagel, van Baalen, Skliar, Blankevoort 2022, arXiv 2202.01290.
    """

    cycles: int = 4
    prune_fraction: float = 0.75
    growth: ClassVar[str] = "random"
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        validation.whole("cycles", self.cycles)
        validation.fraction("prune_fraction", self.prune_fraction, zero=False)

    def _marks(self) -> tuple[float, ...]:
        begins = {cycle / self.cycles for cycle in range(1, self.cycles)}
        ends = {(cycle + self.prune_fraction) / self.cycles for cycle in range(self.cycles)}
        return tuple(sorted(begins | ends))

    def _act(self, reading: Reading) -> Decision:
        step, state, target = reading.step, self._state, self._plan.sparsity
        begins = [self._step(cycle / self.cycles) for cycle in range(self.cycles)]
        index = sum(step >= begin for begin in begins) - 1
        name = f"cycle {index + 1} of {self.cycles}"
        if index > state.cycle:
            state.cycle = index
            reopen = Regrow(1.0, growth="random", regrow_init="zero")
            return Decision(phase="open", reason=f"{name} begins: all pruned weights reopen", actions=(reopen,))
        end = self._step((index + self.prune_fraction) / self.cycles)
        if step >= end and index == self.cycles - 1:
            reason = f"exact target {target:.4g} and final mask at step {step} (planned for {end})"
            return Decision(phase="frozen", reason=reason, actions=(Prune(target), Freeze()))
        depth = cubic(step, begins[index], end, 0.0, target)
        if depth <= reading.sparsity or not depth:
            phase = "sparse" if reading.sparsity else "dense"
            return Decision(phase=phase, reason=f"{name}: stays at sparsity {reading.sparsity:.4g}")
        reason = f"{name}: sparsity {depth:.4g} at step {step}"
        return Decision(phase="sparse", reason=reason, actions=(Prune(depth),))
