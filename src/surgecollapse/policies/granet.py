"""GraNet: gradual pruning with zero-cost neuroregeneration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from surgecollapse.events import Decision, Reading
from surgecollapse.policies import validation as guards
from surgecollapse.policies.dynamic_sparse import cosine_decay
from surgecollapse.policies.gradual_pruning import GradualPruning


@dataclass(frozen=True, kw_only=True, eq=False)
class GraNet(GradualPruning):
    """Gradual pruning in which every step also exchanges weights: regenerate as many as are dropped.

    Liu et al. 2021 (arXiv 2106.10404), the dense-to-sparse form: after the cubic schedule has pruned, a share ``drop``
    of what is left in each layer is closed by magnitude and as many weights are reopened, at zero, by the magnitude of
    the dense gradient; the share decays by a cosine (as in the published code) until ``end_at``, where the mask is
    final.

    Args:
        start_at: fraction of the run until which it is dense, in [0, 1).
        end_at: fraction at which the exact target is reached and the mask final, in (start_at, 1].
        drop: first share of the open weights that an exchange replaces, in [0, 1].

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = GraNet(start_at=0.0, end_at=0.5)
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=25))
    >>> decision = policy.decide(Reading(step=25))
    >>> round(decision.depth, 6), round(decision.rewire, 6), decision.growth
    (0.7, 0.25, 'gradient')
    """

    drop: float = 0.5
    growth: ClassVar[str] = "gradient"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        guards.fraction("drop", self.drop)

    def _act(self, reading: Reading) -> Decision:
        decision = super()._act(reading)
        if decision.phase != "sparse":
            return decision
        share = cosine_decay(self.drop, reading.step, self._step(self.end_at))
        reason = f"{decision.reason}; {share:.3g} of each layer's open weights exchanged"
        return replace(decision, reason=reason, rewire=share, growth=self.growth, initial="zero")
