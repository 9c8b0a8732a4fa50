"""Sparse from the first step: static masks, and those that exchange weights as they train (SET, RigL)."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

from surgecollapse.events import Decision, Reading
from surgecollapse.policies import validation as guards
from surgecollapse.policies.base import ScheduledPolicy


def cosine_decay(initial: float, step: int, end: int) -> float:
    """Share of the weights that is exchanged at ``step``: initial/2·(1 + cos(π·step/end)), 0 from ``end`` on.

    Evci et al. 2020 (arXiv 1911.11134, §3).

    >>> [round(cosine_decay(0.3, step, 100), 6) for step in (0, 50, 100, 120)]
    [0.3, 0.15, 0.0, 0.0]
    """
    return initial / 2.0 * (1.0 + cos(pi * step / end)) if step < end else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Static(ScheduledPolicy):
    """A random mask, put on before the first step and never changed: the least that a method must beat.

    The layers share the open weights by Erdős–Rényi-kernel densities (arXiv 1911.11134, §3). The first gradient is
    that of the net before it was masked, since only the first forward pass shows which weights are prunable; it is
    masked like every other.

    Args:
        layers: how the open weights are shared among layers: ``erk``, or ``layer`` for the same density everywhere.

    Raises:
        ValueError: if ``layers`` is unknown.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = Static()
    >>> policy.start(Plan(sparsity=0.9, total_steps=100, every=50))
    >>> first = policy.decide(Reading(step=0))
    >>> first.phase, first.depth, first.saliency, first.distribution
    ('frozen', 0.9, 'random', 'erk')
    """

    layers: str = "erk"
    from_start: ClassVar[bool] = True
    """Asked before the first optimizer step too."""

    def __post_init__(self) -> None:
        """Check the option."""
        guards.one_of("layers", self.layers, ("erk", "layer"))

    def _act(self, reading: Reading) -> Decision:
        return self._open(reading.step, "frozen")

    def _open(self, step: int, phase: str) -> Decision:
        """Put the first mask on."""
        return Decision(
            phase=phase,
            reason=f"a random mask of sparsity {self._plan.sparsity:.4g} ({self.layers}) at step {step}",
            depth=self._plan.sparsity,
            saliency="random",
            distribution=self.layers,
            freeze=phase == "frozen",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DynamicSparsePolicy(Static):
    """What SET and RigL share: their schedule."""

    interval: int = 100
    drop: float = 0.3
    until: float = 0.75

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        guards.whole("interval", self.interval)
        guards.fraction("drop", self.drop)
        guards.fraction("until", self.until, zero=False)

    def _marks(self) -> tuple[float, ...]:
        return (self.until,)

    def due(self, step: int) -> bool:
        """Whether ``step`` is a reading, or a multiple of ``interval`` before the end."""
        return super().due(step) or (step % self.interval == 0 and 0 < step < self._step(self.until))

    def _share(self, step: int) -> float:
        """Share of the open weights that is exchanged at ``step``."""
        del step
        return self.drop

    def _act(self, reading: Reading) -> Decision:
        step, end = reading.step, self._step(self.until)
        if self._run.phase == "dense":
            return self._open(step, "sparse")
        if step >= end:
            return Decision(phase="frozen", reason=f"the mask is final from step {end}", freeze=True)
        if step % self.interval:
            return Decision(phase="sparse", reason=f"no exchange at step {step}: every {self.interval} steps")
        share = self._share(step)
        return Decision(
            phase="sparse",
            reason=f"{share:.3g} of each layer's open weights exchanged at step {step}",
            rewire=share,
            saliency="magnitude",
            growth=self.growth,
            initial="zero",
        )
