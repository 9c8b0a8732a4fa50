"""Words that an option, a policy and the lab's configuration share, each defined once as a type."""

from __future__ import annotations

from typing import Literal, get_args

Allocation = Literal["global", "layer", "erk"]
"""How zeros spread over layers: one threshold for all, the same density in each, or Erdős–Rényi-kernel densities."""
EvenAllocation = Literal["erk", "layer"]
"""Those that need no ranking over layers."""
Growth = Literal["random", "gradient", "ema_gradient", "momentum"]
"""By what closed weights are regrown: at random (:func:`surgecollapse.functional.growth.random`), or by the magnitude
of a signal (:func:`surgecollapse.functional.growth.gradient`): the dense gradient of this step, its exponential moving
average, the optimizer's first moment.
"""
RegrowInit = Literal["zero", "noise", "last"]
"""First value of a regrown weight: 0, noise within the energy budget, or the value that it had when it was pruned."""
OptimizerState = Literal["reset", "keep", "warmup", "ramp"]
"""What the optimizer remembers of pruned and regrown weights."""

ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)
GROWTH: tuple[Growth, ...] = get_args(Growth)
REGROW_INIT: tuple[RegrowInit, ...] = get_args(RegrowInit)
OPTIMIZER_STATE: tuple[OptimizerState, ...] = get_args(OptimizerState)
