"""ST3: straight-through training under a soft threshold, as published."""

from __future__ import annotations

from dataclasses import dataclass

from surgecollapse.events import Threshold
from surgecollapse.policies.registry import policy
from surgecollapse.policies.straight_through import StraightThroughPolicy


@policy("st3")
@dataclass(frozen=True, kw_only=True, eq=False)
class ST3(StraightThroughPolicy):
    """Soft-threshold the weights with one global threshold and straight-through gradients (ST-3).

    Every weight keeps a shadow value w, which the optimizer steps. The network has, in output channel c::

        v = a_c·sign(w)·(|w| − t)₊,    a_c = 1.01/(r_c + 0.01),    r_c = mean(|w|·1[|w| > t]) / mean(|w|) in c

    The gradient at v goes straight to w, also where v is 0. The threshold t is one for all layers (with the allocation
    ``global``, the default) and is taken anew in every step. It leaves open what the cubic schedule asks for, from 5%
    to 50% of the run. No mask is frozen before the end.

    Args:
        start_at: fraction of the run until which the network is dense, in [0, 1).
        end_at: fraction at which the target is reached, in (start_at, 1].
        threshold_every: steps after which open weights, threshold and scale are taken anew; at readings they always
            are.

    Raises:
        ValueError: if an option is out of range or the fractions do not ascend.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = ST3(start_at=0.0)
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=25))
    >>> first = policy.decide(Reading(step=0)).find(Threshold)
    >>> round(first.sparsity, 6), first.p, first.rescale
    (0.7, 1.0, 'channel')

    When to use:
        As the published reference for ``soft_threshold``.

    Cost:
        One copy of the prunable weights, and a selection in every step. The gradient of the weights is dense to the
        end.

    Deviations:
        The schedule is cubic from reading to reading and a straight line between. The threshold leaves an exact number
        of weights open, where the published code takes an interpolated quantile. The variant σ, which divides weights
        by the width of their layer, and the second training from rewound rates are left out.

    Source:
        Vanderschueren and De Vleeschouwer 2023, arXiv 2212.01076. Schedule and scale are those of its published code
        (github.com/vanderschuea/stthree).
    """

    start_at: float = 0.05
    end_at: float = 0.50

    def _threshold(self, sparsity: float, over: int) -> Threshold:
        return Threshold(
            sparsity,
            over=over,
            every=self.threshold_every,
            p=1.0,
            rescale="channel",
        )
