"""StraightThrough: gradual magnitude pruning whose closed weights get the gradient too, and the frame of its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgecollapse.events import Decision, Freeze, Prune, Reading, Threshold
from surgecollapse.policies import validation
from surgecollapse.policies.base import ScheduledPolicy
from surgecollapse.policies.registry import policy
from surgecollapse.schedules import cubic


@dataclass(frozen=True, kw_only=True, eq=False)
class StraightThroughPolicy(ScheduledPolicy):
    """A threshold on shadow weights that follows the cubic schedule until the mask is final: at the end of the run.

    Subclasses say what the threshold is, in :meth:`_threshold`.
    """

    from_start: ClassVar[bool] = True
    dense_backward: ClassVar[bool] = True
    """The gradient of closed weights is taken in every step until the mask is final."""
    start_at: float
    end_at: float
    threshold_every: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        validation.fraction("start_at", self.start_at, one=False)
        validation.fraction("end_at", self.end_at, zero=False)
        if not self.start_at < self.end_at:
            raise ValueError(f"expected start_at < end_at, got {self.start_at!r}, {self.end_at!r}")
        validation.whole("threshold_every", self.threshold_every)

    @property
    def _final(self) -> float:
        """Fraction of the run at which the mask is final."""
        return 1.0

    def _threshold(self, sparsity: float, over: int) -> Threshold:
        """The threshold that is at a sparsity in ``over`` steps."""
        raise NotImplementedError

    def _marks(self) -> tuple[float, ...]:
        return tuple(sorted({self.start_at, self.end_at, self._final} - {0.0}))

    def _next(self, step: int) -> int:
        """The next step at which a decision is due."""
        every = self._plan.every
        return min([step + every - step % every, *(mark for mark in self._state.marks if mark > step)])

    def _act(self, reading: Reading) -> Decision:
        step, target = reading.step, self._plan.sparsity
        start, end, last = self._step(self.start_at), self._step(self.end_at), self._step(self._final)
        if step >= last:
            reason = f"exact target {target:.4g} and final mask at step {step}, the last one"
            return Decision(phase="frozen", reason=reason, actions=(Prune(target), Freeze()))
        if step < start:
            return Decision(phase="dense", reason=f"dense until step {start}, at step {step}")
        coming = self._next(step)
        depth = cubic(coming, start, end, 0.0, target)
        reason = f"straight-through threshold: to sparsity {depth:.4g} at step {coming}"
        return Decision(phase="sparse", reason=reason, actions=(self._threshold(depth, coming - step),))


@policy("straight_through")
@dataclass(frozen=True, kw_only=True, eq=False)
class StraightThrough(StraightThroughPolicy):
    """Gradual magnitude pruning with a straight-through gradient: closed weights go on learning (STE).

    Every weight keeps a shadow value w, which the optimizer steps. The network has v = w·1[|w| > t], and w gets the
    gradient at v, also where v is 0. The threshold t leaves open what the cubic schedule asks for::

        s(step) = target·(1 − (1 − u)³),    u = (step − start_at·T)/((end_at − start_at)·T)

    It is a straight line from reading to reading. A closed weight that grows above t comes back with the value that it
    has grown to.

    Args:
        start_at: fraction of the run until which the network is dense, in [0, 1).
        end_at: fraction at which the target is reached, in (start_at, 1].
        threshold_every: steps after which open weights and threshold are taken anew; at readings they always are.

    Raises:
        ValueError: if an option is out of range or the fractions do not ascend.

    >>> from surgecollapse.events import Plan
    >>> policy = StraightThrough(start_at=0.0, end_at=0.5)
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=25))
    >>> first = policy.decide(Reading(step=0)).find(Threshold)
    >>> round(first.sparsity, 6), first.over, first.p
    (0.7, 25, 0.0)

    When to use:
        As the control for soft thresholds, which differ from it in the threshold alone.

    Cost:
        One copy of the prunable weights. Forward passes are as sparse as those of gradual pruning; the gradient of the
        weights is dense to the end.

    Deviations:
        Straight-through pruning has no schedule of its own: this is that of ``gmp`` here. The layers compete unless the
        allocation is ``layer`` or ``erk``.

    Source:
        Bengio, Léonard, Courville 2013, arXiv 1308.3432, on the schedule of Zhu and Gupta 2017, arXiv 1710.01878; as a
        baseline in JaxPruner (Lee et al. 2023, arXiv 2304.14082).
    """

    start_at: float = 0.10
    end_at: float = 0.75

    def _threshold(self, sparsity: float, over: int) -> Threshold:
        return Threshold(sparsity, over=over, every=self.threshold_every, p=0.0, rescale=False)
