"""Follows units through one forward pass: from the weight that makes them to the one weight that takes them in.

Every torch function that the pass calls is seen, in modules or outside. Units are lost, and their layer left alone,
where something other than an elementwise function, a pooling or a flattening of channels gets them. Examples are a
residual sum, a concatenation, attention, and a second layer. So a connection that is found is the only one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from surgecollapse.functional import dormancy
from surgecollapse.protocols import UnitConnection
from surgecollapse.torch_utils.modules import is_transformed, tensors_in

_CONVOLUTIONS: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)
_LAYERS: tuple[Any, ...] = (F.linear, *_CONVOLUTIONS)
# fmt: off
_ELEMENTWISE = frozenset((
    "relu", "relu_", "relu6", "gelu", "silu", "mish", "tanh", "tanh_", "sigmoid", "sigmoid_", "elu", "elu_", "selu",
    "selu_", "celu", "leaky_relu", "leaky_relu_", "hardtanh", "hardswish", "hardsigmoid", "softplus",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "batch_norm",
    "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16",
))
# fmt: on
_POOLING = frozenset(
    f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg", "lp") for n in (1, 2, 3)
)
_RESHAPING = frozenset(("flatten", "reshape", "view"))


@dataclass(frozen=True, slots=True)
class _Units:
    """What a tensor of the pass carries."""

    incoming: str
    bias: str | None
    count: int
    axis: int
    """1: channels; -1: the last, ``columns`` entries of it a unit."""
    columns: int = 1


def follow_units(
    names: Mapping[int, str], weights: Sequence[str], forward: Callable[[], Any]
) -> tuple[list[UnitConnection], dict[str, str]]:
    """Pass the probe and find where the units of each weight go.

    Args:
        names: ``id`` → canonical name of every parameter.
        weights: names of the weights whose units are looked for.
        forward: passes the probe batch, eagerly and without gradient.

    Returns:
        The connections, in the order of ``weights``; and why there is none, for each of the other weights.
    """
    follower = _Follower(names)
    with follower:
        result = forward()
    follower.end(result)
    found = {name: connection for name, connection in follower.connections.items() if name not in follower.left}
    never = "is not applied as a linear layer or a convolution"
    unread = "has units that no layer takes in"
    left = {
        name: follower.left.get(name) or (unread if name in follower.uses else never)
        for name in weights
        if name not in found
    }
    return [found[name] for name in weights if name in found], left


class _Follower(TorchFunctionMode):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Marks the outputs of layers and sees who takes them."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        # Holds every marked tensor: the id of a freed one would be used again.
        self._marked: dict[int, tuple[Tensor, _Units]] = {}
        self.connections: dict[str, UnitConnection] = {}
        self.left: dict[str, str] = {}
        self.uses: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function as it is, and look at what went in and came out."""
        del types
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not is_transformed():
            self._look(func, args, kwargs, out)
        return out

    def end(self, result: Any) -> None:
        """Settle what only the whole pass shows: outputs of the model, and weights that were used twice."""
        for tensor in tensors_in(result):
            self._lose(tensor, "has units that are an output of the model")
        for name, count in self.uses.items():
            if count > 1:
                self.left[name] = "is used more than once in a pass"
        for name, connection in self.connections.items():
            if self.uses[connection.outgoing] > 1:
                self.left.setdefault(name, f"has units that go to {connection.outgoing}, which is used more than once")

    def _look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        carried = [tensor for tensor in tensors_in([args, kwargs]) if id(tensor) in self._marked]
        if func in _LAYERS:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
            self._layer(func, given["input"], given["weight"], given.get("bias"), groups, carried, out)
            return
        # Shapes and numbers may be asked for; what gives nothing back (an assignment to entries) writes.
        if not carried or (out is not None and next(tensors_in(out), None) is None):
            return
        name = getattr(func, "__name__", str(func))
        x = args[0] if args else None
        after = None
        if isinstance(x, Tensor) and isinstance(out, Tensor) and len(carried) == 1 and x is carried[0]:
            after = _carried_on(self._marked[id(x)][1], name, x, out)
            if after is not None:
                self._marked[id(out)] = (out, after)
        if after is None:
            for tensor in carried:
                self._lose(tensor, f"has units that go through {name}")

    def _layer(
        self, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, carried: list[Tensor], out: Tensor
    ) -> None:
        name = self._names.get(id(weight))
        axis = -1 if func is F.linear else 1
        for tensor in carried:
            units = self._marked[id(tensor)][1]
            if tensor is not x or name is None or groups != 1 or units.axis != axis:
                self._lose(tensor, f"has units that enter {name or 'a computed weight'} other than column by column")
            else:
                self._arrive(units, x, name)
        if name is None:
            return
        self.uses[name] = self.uses.get(name, 0) + 1
        if axis == -1 or out.ndim == weight.ndim:  # an unbatched image has its channels elsewhere
            self._marked[id(out)] = (out, _Units(name, self._names.get(id(bias)), weight.shape[0], axis))

    def _arrive(self, units: _Units, x: Tensor, outgoing: str) -> None:
        if units.incoming in self.connections:
            self.left[units.incoming] = "has units that go to more than one layer"
            return
        rows = x.movedim(units.axis, -1)
        rows = rows.reshape(-1, units.count, units.columns).transpose(1, 2).reshape(-1, units.count)
        self.connections[units.incoming] = UnitConnection(
            incoming=units.incoming,
            bias=units.bias,
            outgoing=outgoing,
            columns=units.columns,
            scores=dormancy(rows),
        )

    def _lose(self, tensor: Tensor, why: str) -> None:
        if id(tensor) in self._marked:
            self.left.setdefault(self._marked[id(tensor)][1].incoming, why)


def _carried_on(units: _Units, function: str, x: Tensor, out: Tensor) -> _Units | None:
    """How the result of a function carries the units of its input; ``None`` where it mixes or moves them."""
    if function in _ELEMENTWISE:
        return units if out.shape == x.shape else None
    if function in _POOLING:
        return units if units.axis == 1 and out.ndim == x.ndim and out.shape[:2] == x.shape[:2] else None
    if function not in _RESHAPING:
        return None
    if out.shape == x.shape:
        return units
    if units.axis == 1 and x.ndim > 2 and out.shape == (x.shape[0], prod(x.shape[1:])):
        return replace(units, axis=-1, columns=prod(x.shape[2:]))
    return units if units.axis == -1 and out.shape[-1] == x.shape[-1] else None
