"""Lion: steps of one size, along the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lion(Optimizer):
    """Lion: w ← (1 − ηλ)w − η·sign(β₁m + (1 − β₁)g), then m ← β₂m + (1 − β₂)g.

    Every entry moves by the rate η, or not at all where the sign is zero. So rates are 3 to 10 times smaller than those
    of AdamW.

    Args:
        params: parameters, or groups of them.
        lr: learning rate η.
        betas: β₁ of the step and β₂ of the momentum.
        weight_decay: decoupled decay λ.

    Raises:
        ValueError: for a rate, a decay or betas out of range.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    >>> weight.grad = torch.tensor([0.5, 0.0, -3.0])
    >>> Lion([weight], lr=0.25).step()
    >>> weight.tolist()
    [0.75, 1.0, 1.25]

    Source:
        Chen et al. 2023, arXiv 2302.06675, algorithm 2. No deviations.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"lr and weight_decay must not be negative and betas must be in [0, 1), got lr = {lr:g}, "
                f"weight_decay = {weight_decay:g}, betas = {betas}"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                momentum = self.state[param].setdefault("exp_avg", torch.zeros_like(param))
                update = momentum.mul(first).add_(param.grad, alpha=1 - first).sign_()
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update, alpha=-group["lr"])
                momentum.mul_(second).add_(param.grad, alpha=1 - second)
        return loss
