"""What every layer of a net makes of the same samples: the input of most analyses here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import (
    canonical_name,
    evaluating,
    has_channels_first,
    is_activation,
    is_embedding,
    is_norm,
    tensors_in,
)


@dataclass(frozen=True)
class Representations:
    """Activations of all samples, in float32 at least, on the host."""

    layers: Mapping[str, Tensor]
    """``(n, units)`` by the name of the layer, in the order of the forward pass: after the activation function, if a
    module of that follows; the whole output of attention. Of images all positions, of sequences the last one."""
    features: Tensor | None
    """``(n, d)``: the inputs of the last linear layer; ``None`` if there is none."""
    head: str | None
    """Name of the last linear layer."""
    outputs: Tensor
    """``(n, K)``, of sequences at the last position."""


@torch.no_grad()
def represent(model: nn.Module, inputs: Tensor, *, rows: int = 512) -> Representations:
    """Run samples through a net in eval mode and keep what each layer gives; the training mode is left as it was.

    Args:
        model: takes one tensor of samples ``(n, …)`` and returns ``(n, K)`` or ``(n, positions, K)``.
        inputs: the samples.
        rows: samples in one forward pass.

    Returns:
        All layers that own a weight matrix, but embeddings and norms. A layer that does not give one row (or image, or
        sequence) for each sample is left out.

    Raises:
        ValueError: without samples.

    >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> found = represent(net, torch.ones(4, 3))
    >>> {name: tuple(x.shape) for name, x in found.layers.items()}, found.head
    ({'0': (4, 5), '2': (4, 2)}, '2')
    """
    if not len(inputs):
        raise ValueError("expected at least one sample, got none")
    parts: list[_Pass] = []
    with evaluating(model), _Pass.watching(model) as watch:
        for part in torch.split(inputs, rows):
            watch.begin(len(part))
            watch.outputs = _rows(next(tensors_in(model(part))), len(part), False)
            parts.append(watch.taken())
    names = [name for name in parts[0].layers if all(name in part.layers for part in parts)]
    features = [part.inputs[part.head] for part in parts if part.head in part.inputs]
    outputs = [part.outputs for part in parts if part.outputs is not None]
    return Representations(
        layers={name: torch.cat([part.layers[name] for part in parts]) for name in names},
        features=torch.cat(features) if len(features) == len(parts) else None,
        head=parts[0].head,
        outputs=torch.cat(outputs) if len(outputs) == len(parts) else torch.empty(len(inputs), 0),
    )


class _Pass:
    """What hooks saw of one forward pass."""

    def __init__(self) -> None:
        self.layers: dict[str, Tensor] = {}
        self.inputs: dict[str | None, Tensor] = {}
        self.head: str | None = None
        self.outputs: Tensor | None = None
        self._samples = 0
        self._open: tuple[str, torch.Size, bool] | None = None

    @classmethod
    @contextmanager
    def watching(cls, model: nn.Module) -> Iterator[_Pass]:
        watch, hooks = cls(), Hooks()
        inside: set[nn.Module] = set()
        try:
            for path, module in model.named_modules():
                name = canonical_name(path)
                if isinstance(module, nn.MultiheadAttention):
                    inside.update(module.modules())
                if isinstance(module, nn.Linear) and module not in inside:
                    hooks.before(module, watch._before(name))
                if _is_site(module) and (module not in inside or isinstance(module, nn.MultiheadAttention)):
                    hooks.after(module, watch._after(name))
                elif is_activation(module):
                    hooks.after(module, lambda _m, _a, output: watch._activation(output))
            yield watch
        finally:
            hooks.remove()

    def begin(self, samples: int) -> None:
        self.layers, self.inputs, self.outputs, self.head = {}, {}, None, None
        self._samples, self._open = samples, None

    def taken(self) -> _Pass:
        copy = _Pass()
        copy.layers, copy.inputs, copy.head, copy.outputs = self.layers, self.inputs, self.head, self.outputs
        return copy

    def _before(self, name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
            x = next(tensors_in(args), None)
            rows = None if x is None else _rows(x, self._samples, False)
            self.head = name
            if rows is not None:
                self.inputs = {name: rows}

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            x = next(tensors_in(output), None)
            if x is None or not x.is_floating_point():
                return
            if getattr(module, "batch_first", True) is False and x.ndim == 3:
                x = x.transpose(0, 1)
            first = has_channels_first(module)
            self._keep(name, x, first)
            attention = isinstance(module, nn.MultiheadAttention)
            self._open = None if attention else (name, x.shape, first)

        return hook

    def _activation(self, output: Any) -> None:
        x = next(tensors_in(output), None)
        if self._open is not None and x is not None and x.shape == self._open[1]:
            self._keep(self._open[0], x, self._open[2])
        self._open = None

    def _keep(self, name: str, x: Tensor, channels_first: bool) -> None:
        rows = _rows(x, self._samples, channels_first)
        if rows is not None:
            self.layers.pop(name, None)  # of a layer that is used twice, the last use, in its place
            self.layers[name] = rows


def _is_site(module: nn.Module) -> bool:
    if is_norm(module) or is_embedding(module):
        return False
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return True
    return any(p.ndim >= 2 for p in module.parameters(recurse=False))


def _rows(x: Tensor, samples: int, channels_first: bool) -> Tensor | None:
    """One row for each sample; ``None`` where there is no such thing."""
    if x.ndim < 2 or len(x) != samples:
        return None
    if x.ndim == 3 and not channels_first:
        x = x[:, -1]
    return x.detach().flatten(1).to("cpu", torch.promote_types(x.dtype, torch.float32)).clone()
