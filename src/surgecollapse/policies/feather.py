"""Feather: straight-through training under a threshold between soft and hard, as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from surgecollapse.events import Threshold
from surgecollapse.policies import validation
from surgecollapse.policies.registry import policy
from surgecollapse.policies.straight_through import StraightThroughPolicy


@policy("feather")
@dataclass(frozen=True, kw_only=True, eq=False)
class Feather(StraightThroughPolicy):
    """Threshold the weights between soft and hard, with scaled straight-through gradients (Feather-Global).

    Every weight keeps a shadow value w, which the optimizer steps. The network has v, and w the gradient g̃::

        v = sign(w)·(|w|³ − t³)₊^(1/3),    g̃ = g where |w| > t, θ·g elsewhere

    The threshold t is one for all layers (with the allocation ``global``, the default) and is taken anew in every step.
    It leaves open what the cubic schedule asks for, from the first step to half of the run. No mask is frozen before
    the end.

    Args:
        start_at: fraction of the run until which the network is dense, in [0, 1).
        end_at: fraction at which the target is reached, in (start_at, 1].
        theta: factor θ of the gradient of closed weights, in [0, 1]; ``None``: 0.5 where the target is above 0.95, else
            1.
        threshold_every: steps after which open weights and threshold are taken anew; at readings they always are.

    Raises:
        ValueError: if an option is out of range or the fractions do not ascend.

    >>> from surgecollapse.events import Plan, Reading
    >>> for target in (0.95, 0.98):
    ...     policy = Feather()
    ...     policy.start(Plan(sparsity=target, total_steps=100, every=50))
    ...     first = policy.decide(Reading(step=0)).find(Threshold)
    ...     print(first.sparsity, first.p, first.theta, first.rescale)
    0.95 3.0 1.0 False
    0.98 3.0 0.5 False

    When to use:
        As the published reference for ``soft_threshold`` with ``p=3``.

    Cost:
        One copy of the prunable weights, and a selection in every step. The gradient of the weights is dense to the
        end.

    Deviations:
        The schedule is cubic from reading to reading and a straight line between. The threshold leaves an exact number
        of weights open, where the published code takes an interpolated quantile. The final network has v; the published
        code writes w where |w| > t at the end.

    Source:
        Glentis Georgoulakis, Retsinas, Maragos 2023, arXiv 2310.02448. Schedule and θ are those of its published code
        (github.com/athglentis/feather).
    """

    exponent: ClassVar[float] = 3.0
    start_at: float = 0.0
    end_at: float = 0.50
    theta: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.theta is not None:
            validation.fraction("theta", self.theta)

    def _theta(self) -> float:
        if self.theta is not None:
            return self.theta
        return 0.5 if self._plan.sparsity > 0.95 else 1.0

    def _threshold(self, sparsity: float, over: int) -> Threshold:
        return Threshold(
            sparsity,
            over=over,
            every=self.threshold_every,
            p=self.exponent,
            theta=self._theta(),
            rescale=False,
        )
