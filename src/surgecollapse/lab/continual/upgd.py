"""Utility-based perturbed gradient descent: useful weights are protected, useless ones are perturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class UPGD(torch.optim.Optimizer):
    """Gradient descent with noise, where both are scaled by how useless a weight is (first order, global).

    Elsayed and Mahmood 2024 (ICLR, arXiv 2404.00781, algorithm 1). The utility of a weight is the loss that setting it
    to zero would add, to first order, as a moving average over steps. With the gradient g_t and ξ ~ N(0, σ²)::

        U_t = β·U_{t−1} − (1 − β)·g_t·w_t              Û_t = U_t/(1 − β^t)
        w_{t+1} = (1 − α·λ)·w_t − α·(g_t + ξ)·(1 − φ(Û_t/max Û_t))

    The maximum is over all weights, and φ is the logistic function.

    Deviations: where no weight has a positive utility, all have φ = 1/2.

    Args:
        params: weights.
        lr: α, above zero.
        beta: β, in [0, 1).
        sigma: σ of the noise, at least zero.
        weight_decay: λ, at least zero.
        generator: for the noise.

    Raises:
        ValueError: for an option out of range.

    >>> w = nn.Parameter(torch.tensor([-1.0, 0.0]))
    >>> optimizer = UPGD([w], lr=1.0, beta=0.5, sigma=0.0, generator=torch.Generator())
    >>> w.grad = torch.ones(2)
    >>> optimizer.step()  # Û is (1, 0): steps of 1 − φ(1) = 0.269 and 1 − φ(0) = 0.5
    >>> [round(value, 3) for value in w.tolist()]
    [-1.269, -0.5]
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        beta: float,
        sigma: float,
        weight_decay: float = 0.0,
        generator: torch.Generator,
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be above 0, got {lr:g}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {beta:g}")
        if not (sigma >= 0 and weight_decay >= 0):
            raise ValueError(f"sigma and weight_decay must be at least 0, got {sigma:g} and {weight_decay:g}")
        super().__init__(params, {"lr": lr, "beta": beta, "sigma": sigma, "weight_decay": weight_decay})
        self.generator = generator

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update utilities, then weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        utilities: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    utilities[p] = self._utility(p, p.grad, group["beta"])
        if not utilities:
            return loss
        greatest = torch.stack([utility.max() for utility in utilities.values()]).max()
        for group in self.param_groups:
            for p in group["params"]:
                if p in utilities:
                    share = utilities[p] / greatest if greatest > 0 else torch.zeros_like(p)
                    noise = torch.empty_like(p).normal_(generator=self.generator).mul_(group["sigma"])
                    change = (p.grad + noise) * (1 - torch.sigmoid(share))
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change, alpha=group["lr"])
        return loss

    def _utility(self, p: Tensor, grad: Tensor, beta: float) -> Tensor:
        """Û of one parameter, after this step's gradient."""
        state = self.state[p]
        if not state:
            state["step"], state["utility"] = 0, torch.zeros_like(p)
        state["step"] += 1
        utility: Tensor = state["utility"]
        utility.mul_(beta).sub_(grad * p, alpha=1 - beta)
        corrected: Tensor = utility / (1 - beta ** state["step"])
        return corrected
