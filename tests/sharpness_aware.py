"""An optimizer that steps in two calls."""

from __future__ import annotations

import torch


class TwoCalls(torch.optim.Optimizer):
    """Sharpness-aware steps: up to the worst point nearby, back, and a step with its gradient."""

    def __init__(self, params, base, **options):
        super().__init__(params, {})
        self.base_optimizer = base(self.param_groups, **options)
        self.moved = {}

    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.moved[p] = 0.05 * p.grad / (p.grad.norm() + 1e-12)
                p.add_(self.moved[p])

    @torch.no_grad()
    def second_step(self):
        for p, change in self.moved.items():
            p.sub_(change)
        self.moved.clear()
        self.base_optimizer.step()

    def step(self, closure=None):
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()
