"""A ramp of the steps of regrown weights, with a step count of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surgecollapse.act.masked_weights import MaskedWeights

RAMP = 10
"""Steps that the ramp of a regrown weight takes, W."""


class RegrowthRamp:
    """Small first steps of regrown weights: their moments start at zero, and so does their step count.

    Adam corrects the bias of its moments by one step count for all weights. A weight whose moments were set to zero
    late in training therefore moves by (1 − β₁)/√(1 − β₂) learning rates in its first step, 3.2 at the usual values.
    Here the a-th step of a regrown weight, a = 1 … W, is the optimizer's own times::

        (a/W) · (1 − β₁^T)/(1 − β₁^a) · √((1 − β₂^a)/(1 − β₂^T))

    with T the optimizer's step count: what Adam would do that counts from the regrowth, under a linear warm-up of W
    steps (SMET, Xiao et al. 2026, arXiv 2606.00888). Of other optimizers, steps are multiplied by a/W alone.

    While a parameter has regrown weights in their first W steps, it is copied in every step.

    Args:
        weights: the prunable weights.
        owner: gives the optimizer that steps a parameter, by name.
    """

    def __init__(self, weights: MaskedWeights, owner: Callable[[str], Optimizer]) -> None:
        self._weights, self._owner = weights, owner
        self._age: dict[str, Tensor] = {}
        self._left: dict[str, int] = {}
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def flip(self, name: str, opened: Tensor, live: Tensor) -> None:
        """Begin the ramp of what a change of masks opened, and end that of what it closed.

        Args:
            name: of the parameter.
            opened: boolean, true where a weight was regrown just now.
            live: boolean, true where a weight is open now.
        """
        known = self._age.get(name)
        if known is None and not bool(opened.any()):
            return
        age = torch.zeros(live.shape, dtype=torch.uint8, device=live.device) if known is None else known
        age.masked_fill_(~live, 0).masked_fill_(opened, 1)
        self._age[name], self._left[name] = age, RAMP

    @torch.no_grad()
    def before_step(self, names: Iterable[str]) -> None:
        """Keep the values of parameters with young weights."""
        for name in names:
            if name in self._age:
                self._before[name] = self._weights.params[name].detach().clone()

    @torch.no_grad()
    def after_step(self, names: Iterable[str]) -> None:
        """Shorten the steps of young weights, which are then a step older."""
        for name in names:
            before = self._before.pop(name, None)
            age = self._age.get(name)
            if before is None or age is None:
                continue
            p = self._weights.params[name].detach()
            factor = self._factors(name).to(p)[age.to(p.device, torch.int64)]
            p.copy_(torch.where(age.to(p.device) > 0, before + (p - before) * factor, p))
            age.add_(age > 0).masked_fill_(age > RAMP, 0)
            self._left[name] -= 1
            if not self._left[name]:
                del self._age[name], self._left[name]

    def _factors(self, name: str) -> Tensor:
        """Of the steps of weights by age; of age 0, which stands for all others, 1."""
        optimizer, p = self._owner(name), self._weights.params[name]
        found = torch.ones(RAMP + 1, dtype=torch.float64)
        found[1:] = torch.arange(1, RAMP + 1) / RAMP
        state = optimizer.state.get(p, {})
        group = next(group for group in optimizer.param_groups if any(q is p for q in group["params"]))
        if "betas" in group and {"exp_avg", "exp_avg_sq", "step"} <= state.keys():
            ages, steps = torch.arange(1, RAMP + 1, dtype=torch.float64), float(state["step"])
            first, second = (float(beta) for beta in group["betas"])
            found[1:] *= (1 - first**steps) / (1 - first**ages) * ((1 - second**ages) / (1 - second**steps)).sqrt()
        return found

    def drop(self, names: Iterable[str]) -> None:
        """Forget parameters that are gone or have another shape."""
        for name in names:
            for held in (self._age, self._left, self._before):
                held.pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """Ages of young weights, and for how many steps there are any."""
        return {"age": {name: age.clone() for name, age in self._age.items()}, "left": dict(self._left)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        params = self._weights.params
        self._age = {name: age.to(params[name].device, copy=True) for name, age in state["age"].items()}
        self._left = dict(state["left"])
