"""How each layer stores its weight, so that patterns see output units as rows and inputs as columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn

from surgecollapse.act.roles import explain_parameters
from surgecollapse.functional import Pattern
from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.modules import canonical_name

Turn = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """Turns a weight of one shape into rows of output units, and a mask of it back.

    Attributes:
        shape: of the turned weight.
        steps: pairs of a view and the one that undoes it, in order.
    """

    shape: tuple[int, ...]
    steps: tuple[tuple[Turn, Turn], ...] = ()

    def into_rows(self, tensor: Tensor) -> Tensor:
        """The tensor with its output units in the first dimension."""
        for turn, _ in self.steps:
            tensor = turn(tensor)
        return tensor

    def back(self, tensor: Tensor) -> Tensor:
        """Undo :meth:`into_rows`; contiguous where anything was turned."""
        for _, undo in reversed(self.steps):
            tensor = undo(tensor)
        return tensor.contiguous() if self.steps else tensor


@dataclass(frozen=True, slots=True)
class Layouts:
    """The layouts of the prunable weights by name; a weight that is not named is stored by rows."""

    named: Mapping[str, Layout] = field(default_factory=dict)

    def of(self, name: str, shape: Sequence[int]) -> Layout:
        """The layout of one weight."""
        return self.named.get(name) or Layout(tuple(shape))

    def into_rows(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn each tensor of a weight's shape."""
        return {name: self.of(name, tensor.shape).into_rows(tensor) for name, tensor in tensors.items()}

    def back(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn each back."""
        return {name: self.of(name, tensor.shape).back(tensor) for name, tensor in tensors.items()}

    def shapes(self, params: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes of the turned weights."""
        return {name: self.of(name, p.shape).shape for name, p in params.items()}


def layouts_of(
    model: nn.Module, params: Mapping[str, Tensor], pattern: Pattern | None, dataflow: Dataflow | None
) -> Layouts:
    """Find how the layers store the weights that a pattern is for.

    Linear layers and convolutions store outputs by inputs. Transposed convolutions store inputs by outputs, group by
    group. So do the ``Conv1D`` of ``transformers``, and any matrix that was seen to multiply from the other side. A
    batch of experts is one matrix for each. With ``channels`` the columns of a convolution are its input channels.

    Args:
        model: the unwrapped model.
        params: the prunable weights.
        pattern: ``None``: nothing is turned.
        dataflow: what a forward pass showed.

    Raises:
        ValueError: if whole units of a recurrent layer are asked for: they lie in several weights.
    """
    if pattern is None:
        return Layouts()
    owners = _owners(model, params)
    if pattern.name == "unit":
        recurrent = sorted(n for n, (m, _) in owners.items() if isinstance(m, nn.RNNBase | nn.RNNCellBase))
        if recurrent:
            raise ValueError(
                "pattern 'unit' closes rows of a weight, but a hidden unit of a recurrent layer lies in the rows of "
                f"all its gates and weights ({', '.join(recurrent)}): leave these out with exclude=…, or choose "
                "'N:M' or 'block:RxC'"
            )
    roles = {row.name: row.role for row in explain_parameters(model, dataflow)}
    turned = () if dataflow is None else dataflow.transposed
    named = {
        name: layout
        for name, p in params.items()
        if (
            layout := _layout(
                tuple(p.shape),
                *owners[name],
                transposed=name in turned,
                experts=p.ndim == 3 and roles[name] in ("expert", "matrix"),
                channels=pattern.channels,
            )
        ).steps
    }
    return Layouts(named)


def _owners(model: nn.Module, params: Collection[str]) -> dict[str, tuple[nn.Module, str]]:
    """Each weight's layer and its own name there."""
    modules = {canonical_name(path): module for path, module in model.named_modules()}
    owners = {}
    for name in params:
        path, _, key = f".{name}".partition(".parametrizations.")
        owner, _, leaf = (path[1:], "", key.split(".")[0]) if key else name.rpartition(".")
        owners[name] = (modules[owner], leaf)
    return owners


def _layout(
    shape: tuple[int, ...], module: nn.Module, _leaf: str, *, transposed: bool, experts: bool, channels: bool
) -> Layout:
    steps: list[tuple[Turn, Turn]] = []
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        steps.append(_by_group(module.groups, *shape[:2]))
        shape = (shape[1] * module.groups, shape[0] // module.groups, *shape[2:])
    elif transposed or _stores_inputs_first(module):
        steps.append((_last_two_swapped, _last_two_swapped))
        shape = (*shape[:-2], shape[-1], shape[-2])
    if experts:
        steps.append((lambda x: x.flatten(0, 1), _unflattened(shape[:2])))
        shape = (shape[0] * shape[1], shape[2])
    if channels and len(shape) > 2:
        steps.append(_channels_last(shape))
        shape = (shape[0] * prod(shape[2:]), shape[1])
    return Layout(shape, tuple(steps))


def _stores_inputs_first(module: nn.Module) -> bool:
    """Whether a layer multiplies by its weight as it is, of (inputs, outputs): the ``Conv1D`` of ``transformers``."""
    own: Any = type(module).__name__ == "Conv1D"
    return bool(own or getattr(module, "is_transposed", False))


def _last_two_swapped(x: Tensor) -> Tensor:
    return x.transpose(-2, -1)


def _unflattened(sizes: Sequence[int]) -> Turn:
    rows, *rest = sizes
    return lambda x: x.reshape(rows, *rest, *x.shape[1:])


def _by_group(groups: int, inputs: int, outputs: int) -> tuple[Turn, Turn]:
    """From (inputs, outputs of a group, …) to (outputs, inputs of a group, …), and back."""
    return (
        lambda x: x.reshape(groups, inputs // groups, *x.shape[1:]).transpose(1, 2).flatten(0, 1),
        lambda x: x.reshape(groups, outputs, *x.shape[1:]).transpose(1, 2).flatten(0, 1),
    )


def _channels_last(shape: tuple[int, ...]) -> tuple[Turn, Turn]:
    """From (outputs, inputs, …) to (outputs and positions, inputs), and back."""
    outer = (shape[0], *shape[2:])
    return (lambda x: x.movedim(1, -1).flatten(0, -2), lambda x: x.reshape(*outer, x.shape[1]).movedim(-1, 1))
