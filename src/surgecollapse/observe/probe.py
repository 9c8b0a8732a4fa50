"""The probe batch: a fixed set of inputs on which the net can be looked at without disturbing training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.modules import Hooks, canonical_name, is_embedding, is_norm, tensors_in, undisturbed

PROBE_ROWS = 64


def _first_rows(value: Any, batch: int, rows: int) -> Any:
    """Copy nested inputs, keeping the first ``rows`` of every tensor whose first axis is the batch."""
    if isinstance(value, Tensor):
        cut = value[:rows] if value.ndim and value.shape[0] == batch else value
        return cut.detach().clone()
    if isinstance(value, Mapping):
        return {key: _first_rows(item, batch, rows) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_first_rows(item, batch, rows) for item in value]
    return value


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [_to(item, device) for item in value]
    return value


class Probe:
    """Holds the probe batch and passes it through the model undisturbed.

    Args:
        batch: a tensor (the one argument), a tuple or list (positional arguments) or a mapping (keyword arguments),
            as the model is called. ``None``: the first :data:`PROBE_ROWS` rows of the first batch seen are kept.
    """

    def __init__(self, batch: Any = None) -> None:
        self._args: list[Any] = []
        self._kwargs: dict[str, Any] = {}
        self.known = batch is not None
        if isinstance(batch, Mapping):
            self._kwargs = dict(batch)
        elif isinstance(batch, tuple | list):
            self._args = list(batch)
        elif isinstance(batch, Tensor):
            self._args = [batch]
        elif batch is not None:
            raise TypeError(
                f"probe must be a tensor, a tuple of arguments or a dict of them, got {type(batch).__name__}"
            )

    def capture(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Keep copies of the first rows of a batch, unless a probe is known already."""
        if self.known:
            return
        first = next(tensors_in([*args, dict(kwargs)]), None)
        batch = first.shape[0] if first is not None and first.ndim else 0
        self._args = _first_rows(list(args), batch, PROBE_ROWS)
        self._kwargs = _first_rows(dict(kwargs), batch, PROBE_ROWS)
        self.known = True

    def forward(self, model: nn.Module) -> Any:
        """Pass the probe through ``model`` in eval mode, without gradient, leaving no trace."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with undisturbed(model):
            return model(*_to(self._args, device), **_to(self._kwargs, device))

    def output_layers(self, model: nn.Module) -> tuple[str, ...]:
        """Find the layers that produce the model's output.

        These are the single-weight layers (linear, convolution) whose output shares memory with an output of the
        model, and the last one to run.

        Returns:
            Canonical module names, possibly none (a model without such a layer).
        """
        storages: dict[str, set[int]] = {}
        order: list[str] = []
        hooks = Hooks()

        def note(name: str, output: Any) -> None:
            storages.setdefault(name, set()).update(t.untyped_storage().data_ptr() for t in tensors_in(output))
            order.append(name)

        for path, module in model.named_modules():
            weight, name = getattr(module, "weight", None), canonical_name(path)
            if isinstance(weight, nn.Parameter) and not (is_norm(module) or is_embedding(module)):
                hooks.after(module, lambda _m, _a, out, name=name: note(name, out))
        kept: list[Tensor] = []  # keeps outputs alive, so that no address is used twice
        hooks.after(model, lambda _m, _a, out: kept.extend(tensors_in(out)))
        try:
            self.forward(model)
        finally:
            hooks.remove()
        results = {t.untyped_storage().data_ptr() for t in kept}
        last = order[-1:]
        return tuple(dict.fromkeys([*last, *(name for name in order if storages[name] & results)]))

    def state_dict(self) -> dict[str, Any]:
        """The batch itself: resumed readings must see the same rows."""
        return {"known": self.known, "args": self._args, "kwargs": self._kwargs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the batch."""
        self.known, self._args, self._kwargs = state["known"], list(state["args"]), dict(state["kwargs"])
