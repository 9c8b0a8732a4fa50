"""GraNet: gradual pruning with zero-cost neuroregeneration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from surgecollapse.events import Decision, Exchange, Reading
from surgecollapse.policies import validation
from surgecollapse.policies.gradual_pruning import GradualPruning
from surgecollapse.policies.registry import policy
from surgecollapse.schedules import cosine


@policy("granet")
@dataclass(frozen=True, kw_only=True, eq=False)
class GraNet(GradualPruning):
    """Gradual pruning in which every step also exchanges weights: regenerate as many as are dropped.

    After the cubic schedule has pruned, a share of what is left in each layer is pruned by magnitude. As many weights
    are regrown, at zero, by the magnitude of the dense gradient::

        share(t) = drop_fraction/2 · (1 + cos(πt/t_end)),  t_end = end_at · total_steps

    From ``end_at`` on the mask is final.

    Args:
        start_at: fraction of the run until which it is dense, in [0, 1).
        end_at: fraction at which the exact target is reached and the mask final, in (start_at, 1].
        drop_fraction: first share of the open weights that an exchange replaces, in [0, 1].

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = GraNet(start_at=0.0, end_at=0.5)
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=25))
    >>> decision = policy.decide(Reading(step=25))
    >>> [type(action).__name__ for action in decision.actions], round(decision.find(Exchange).fraction, 6)
    (['Prune', 'Exchange'], 0.25)

    When to use:
        Convolutions at moderate sparsity: it was the best rival on those of MNIST-1D at 90%.

    Cost:
        Mean training density 0.34 at 90% sparsity. Dense gradients before each exchange.

    Deviations:
        The exchange share decays by a cosine, as in the published code.

    Source:
        Liu et al. 2021, arXiv 2106.10404, dense to sparse.
    """

    drop_fraction: float = 0.5
    growth: ClassVar[str] = "gradient"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        validation.fraction("drop_fraction", self.drop_fraction)

    def _act(self, reading: Reading) -> Decision:
        decision = super()._act(reading)
        if decision.phase != "sparse":
            return decision
        share = cosine(reading.step, 0, self._step(self.end_at), self.drop_fraction, 0.0)
        reason = f"{decision.reason}; {share:.3g} of each layer's open weights exchanged"
        exchange = Exchange(share, growth=self.growth, regrow_init="zero")
        return replace(decision, reason=reason, actions=(*decision.actions, exchange))
