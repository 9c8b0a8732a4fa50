"""The dense gradient of prunable weights, masked ones too: the signal by which pruned weights are reopened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.torch_utils.chunking import on_pieces
from surgecollapse.torch_utils.shards import local, part_of, whole


class DenseGradient:
    """Exponential moving average of the dense gradient, taken before masking.

    mₜ = β·mₜ₋₁ + (1 − β)·gₜ with m₀ = 0. There is no bias correction: only the order of the magnitudes matters, and all
    entries share the factor. Entries that are not finite count as zero, so that a single inf never poisons the average.
    State is lazy per parameter (one that has no gradient yet has no average) and kept in float32 for low-precision
    weights.

    Args:
        decay: β in [0, 1); 0 keeps the last gradient alone.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.window = math.ceil(math.log(0.1) / math.log(decay)) if decay else 1
        """Steps that carry nine tenths of the average: only so many before a decision need be taken in."""
        self.values: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, params: Mapping[str, nn.Parameter]) -> None:
        """Take the gradients that the parameters hold now; never keeps a reference to one."""
        known: list[tuple[Tensor, Tensor]] = []
        for name, p in params.items():
            if p.grad is None:
                continue
            here, value = local(p.grad), self.values.get(name)
            if value is not None and value.device != here.device:  # the model was moved
                value = self.values[name] = value.to(here.device)
            if value is not None and value.shape == here.shape:
                known.append((value, here))
            else:
                grad = _finite(here)
                grad = grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad
                self.values[name] = grad.mul_(1.0 - self.decay)
        on_pieces(self._move, known)

    def _move(self, values: list[Tensor], grads: list[Tensor]) -> None:
        for value, grad in zip(values, grads, strict=True):
            value.lerp_(_finite(grad).to(value.dtype), 1.0 - self.decay)

    def clear(self) -> None:
        """Forget everything (the mask is final, or all weights are open)."""
        self.values.clear()

    def state_dict(self, params: Mapping[str, Tensor]) -> dict[str, Any]:
        """The averages; of sharded weights whole ones, gathered on every rank."""
        return {"values": {name: whole(params[name], value).clone() for name, value in self.values.items()}}

    def load_state_dict(self, state: Mapping[str, Any], params: Mapping[str, nn.Parameter]) -> None:
        """Restore the averages on the devices of ``params``."""
        self.values = {
            name: part_of(params[name], v).to(params[name].device, copy=True)
            for name, v in state["values"].items()
            if name in params
        }


def _finite(grad: Tensor) -> Tensor:
    return torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)
