"""A step count of their own for regrown weights, and a ramp of their first steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.torch_utils.shards import part_of, whole

RAMP = 10
"""Steps of the linear warm-up of a regrown weight, W."""
_SETTLED = 0.02
"""Share β₂^a of the bias correction at which a weight's own step count has done its work: 1% of its step."""


class RegrowthRamp:
    """A step count of their own for regrown weights, and small first steps.

    Adam corrects the bias of its moments by one step count for all weights. Take a weight whose moments were set to
    zero late in training. In its first step it moves by (1 − β₁)/√(1 − β₂) learning rates, 3.2 at the usual values. It
    moves by more than one for 1/(1 − β₂) steps. Here the a-th step of a regrown weight, a = 1, 2, …, is the optimizer's
    own times::

        min(1, a/W) · (1 − β₁^T)/(1 − β₁^a) · √((1 − β₂^a)/(1 − β₂^T))

    with T the optimizer's step count. An Adam that counts from the regrowth would do the same, under a linear warm-up
    of W steps (SMET, Xiao et al. 2026, arXiv 2606.00888; W is ours). It ends where β₂^a is 0.02. Of other optimizers,
    steps are multiplied by min(1, a/W) alone.

    While a parameter has such weights, it is copied in every step, and has a count of 4 bytes a weight.

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
        any_opened = self._weights.shards.anywhere(bool(opened.any()), opened.device)
        if known is None and not any_opened:
            return
        age = torch.zeros(live.shape, dtype=torch.int32, device=live.device) if known is None else known
        age.masked_fill_(~live, 0).masked_fill_(opened, 1)
        self._age[name] = age
        if any_opened:
            self._left[name] = self._last(name)

    @torch.no_grad()
    def before_step(self, names: Iterable[str]) -> None:
        """Keep the values of parameters with young weights."""
        for name in names:
            if name in self._age:
                self._before[name] = self._weights.value(name).clone()

    @torch.no_grad()
    def after_step(self, names: Iterable[str]) -> None:
        """Shorten the steps of young weights, which are then a step older."""
        for name in names:
            before = self._before.pop(name, None)
            age = self._age.get(name)
            if before is None or age is None:
                continue
            p = self._weights.value(name)
            factors = self._factors(name)
            factor = factors.to(p)[age.to(p.device, torch.int64)]
            p.copy_(torch.where(age.to(p.device) > 0, before + (p - before) * factor, p))
            age.add_(age > 0).masked_fill_(age >= len(factors), 0)
            self._left[name] -= 1
            if not self._left[name]:
                del self._age[name], self._left[name]

    def _betas(self, name: str) -> tuple[float, float] | None:
        """Those of Adam and its like; ``None`` for others."""
        optimizer, p = self._owner(name), self._weights.params[name]
        group = next(group for group in optimizer.param_groups if any(q is p for q in group["params"]))
        if "betas" in group and {"exp_avg", "exp_avg_sq", "step"} <= optimizer.state.get(p, {}).keys():
            return float(group["betas"][0]), float(group["betas"][1])
        return None

    def _last(self, name: str) -> int:
        """Greatest age of a weight whose steps are other than the optimizer's own."""
        betas = self._betas(name)
        return RAMP if not betas or not betas[1] else max(RAMP, math.ceil(math.log(_SETTLED) / math.log(betas[1])))

    def _factors(self, name: str) -> Tensor:
        """Of the steps of weights by age; of age 0, which stands for all others, 1."""
        ages = torch.arange(1, self._last(name) + 1, dtype=torch.float64)
        found, betas = (ages / RAMP).clamp_(max=1.0), self._betas(name)
        if betas is not None:
            steps = float(self._owner(name).state[self._weights.params[name]]["step"])
            first, second = betas
            found *= (1 - first**steps) / (1 - first**ages) * ((1 - second**ages) / (1 - second**steps)).sqrt()
        return torch.cat([torch.ones(1, dtype=torch.float64), found])

    def drop(self, names: Iterable[str]) -> None:
        """Forget parameters that are gone or have another shape."""
        for name in names:
            for held in (self._age, self._left, self._before):
                held.pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """Ages of young weights, and for how many steps there are any."""
        params = self._weights.params
        ages = {name: whole(params[name], age).clone() for name, age in self._age.items()}
        return {"age": ages, "left": dict(self._left)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        params = self._weights.params
        self._age = {n: part_of(params[n], age).to(params[n].device, copy=True) for n, age in state["age"].items()}
        self._left = dict(state["left"])
