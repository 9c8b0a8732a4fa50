"""The probe batch: a fixed set of inputs on which the net can be looked at without disturbing training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from surgecollapse.observe.dataflow import trace_dataflow
from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.modules import (
    Hooks,
    canonical_name,
    is_embedding,
    is_norm,
    map_tensors,
    tensors_in,
    undisturbed,
)

PROBE_ROWS = 64


def _copy(value: Any) -> Any:
    return map_tensors(value, lambda tensor: tensor.detach().clone())


def _first_rows(value: Any, batch: int, rows: int) -> Any:
    """Copy nested inputs, keeping the first ``rows`` of every tensor whose first axis is the batch."""

    def cut(tensor: Tensor) -> Tensor:
        kept = tensor[:rows] if tensor.ndim and tensor.shape[0] == batch else tensor
        return kept.detach().clone()

    return map_tensors(value, cut)


class Probe:
    """Holds the probe batch and passes it through the model undisturbed.

    Args:
        batch: a tensor (the one argument), a tuple or list (positional arguments) or a mapping (keyword arguments),
            as the model is called. ``None``: the first :data:`PROBE_ROWS` rows of the first batch seen are kept.
    """

    def __init__(self, batch: Any = None) -> None:
        self._args: list[Any] = []
        self._kwargs: dict[str, Any] = {}
        self._autocast: torch.dtype | None = None
        self.known = batch is not None
        if isinstance(batch, Mapping):
            self._kwargs = _copy(dict(batch))
        elif isinstance(batch, tuple | list):
            self._args = _copy(list(batch))
        elif isinstance(batch, Tensor):
            self._args = _copy([batch])
        elif batch is not None:
            raise TypeError(
                f"probe must be a tensor, a tuple of arguments or a dict of them, got {type(batch).__name__}"
            )

    def capture(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Keep copies of the first rows of a batch, unless a probe is known already, and the autocast it ran under."""
        first = next(tensors_in([*args, dict(kwargs)]), None)
        kind = "cpu" if first is None else first.device.type
        self._autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if self.known:
            return
        # Of packed sequences no rows can be cut off: all are kept.
        packed = any(isinstance(value, PackedSequence) for value in [*args, *kwargs.values()])
        batch = first.shape[0] if first is not None and first.ndim and not packed else 0
        self._args = _first_rows(list(args), batch, PROBE_ROWS)
        self._kwargs = _first_rows(dict(kwargs), batch, PROBE_ROWS)
        self.known = True

    def forward(self, model: nn.Module, *, training: bool = False) -> Any:
        """Pass the probe through ``model``, without gradient, leaving no trace.

        Args:
            model: the unwrapped model.
            training: leave every module in its own mode, batch norms excepted; otherwise eval mode.
        """
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        # Without the cache: it may hold weights from before they changed, and would keep some without gradient.
        autocast = torch.autocast(
            device.type, dtype=self._autocast, enabled=self._autocast is not None, cache_enabled=False
        )
        with undisturbed(model, training=training), autocast:
            args, kwargs = self.arguments(model)
            return model(*args, **kwargs)

    def arguments(self, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The batch as positional and keyword arguments, on the device of ``model``; not to be changed."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        args, kwargs = map_tensors((self._args, self._kwargs), lambda tensor: tensor.to(device))
        return tuple(args), kwargs

    def dataflow(self, model: nn.Module) -> Dataflow:
        """Follow the probe through the model: which layers produce its output, which select, what multiplies.

        A model in training passes it in training mode, since some heads run in that alone (auxiliary classifiers);
        where that fails, in eval mode. Where nothing can be followed (an output that foreign code computes), the
        last layer that ran produces the output.
        """
        last: list[nn.Module] = []
        hooks = Hooks()
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.ndim >= 2 and not (is_norm(module) or is_embedding(module)):
                hooks.after(module, lambda m, _a, _out: last.__setitem__(slice(None), [m]))
        try:
            found = trace_dataflow(model, lambda: self.forward(model, training=model.training))
        finally:
            hooks.remove()
        if found.outputs or not last:
            return found
        own = {id(p) for key, p in last[0].named_parameters() if "." not in key or key.startswith("parametrizations.")}
        names = tuple(canonical_name(name) for name, p in model.named_parameters() if id(p) in own and p.ndim >= 2)
        return replace(found, outputs=names)

    def output_layers(self, model: nn.Module) -> tuple[str, ...]:
        """Canonical names of the modules that hold the weights of the output layers, see :meth:`dataflow`."""
        owners = (f".{name}".partition(".parametrizations.")[0] for name in self.dataflow(model).outputs)
        modules = {canonical_name(name) for name, _ in model.named_modules()}
        return tuple(dict.fromkeys(o[1:] if o[1:] in modules else o[1:].rpartition(".")[0] for o in owners))

    def state_dict(self) -> dict[str, Any]:
        """The batch itself: resumed readings must see the same rows."""
        return {"known": self.known, "args": self._args, "kwargs": self._kwargs, "autocast": self._autocast}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the batch."""
        self.known, self._autocast = state["known"], state["autocast"]
        self._args, self._kwargs = _copy(list(state["args"])), _copy(dict(state["kwargs"]))
