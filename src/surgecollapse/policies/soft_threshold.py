"""SoftThreshold: closed weights go on learning in a shadow copy, under a threshold that rises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from surgecollapse.errors import one_of
from surgecollapse.events import Action, Decision, Reading, Threshold, Warn
from surgecollapse.events.switches import ALLOCATIONS, Allocation
from surgecollapse.policies import validation
from surgecollapse.policies.base import ScheduledState
from surgecollapse.policies.recovery import NotRecovering, Recovery
from surgecollapse.policies.registry import policy
from surgecollapse.policies.straight_through import StraightThroughPolicy
from surgecollapse.schedules import cubic


@dataclass(slots=True)
class SoftState(ScheduledState):
    """What changes during a run."""

    begun: int | None = None
    """Step at which the threshold began to rise."""
    recovery: Recovery = field(default_factory=Recovery)


@policy("soft_threshold")
@dataclass(frozen=True, kw_only=True, eq=False)
class SoftThreshold(StraightThroughPolicy):
    """Soft-threshold the weights, and let those under the threshold go on learning: a *surge* in every step.

    Every weight keeps a shadow value w, which the optimizer steps. The network has v::

        v = scale·sign(w)·(|w|^p − t^p)₊^(1/p),    scale = Σ|w| / Σ|v| over the open weights of each tensor

    The gradient at v goes straight to w, also where v is 0. A pruned weight that the gradient wants grows back by
    itself. The threshold t leaves exactly as many weights open as the sparsity asks. The sparsity follows the cubic
    schedule of gradual pruning (Zhu and Gupta 2017, arXiv 1710.01878)::

        s(step) = target·(1 − (1 − u)³),    u = (step − start_at·T)/((end_at − start_at)·T)

    It is a straight line from reading to reading. At ``freeze_at`` the mask is final, the shadow is dropped, and v
    trains on as ordinary weights.

    Args:
        start_at: fraction of the run until which the network is dense, in [0, 1).
        end_at: fraction at which the target is reached, in (start_at, freeze_at].
        freeze_at: fraction at which the mask is frozen, at most 1.
        p: 1 is the soft threshold, greater values shrink the open weights less, 0 is the hard threshold.
        theta: factor of the gradient of closed weights, in [0, 1].
        rescale: whether v gets back the magnitude that the threshold took from the open weights; ``None``: with p = 1.
        allocation: ``global | layer | erk``; ``None`` takes the target's.
        when_not_recovering: ``exact``: the target is reached in any case. ``at_most``: the threshold begins to rise
            once training has learned, or at two thirds of ``freeze_at``. It has learned once its loss is a tenth of the
            first, or its predictions are 90% confident. Where training does not recover (see
            :class:`~surgecollapse.policies.recovery.Recovery`), the density is doubled, the reason is recorded, and
            that sparsity is the new target. Both warn, and record an event ``warning``, where training does not
            recover; ``exact`` sees it by the noted loss alone.
        threshold_every: steps after which open weights, threshold and scale are taken anew, at least 1; at readings
            they always are.

    Raises:
        ValueError: if an option is out of range or the fractions do not ascend.

    >>> from surgecollapse.events import Plan
    >>> policy = SoftThreshold(end_at=0.5)
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=25))
    >>> first, last = policy.decide(Reading(step=0)), policy.decide(Reading(step=75))
    >>> round(first.find(Threshold).sparsity, 6), first.find(Threshold).over
    (0.7, 25)
    >>> last.actions
    (Prune(sparsity=0.8, ...), Freeze())

    When to use:
        Thousands of steps. Tune allocation and dropout: on the MLP of MNIST-1D at 90% they make 1.3 points. Pass
        ``Updates(saliency="lamp")`` for convolutions, and ``when_not_recovering="at_most"`` where pruning stops
        learning.

    Cost:
        One copy of the prunable weights until the mask is frozen. It costs 3.9% of a step of a transformer of 25
        million weights (9.9% with ``p=3``). Mean training density 0.22 at 90% sparsity on the MLP of MNIST-1D. The
        gradient of the weights is dense, so that training takes 0.42 of the dense operations.

    Deviations:
        ST-3 is p = 1 with another scale (``st3``), Feather p = 3 without one and with θ < 1 above 95% (``feather``).
        Here the mask is frozen before the end, and masks, threshold and scale are held for ``threshold_every`` steps.
        Under a pattern (units, blocks, N:M) the threshold lies below the least open weight, so that open weights hardly
        shrink.

    Source:
        After ST-3 (Vanderschueren and De Vleeschouwer 2023, arXiv 2212.01076), Feather (Glentis Georgoulakis et al.
        2023, arXiv 2310.02448) and Cyclical Pruning (Srinivas et al. 2022, arXiv 2202.01290).
    """

    start_at: float = 0.0
    end_at: float = 0.5
    freeze_at: float = 0.75
    p: float = 1.0
    theta: float = 1.0
    rescale: bool | None = None
    allocation: Allocation | None = None
    when_not_recovering: NotRecovering = "exact"
    threshold_every: int = 10
    _state: SoftState = field(default_factory=SoftState, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        validation.fraction("freeze_at", self.freeze_at, zero=False)
        if not self.end_at <= self.freeze_at:
            raise ValueError(f"expected end_at <= freeze_at, got {self.end_at!r}, {self.freeze_at!r}")
        one_of("when_not_recovering", self.when_not_recovering, get_args(NotRecovering))
        if self.allocation is not None:
            one_of("allocation", self.allocation, ALLOCATIONS)
        self._threshold(0.0, 0)

    @property
    def _final(self) -> float:
        return self.freeze_at

    def _threshold(self, sparsity: float, over: int) -> Threshold:
        return Threshold(
            sparsity,
            over=over,
            every=self.threshold_every,
            p=self.p,
            theta=self.theta,
            rescale=self.p == 1 if self.rescale is None else self.rescale,
            allocation=self.allocation,
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """What a reading must hold beside activation entropy."""
        return ("prediction_confidence",) if self.when_not_recovering == "at_most" else ()

    def _act(self, reading: Reading) -> Decision:
        step, state, target = reading.step, self._state, self._plan.sparsity
        freeze = self._step(self._final)
        state.recovery.read(reading)
        if step >= freeze:
            at_most = self.when_not_recovering == "at_most"
            return state.recovery.final(reading, freeze, target, at_most=at_most, begun=state.begun is not None)
        if state.begun is None:
            if why := self._waits(step):
                return Decision(phase="dense", reason=why)
            state.begun = step
        if state.recovery.failed:
            if self.when_not_recovering == "at_most":
                return self._back_off(reading)
            return self._rise(reading, target, state.recovery.warning())
        return self._rise(reading, target)

    def _rise(self, reading: Reading, target: float, *before: Warn) -> Decision:
        """Go on with the threshold."""
        coming = self._next(reading.step)
        depth, why = self._depth(reading, coming, target)
        reason = f"{why}: to sparsity {depth:.4g} at step {coming}"
        actions: tuple[Action, ...] = (*before, self._threshold(depth, coming - reading.step))
        return Decision(phase="sparse", reason=reason, actions=actions)

    def _waits(self, step: int) -> str | None:
        """Why the threshold does not rise yet."""
        start, recovery = self._step(self.start_at), self._state.recovery
        if step < start:
            return f"dense until step {start}, at step {step}"
        if self.when_not_recovering == "exact":
            return None
        return recovery.waits(step, max(start, self._step(self.freeze_at * 2 / 3)))

    def _depth(self, reading: Reading, coming: int, target: float) -> tuple[float, str]:
        """Sparsity at the next decision, and what it follows."""
        del reading
        return self._cubic(coming, self._step(self.end_at), target), "soft threshold"

    def _cubic(self, step: int, end: int, target: float) -> float:
        """The schedule; one that began late takes half of what is left until the final mask."""
        begun = self._state.begun or 0
        if begun > self._step(self.start_at):
            end = max(end, (begun + self._step(self.freeze_at)) // 2)
        return cubic(step, begun, end, 0.0, target)

    def _back_off(self, reading: Reading) -> Decision:
        """Double the density, and make that the target."""
        coming = self._next(reading.step)
        why, said, lower = self._state.recovery.lower(reading, self._plan.sparsity)
        actions = (*said, self._threshold(lower, coming - reading.step))
        return Decision(phase="sparse", reason=why, actions=actions)
