"""What is said once where a run will disappoint, each with its fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from math import prod

from surgecollapse.act.mask_planner import MaskPlanner
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.controller.options import Target
from surgecollapse.errors import counted, warn_user
from surgecollapse.events import Plan
from surgecollapse.policies import FixedInterval, NoOp, OneShot, Recycle, Static
from surgecollapse.protocols import Policy

_FEWEST = 2
"""Readings of a run (of a cycle, where the policy has cycles) below which a large part is pruned at once."""

_MOST_UNITS, _MOST_EVEN_UNITS = 0.5, 0.7
"""Sparsities of whole units up to which no layer is a bottleneck, under one threshold and evenly (study deployment)."""

_UNEVEN = 10
"""Steps of an optimizer from which on it is said that another one, whose steps are counted, makes none."""

_MISSED = 0.05
"""Difference of sparsity from which on it is said that a pattern does not reach the target."""

_SPARSE = 0.1
"""Share of zeros from which a net that arrives is taken for a sparse one."""


class Advice:
    """Warns of each matter once in a run.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     advice = Advice()
    ...     advice.give("left", "call finalize()")
    ...     advice.give("left", "call finalize()")
    >>> len(caught)
    1
    """

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._made: Counter[int] = Counter()

    def give(self, about: str, message: str) -> None:
        """Warn the caller of the library, unless it was warned of the same matter before."""
        if about not in self._given:
            self._given.add(about)
            warn_user(message)

    def of_plan(self, plan: Plan, policy: Policy, *, from_dense: bool) -> None:
        """Warn of a target of zero under a policy that prunes, and of a run that is too short to prune a dense net."""
        name = type(policy).__name__
        renews = plan.sparsity == 0.0 and getattr(policy, "counting", None) is not None
        if _never_prunes(policy) or renews:
            return
        if plan.sparsity == 0.0:
            self.give(
                "zero", f"sparsity 0 prunes nothing, so that {name} does nothing: give a sparsity, or use 'no_op'"
            )
        elif from_dense and plan.total_steps is not None and not isinstance(policy, OneShot | Static):
            readings = plan.total_steps // plan.every
            if readings < _FEWEST * getattr(policy, "cycles", 1):
                every = max(1, plan.total_steps // 40)
                self.give(
                    "short",
                    f"{plan.total_steps} steps with a reading every {plan.every} give {name} "
                    f"{counted(readings, 'reading')}, so that it prunes a large part at once: pass "
                    f"readings=Readings(every={every}) (--every {every}), or train longer",
                )

    def of_steps(self, index: int, last: int) -> None:
        """Count a step of one of several optimizers, and warn where the one whose steps count does not step.

        Args:
            index: of the optimizer.
            last: index of the last optimizer that steps prunable weights, whose steps are counted.
        """
        self._made[index] += 1
        if self._made[index] >= _UNEVEN and not self._made[last]:
            self.give(
                "uneven",
                f"optimizer {index + 1} of the list made {self._made[index]} steps, and optimizer {last + 1} made none "
                "so far: total_steps and readings count the steps of the last one that steps prunable weights. Put the "
                "optimizer that steps in every iteration at the end of the list",
            )

    def of_units(self, target: Target) -> None:
        """Warn where whole units are closed so far, or under such an allocation, that layers become bottlenecks."""
        left = 1.0 - target.sparsity
        even = target.allocation != "global"
        if target.pattern != "unit" or target.sparsity <= (_MOST_EVEN_UNITS if even else _MOST_UNITS):
            return
        what = "" if even else ", and one global threshold closes wide layers down to a single unit"
        fix = "" if even else " allocation='layer' and"
        self.give(
            "units",
            f"pattern 'unit' at sparsity {target.sparsity:g} leaves about {left:.0%} of the units and {left**2:.1%} of "
            f"the multiplications{what}: expect a large loss of accuracy. Take{fix} a sparsity of at most "
            f"{_MOST_EVEN_UNITS:g}; 0.5 can halve the time of wide convolutions",
        )

    def of_pattern(self, planner: MaskPlanner, sparsity: float) -> None:
        """Warn where the ends of rows, which no group of ``N:M`` covers, keep a net from its target."""
        pattern, weights = planner.pattern, planner.weights
        exact = None if pattern is None else pattern.sparsity
        if pattern is None or exact is None or not weights.size:
            return
        reached = 1.0 - planner.wanted(sparsity) / weights.size
        if sparsity - reached > _MISSED:
            shapes = planner.layouts.shapes(weights.params).items()
            odd = [name for name, s in shapes if pattern.least(s) > (1 - exact) * prod(s)]
            self.give(
                "pattern",
                f"pattern {pattern.name!r} reaches sparsity {reached:.3f} here, not {sparsity:g}: the ends of rows of "
                f"{', '.join(odd)} fill no group and stay dense. Choose widths that are multiples of "
                f"{pattern.name.split(':')[1]}, a smaller M, or exclude= these weights",
            )

    def of_zeros(self, weights: MaskedWeights) -> None:
        """Warn of a net that is sparse already, whose zeros nothing is told to keep."""
        if not weights.size or weights.live < weights.size:
            return
        zeros = sum(n for n, p in weights.zeros_in().values() if n < p)  # whole tensors of zeros are a choice of init
        if zeros > _SPARSE * weights.size:
            self.give(
                "zeros",
                f"{zeros / weights.size:.0%} of the prunable weights are zero already, and will be trained. To resume "
                "a run, attach first and then load the model and the optimizer; to keep these zeros, pass "
                "masks='zeros'",
            )

    def of_unstepped(self, names: Collection[str]) -> None:
        """Warn of weights that would be pruned if an attached optimizer stepped them."""
        if names:
            self.give(
                "unstepped",
                f"no attached optimizer steps {', '.join(names)}, so these stay dense: pass all optimizers as a list, "
                "or exclude= these weights",
            )


def _never_prunes(policy: Policy) -> bool:
    over = getattr(policy, "over", None)
    recycles = isinstance(policy, Recycle) and (over in ("hold", "no_op", None) or isinstance(over, NoOp))
    return isinstance(policy, NoOp | FixedInterval) or recycles
