"""Sparse from the first step: static masks, and those that exchange weights as they train (SET, RigL)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from surgecollapse.errors import one_of
from surgecollapse.events import Decision, Exchange, Freeze, Prune, Reading
from surgecollapse.events.switches import EvenAllocation
from surgecollapse.policies import validation
from surgecollapse.policies.base import ScheduledPolicy
from surgecollapse.policies.registry import policy


@policy("static")
@dataclass(frozen=True, kw_only=True, eq=False)
class Static(ScheduledPolicy):
    """A random mask, put on before the first step and never changed.

    The layers share the open weights by Erdős–Rényi-kernel densities. A layer whose weight has the dimensions
    n_1 × n_2 × … has::

        density = min(1, ε · (n_1 + n_2 + …)/(n_1 · n_2 · …)),  ε such that the target is met

    Args:
        allocation: how the open weights are shared among layers: ``erk``, or ``layer`` for the same density everywhere.

    Raises:
        ValueError: if ``allocation`` is unknown.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = Static()
    >>> policy.start(Plan(sparsity=0.9, total_steps=100, every=50))
    >>> first = policy.decide(Reading(step=0))
    >>> first.phase, first.find(Prune)
    ('frozen', Prune(sparsity=0.9, ..., allocation='erk', saliency='random', ...))

    When to use:
        As the weakest baseline of sparse training: what a random mask reaches.

    Cost:
        Training density equals the target's from the first step.

    Deviations:
        The first gradient is that of the unmasked network, since the first forward pass shows what is prunable; it
        is masked like every other.

    Source:
        Erdős–Rényi-kernel densities of Evci et al. 2020, arXiv 1911.11134, section 3.
    """

    allocation: EvenAllocation = "erk"
    from_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the option."""
        one_of("allocation", self.allocation, get_args(EvenAllocation))

    def _act(self, reading: Reading) -> Decision:
        return self._open(reading.step, "frozen")

    def _open(self, step: int, phase: str) -> Decision:
        """Put the first mask on."""
        reason = f"a random mask of sparsity {self._plan.sparsity:.4g} ({self.allocation}) at step {step}"
        prune = Prune(self._plan.sparsity, saliency="random", allocation=self.allocation)
        return Decision(phase=phase, reason=reason, actions=(prune, Freeze()) if phase == "frozen" else (prune,))


@dataclass(frozen=True, kw_only=True, eq=False)
class DynamicSparsePolicy(Static):
    """What SET and RigL share: their schedule. Subclasses say by what criterion weights grow, and how many."""

    interval: int = 100
    drop_fraction: float = 0.3
    until: float = 0.75

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        validation.whole("interval", self.interval)
        validation.fraction("drop_fraction", self.drop_fraction)
        validation.fraction("until", self.until, zero=False)

    def _marks(self) -> tuple[float, ...]:
        return (self.until,)

    def due(self, step: int) -> bool:
        """Whether ``step`` is a reading, or a multiple of ``interval`` before the end."""
        return super().due(step) or (step % self.interval == 0 and 0 < step < self._step(self.until))

    def _share(self, step: int) -> float:
        """Share of the open weights that is exchanged at ``step``."""
        del step
        return self.drop_fraction

    def _act(self, reading: Reading) -> Decision:
        step, end = reading.step, self._step(self.until)
        if self._state.phase == "dense":
            return self._open(step, "sparse")
        if step >= end:
            return Decision(phase="frozen", reason=f"the mask is final from step {end}", actions=(Freeze(),))
        if step % self.interval:
            return Decision(phase="sparse", reason=f"no exchange at step {step}: every {self.interval} steps")
        share = self._share(step)
        reason = f"{share:.3g} of each layer's open weights exchanged at step {step}"
        exchange = Exchange(share, saliency="magnitude", growth=self.growth, regrow_init="zero")
        return Decision(phase="sparse", reason=reason, actions=(exchange,))
