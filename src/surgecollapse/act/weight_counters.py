"""Counters of each weight: its utility, and for how many steps it has had next to none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from surgecollapse.act.masked_weights import MaskedWeights


class WeightCounters:
    """What each open weight is worth, and since when it has been worth next to nothing.

    The utility of a weight is what setting it to zero would change of the loss, to first order, as a moving average
    over steps. A weight is idle where that is at most τ of the mean over the open weights of its parameter::

        u_t = η·u_{t−1} + (1 − η)·|g_t·w_t|
        c_t = c_{t−1} + 1   if u_t ≤ τ · mean_open(u_t),   else 0

    Both begin at zero when a weight is opened or renewed, so that c also bounds its age from below. Gradients are those
    that the optimizer sees. Entries that are not finite count as zero.

    Args:
        weights: the prunable weights.
        decay: η.
        tau: τ.
    """

    def __init__(self, weights: MaskedWeights, *, decay: float, tau: float) -> None:
        self._weights, self.decay, self.tau = weights, decay, tau
        self._utility: dict[str, Tensor] = {}
        self._idle: dict[str, Tensor] = {}

    @torch.no_grad()
    def before_step(self, names: Iterable[str]) -> None:
        """Count one step of the parameters that have a gradient."""
        for name in names:
            gradient, value = self._weights.grad(name), self._weights.value(name)
            if gradient is None:
                continue
            utility, idle = self._of(name, value)
            now = (gradient.float() * value.float()).abs_().nan_to_num_(0.0, 0.0, 0.0)
            utility.mul_(self.decay).add_(now, alpha=1 - self.decay)
            # Closed weights have a utility of zero.
            bound = utility.sum() * (self.tau / max(1, self._weights.live_in(name)))
            idle.add_(1).mul_(utility <= bound)

    def _of(self, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        known = self._utility.get(name)
        if known is None or known.shape != value.shape:
            self._utility[name] = torch.zeros_like(value, dtype=torch.float32, requires_grad=False)
            self._idle[name] = torch.zeros_like(value, dtype=torch.int32, requires_grad=False)
        elif known.device != value.device:
            self._utility[name], self._idle[name] = known.to(value.device), self._idle[name].to(value.device)
        return self._utility[name], self._idle[name]

    def utility(self, name: str) -> Tensor:
        """U of one parameter, in float32; not to be changed."""
        return self._of(name, self._weights.value(name))[0]

    def idle_for(self, name: str, steps: int) -> Tensor:
        """Boolean, true where a weight is open and has been idle for at least so many steps."""
        return (self._of(name, self._weights.value(name))[1] >= steps) & self._weights.mask(name)

    @torch.no_grad()
    def restart(self, name: str, chosen: Tensor) -> None:
        """Begin anew with the weights of one parameter that were closed, opened or renewed just now."""
        if name in self._utility:
            for counter in self._of(name, self._weights.value(name)):
                counter.masked_fill_(chosen, 0)

    def drop(self, names: Iterable[str]) -> None:
        """Forget parameters that are gone or have another shape."""
        for name in names:
            for held in (self._utility, self._idle):
                held.pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """Both counters, by name."""
        return {
            "utility": {name: values.clone() for name, values in self._utility.items()},
            "idle": {name: values.clone() for name, values in self._idle.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        params = self._weights.params
        self._utility = {n: v.to(params[n].device, copy=True) for n, v in state["utility"].items()}
        self._idle = {n: v.to(params[n].device, copy=True) for n, v in state["idle"].items()}
