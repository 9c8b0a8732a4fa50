"""Norms of the weights, the gradients and the updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgecollapse.observe.monitors.entries import Entries
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Number, Series


@monitor("norms")
class Norms:
    """Euclidean norms, by weight matrix and of all parameters together.

    Let w be the weights and g the gradients as the loop leaves them (after its own clipping, before transforms and
    masks). Let Δ be what the optimizer's last step changed, masks included::

        norm/weight        ‖w‖
        norm/gradient      ‖g‖
        norm/update        ‖Δ‖
        norm/update_ratio  ‖Δ‖/‖w‖

    Updates of tensors of more than 16,384 entries are estimated from so many, drawn once.

    When to use:
        Always. As a rule of thumb, an update ratio far above 1e-3 suggests a learning rate that is too high. Growing
        weight norms without weight decay precede softmax collapse.

    Cost:
        One pass over weights and gradients, and a copy of at most 16,384 entries of each tensor.

    Deviations:
        None.

    Source:
        Euclidean norms; the ratio of update to weight is common practice.
    """

    name = "norms"
    needs = ("gradients",)

    def __init__(self) -> None:
        self._entries = Entries()

    def prepare(self, context: MonitorContext) -> None:
        """Remember the weights before the step whose update is measured."""
        self._entries.keep(context.step, context.weights)

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Up to four numbers a weight matrix, and as many of all parameters."""
        weights = _norms(context.weights)
        found = {"norm/weight": weights, "norm/gradient": _norms(context.gradients)}
        before = self._entries.recall(context.step)
        names = [name for name in context.weights if name in before]
        if names:
            changes = {
                n: self._entries.sample(n, context.weights[n]) - before[n].to(context.weights[n].device) for n in names
            }
            scales = [(context.weights[n].numel() / max(1, changes[n].numel())) ** 0.5 for n in names]
            updates = _norms(changes, scales)
            found["norm/update"] = updates
            found["norm/update_ratio"] = {n: updates[n] / weights[n] for n in [*names, None]}
        shown = {None, *(name for name, weight in context.weights.items() if weight.ndim >= 2)}
        return {series: {n: v for n, v in norms.items() if n in shown} for series, norms in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The weights of the step before, between the two."""
        return self._entries.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._entries.load_state_dict(state)


def _norms(tensors: Mapping[str, Tensor], scales: Sequence[float] | None = None) -> dict[str | None, Number]:
    """Norms by name, and under ``None`` of all; at least in float32."""
    if not tensors:
        return {}
    names: dict[torch.dtype, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(torch.promote_types(tensor.dtype, torch.float32), []).append(name)
    each: dict[str, Tensor] = {}
    for dtype, group in names.items():
        each |= zip(group, torch._foreach_norm([tensors[name] for name in group], 2, dtype=dtype), strict=True)
    values = [each[name] for name in tensors]
    if scales is not None:
        values = [value * scale for value, scale in zip(values, scales, strict=True)]
    home = values[0].device
    total = torch.stack([value.to(home, torch.float64) for value in values]).norm()
    return {**dict(zip(tensors, values, strict=True)), None: total}
