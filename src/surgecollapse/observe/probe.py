"""The probe batch: a fixed set of inputs on which the net can be looked at without disturbing training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

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


def _addresses(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


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

    def forward(self, model: nn.Module) -> Any:
        """Pass the probe through ``model`` in eval mode, without gradient, leaving no trace."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        # Without the cache: it may hold weights from before they changed, and would keep some without gradient.
        autocast = torch.autocast(
            device.type, dtype=self._autocast, enabled=self._autocast is not None, cache_enabled=False
        )
        with undisturbed(model), autocast:
            args, kwargs = self.arguments(model)
            return model(*args, **kwargs)

    def arguments(self, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The batch as positional and keyword arguments, on the device of ``model``; not to be changed."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        args, kwargs = map_tensors((self._args, self._kwargs), lambda tensor: tensor.to(device))
        return tuple(args), kwargs

    def output_layers(self, model: nn.Module) -> tuple[str, ...]:
        """Find the layers that produce the model's output.

        These are the single-weight layers (linear, convolution) whose output shares memory with an output of the
        model, and the last one to run.

        Returns:
            Canonical module names, possibly none (a model without such a layer).
        """
        order: list[tuple[str, list[Tensor]]] = []  # holds every output: a freed address would be used again
        hooks = Hooks()
        for path, module in model.named_modules():
            weight, name = getattr(module, "weight", None), canonical_name(path)
            if isinstance(weight, Tensor) and not (is_norm(module) or is_embedding(module)):
                hooks.after(module, lambda _m, _a, out, name=name: order.append((name, list(tensors_in(out)))))
        try:
            results = _addresses(tensors_in(self.forward(model)))
        finally:
            hooks.remove()
        last = [name for name, _ in order[-1:]]
        return tuple(dict.fromkeys([*last, *(name for name, out in order if _addresses(out) & results)]))

    def state_dict(self) -> dict[str, Any]:
        """The batch itself: resumed readings must see the same rows."""
        return {"known": self.known, "args": self._args, "kwargs": self._kwargs, "autocast": self._autocast}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the batch."""
        self.known, self._autocast = state["known"], state["autocast"]
        self._args, self._kwargs = _copy(list(state["args"])), _copy(dict(state["kwargs"]))
