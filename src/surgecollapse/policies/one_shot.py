"""One-shot magnitude pruning, then fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from surgecollapse.events import Decision, Freeze, Prune, Reading
from surgecollapse.policies import validation
from surgecollapse.policies.base import ScheduledPolicy
from surgecollapse.policies.registry import policy


@policy("one_shot")
@dataclass(frozen=True, kw_only=True, eq=False)
class OneShot(ScheduledPolicy):
    """Train dense, prune once to the target, fine-tune what is left (Han et al. 2015, arXiv 1506.02626).

    Of the N prunable weights the k of largest |w| stay, k = round((1 − s)·N) with s the target. Allocation and saliency
    are those that ``attach`` was given.

    Args:
        at: fraction of the run at which the weights are pruned, in (0, 1).

    Raises:
        ValueError: if ``at`` is out of range.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = OneShot(at=0.5)
    >>> policy.start(Plan(sparsity=0.9, total_steps=100, every=25))
    >>> decisions = [policy.decide(Reading(step=step)) for step in range(1, 101) if policy.due(step)]
    >>> [(decision.phase, len(decision.actions)) for decision in decisions[:3]]
    [('dense', 0), ('frozen', 2), ('frozen', 0)]
    >>> decisions[1].actions
    (Prune(sparsity=0.9, ...), Freeze())

    When to use:
        As the simplest baseline.

    Cost:
        Mean training density 0.55 at 90% sparsity with the default ``at``.

    Deviations:
        One round, inside the given number of steps and under the loop's own learning rate, so that all methods
        train equally long.

    Source:
        Han, Pool, Tran, Dally 2015, arXiv 1506.02626.
    """

    at: float = 0.5

    def __post_init__(self) -> None:
        """Check the option."""
        validation.fraction("at", self.at, zero=False, one=False)

    def _marks(self) -> tuple[float, ...]:
        return (self.at,)

    def _act(self, reading: Reading) -> Decision:
        step, at, target = reading.step, self._step(self.at), self._plan.sparsity
        if step < at:
            return Decision(phase="dense", reason=f"dense until step {at}, at step {step}")
        reason = f"one shot: exact target {target:.4g} and final mask at step {step} (planned for {at})"
        return Decision(phase="frozen", reason=reason, actions=(Prune(target), Freeze()))
