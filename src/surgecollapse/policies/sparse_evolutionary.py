"""SET: sparse evolutionary training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgecollapse.policies.dynamic_sparse import DynamicSparsePolicy
from surgecollapse.policies.registry import policy


@policy("set")
@dataclass(frozen=True, kw_only=True, eq=False)
class SET(DynamicSparsePolicy):
    """Sparse from the first step; every ``interval`` steps the weakest weights are exchanged for random others.

    In each layer of n open weights the k of lowest magnitude are pruned, and k others are regrown at random::

        k = ζ · n,  at t = interval, 2 · interval, … until the mask is final

    Args:
        allocation: how the open weights are shared among layers: ``erk`` or ``layer``.
        interval: steps between two exchanges, at least 1.
        drop_fraction: share of each layer's open weights that an exchange replaces (ζ), in [0, 1].
        until: fraction of the run from which the mask is final, in (0, 1].

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = SET()
    >>> policy.start(Plan(sparsity=0.9, total_steps=1000, every=50))
    >>> decisions = [policy.decide(Reading(step=step)) for step in (0, 50, 100, 750)]
    >>> [[type(action).__name__ for action in decision.actions] for decision in decisions]
    [['Prune'], [], ['Exchange'], ['Freeze']]
    >>> decisions[2].actions[0].fraction, decisions[2].actions[0].growth
    (0.3, 'random')

    When to use:
        Training density must equal the target's, and dense gradients are not available. At 80% it was level with
        the default on the MLP of MNIST-1D.

    Cost:
        Training density equals the target's. No dense gradients.

    Deviations:
        Exchanges follow steps rather than epochs, and drop by magnitude rather than by the smallest positive and
        largest negative weights apart. New weights start at zero. All three are as in the comparison of Evci et al.
        2020, arXiv 1911.11134.

    Source:
        Mocanu et al. 2018, arXiv 1707.04780.
    """

    growth: ClassVar[str] = "random"
