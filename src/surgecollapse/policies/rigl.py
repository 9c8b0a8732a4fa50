"""RigL: the rigged lottery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgecollapse.policies.dynamic_sparse import DynamicSparsePolicy
from surgecollapse.policies.registry import policy
from surgecollapse.schedules import cosine


@policy("rigl")
@dataclass(frozen=True, kw_only=True, eq=False)
class RigL(DynamicSparsePolicy):
    """Sparse from the first step; the weakest weights are exchanged for those of largest gradient.

    Densities by ERK; pruned by |w|, regrown by the magnitude of the dense gradient *at the masked weights*; new weights
    start at zero. The exchanged share of each layer is α/2·(1 + cos(πt/T_end)).

    Args:
        allocation: how the open weights are shared among layers: ``erk`` or ``layer``.
        interval: steps between two exchanges (ΔT), at least 1.
        drop_fraction: first share of each layer's open weights that an exchange replaces (α), in [0, 1].
        until: fraction of the run from which the mask is final (T_end), in (0, 1].

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = RigL()
    >>> policy.start(Plan(sparsity=0.9, total_steps=800, every=50))
    >>> decisions = [policy.decide(Reading(step=step)) for step in (0, 300, 600)]
    >>> [type(action).__name__ for decision in decisions for action in decision.actions]
    ['Prune', 'Exchange', 'Freeze']
    >>> round(decisions[1].actions[0].fraction, 6)
    0.15

    When to use:
        Training density must equal the target's. It was the best rival on the MLP of MNIST-1D at 90 and 95%, and
        better than the default with 20% wrong labels.

    Cost:
        Training density equals the target's. One dense gradient before each exchange.

    Deviations:
        The optimizer also steps where weights are exchanged; the published code exchanges instead of stepping. A
        weight that would be dropped and grown at once stays, as in the published code.

    Source:
        Evci, Gale, Menick, Castro, Elsen 2020, arXiv 1911.11134.
    """

    growth: ClassVar[str] = "gradient"

    def _share(self, step: int) -> float:
        return cosine(step, 0, self._step(self.until), self.drop_fraction, 0.0)
