"""SET: sparse evolutionary training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgecollapse.policies.dynamic_sparse import DynamicSparsePolicy
from surgecollapse.policies.registry import policy


@policy("set")
@dataclass(frozen=True, kw_only=True, eq=False)
class SET(DynamicSparsePolicy):
    """Sparse from the first step; now and then the weakest weights are exchanged for random others.

    Mocanu et al. 2018 (arXiv 1707.04780). Deviations: exchanged every ``interval`` steps rather than every epoch, by
    |w| rather than by the smallest positive and largest negative weights apart, and new weights start at zero, all as
    in the comparison of Evci et al. 2020 (arXiv 1911.11134), which also gives the layers their densities.

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
    """

    growth: ClassVar[str] = "random"
