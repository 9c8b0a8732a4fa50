"""Gradual magnitude pruning on the cubic schedule."""

from __future__ import annotations

from dataclasses import dataclass

from surgecollapse.events import Decision, Freeze, Prune, Reading
from surgecollapse.policies import validation
from surgecollapse.policies.base import ScheduledPolicy
from surgecollapse.policies.registry import policy
from surgecollapse.schedules import cubic


@policy("gmp")
@dataclass(frozen=True, kw_only=True, eq=False)
class GradualPruning(ScheduledPolicy):
    """Prune a little more at every reading, sₜ = s·(1 − (1 − u)³), u = (t − start)/(end − start) (GMP).

    Weights that are pruned stay pruned.

    Args:
        start_at: fraction of the run until which it is dense, in [0, 1).
        end_at: fraction at which the exact target is reached and the mask final, in (start_at, 1].

    Raises:
        ValueError: if the fractions are out of range or do not ascend.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = GradualPruning(start_at=0.0, end_at=0.5)
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=25))
    >>> first, last = policy.decide(Reading(step=25)), policy.decide(Reading(step=50))
    >>> round(first.find(Prune).sparsity, 6), first.phase
    (0.7, 'sparse')
    >>> last.actions, last.phase
    ((Prune(sparsity=0.8, ...), Freeze()), 'frozen')

    When to use:
        Short trainings and language models, or as a strong baseline: it was the best rival on LeNet, on text and on
        reviews.

    Cost:
        Mean training density 0.34 at 90% sparsity. No dense gradients.

    Deviations:
        The paper prunes every layer alike. Here the layers compete unless the allocation is ``layer``, which later
        users found better (Gale, Elsen, Hooker 2019, arXiv 1902.09574, section 5).

    Source:
        Zhu and Gupta 2017, arXiv 1710.01878, eq. 1 with s_i = 0.
    """

    start_at: float = 0.10
    end_at: float = 0.75

    def __post_init__(self) -> None:
        """Check the options."""
        validation.fraction("start_at", self.start_at, one=False)
        validation.fraction("end_at", self.end_at, zero=False)
        if not self.start_at < self.end_at:
            raise ValueError(f"expected start_at < end_at, got {self.start_at!r}, {self.end_at!r}")

    def _marks(self) -> tuple[float, ...]:
        return (self.end_at,)

    def _act(self, reading: Reading) -> Decision:
        step, start, end = reading.step, self._step(self.start_at), self._step(self.end_at)
        depth = cubic(step, start, end, 0.0, self._plan.sparsity)
        if step >= end:
            reason = f"schedule: exact target {depth:.4g} and final mask at step {step} (planned for {end})"
            return Decision(phase="frozen", reason=reason, actions=(Prune(depth), Freeze()))
        if not depth:
            return Decision(phase="dense", reason=f"dense until step {start}, at step {step}")
        reason = f"cubic schedule: sparsity {depth:.4g} at step {step}"
        return Decision(phase="sparse", reason=reason, actions=(Prune(depth),))
