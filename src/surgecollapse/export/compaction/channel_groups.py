"""Units on their way through a model: which tensors carry them, which are constant, and who reads them.

A *unit* is a neuron or a channel: one index of a layer's output. Tensors that are added, multiplied or normalized unit
by unit carry the same units. So a skip connection ties the channels of both of its sides into one unit.

* Forward, in the order of the graph: a unit is *constant* at a place if all its varying inputs have zero weights. Its
  value there is act(b + Σ w·c) over its constant inputs c.
* Backward, to a fixed point: a unit *matters* if an operation reads it that no unit can be cut from. Examples are an
  output of the model, a LayerNorm and a softmax. It also matters if a unit that matters has a weight other than zero on
  it. That counts where its value is not a constant that the reader's bias can hold.

What does not matter can be cut, and its constants go into the biases of its readers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Units:
    """The units along one axis of a tensor."""

    axis: int
    ids: Tensor
    """Number of the unit at each index (size,); after a flatten one unit has many."""
    constant: Tensor
    """Its value at this place in float64 (size,), NaN where it varies."""


@dataclass(eq=False)
class LayerUse:
    """A linear layer or convolution: the units that it reads and those that it makes."""

    name: str
    module: nn.Module
    reads: Tensor | None
    """Ids (in,); ``None`` where it reads what is no unit, such as the model's input."""
    makes: Tensor
    """Ids (out,)."""
    nonzero: Tensor
    """Whether unit o has a weight on input j (out, in)."""
    constant: Tensor
    """Values of the inputs that the bias can hold (in,), float64; NaN for the others."""

    @property
    def foldable(self) -> Tensor:
        """Inputs whose constant the bias can hold (in,)."""
        return ~self.constant.isnan()

    def shift(self, inputs: Tensor) -> Tensor:
        """What these inputs (in,), as far as they are foldable, add to each output (out,), float64."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return added(weight.detach().cpu(), self.constant, inputs & self.foldable)


@dataclass
class ChannelGroups:
    """What following the units through a graph has found."""

    layers: list[LayerUse] = field(default_factory=list)
    channelwise: dict[nn.Module, tuple[str, Tensor]] = field(default_factory=dict)
    """Modules with parameters for each unit (batch norm, PReLU, depthwise convolutions): name and ids."""
    parent: list[int] = field(default_factory=list)
    pins: dict[int, str] = field(default_factory=dict)
    """Units that must stay, with the reason."""

    def fresh(self, number: int) -> Tensor:
        """Number new units."""
        start = len(self.parent)
        self.parent.extend(range(start, start + number))
        return torch.arange(start, start + number)

    def root(self, unit: int) -> int:
        """The unit that stands for all that are tied to this one."""
        while self.parent[unit] != unit:
            self.parent[unit] = self.parent[self.parent[unit]]
            unit = self.parent[unit]
        return unit

    def tie(self, first: Tensor, second: Tensor) -> None:
        """Make units one, pair by pair: they can only be cut together."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self.root(a), self.root(b)
            if a != b:
                self.parent[max(a, b)] = min(a, b)

    def pin(self, units: Units | None, reason: str) -> None:
        """Say that units must stay."""
        if units is not None:
            for unit in units.ids.tolist():
                self.pins.setdefault(unit, reason)

    def layer(
        self, name: str, module: nn.Module, weight: Tensor, bias: Tensor | None, read: Units | None, *, uniform: bool
    ) -> tuple[Tensor, Tensor]:
        """Enter a layer.

        Args:
            name: of the module.
            module: the module.
            weight: (out, in, …).
            bias: (out,) or none.
            read: units on its input axis.
            uniform: whether a constant input gives the same sum at every place; not so with zero padding.

        Returns:
            The new units: ids and constants.
        """
        nonzero = (weight != 0).flatten(2).any(2) if weight.ndim > 2 else weight != 0
        given = read.constant if read is not None else torch.full((weight.shape[1],), torch.nan, dtype=torch.float64)
        if not uniform:
            given = torch.where(given == 0, given, torch.nan)
        foldable = ~given.isnan()
        start = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        value = start + added(weight, given, foldable)
        constant = torch.where((nonzero & ~foldable).any(1), torch.nan, value)
        makes = self.fresh(len(weight))
        reads = None if read is None else read.ids
        self.layers.append(LayerUse(name, module, reads, makes, nonzero, given))
        return makes, constant

    def roots(self) -> Tensor:
        """The root of every unit."""
        return torch.tensor([self.root(unit) for unit in range(len(self.parent))], dtype=torch.int64)

    def mattering(self, roots: Tensor) -> Tensor:
        """Whether each unit matters, looked up by root: the least fixed point from what is pinned."""
        matters = torch.zeros(len(roots), dtype=torch.bool)
        matters[roots[torch.tensor(list(self.pins), dtype=torch.int64)]] = True
        changed = True
        while changed:
            before = int(matters.sum())
            for layer in reversed(self.layers):
                if layer.reads is not None:
                    needs = layer.nonzero[matters[roots[layer.makes]]].any(0) & ~layer.foldable
                    matters[roots[layer.reads[needs]]] = True
            changed = int(matters.sum()) > before
        return matters

    def reason(self, roots: Tensor, units: Tensor) -> str:
        """Why the first unit of these that must stay must do so; empty if none must."""
        pinned = {int(roots[unit]): reason for unit, reason in reversed(self.pins.items())}
        return next((pinned[root] for root in roots[units].tolist() if root in pinned), "")


def added(weight: Tensor, constant: Tensor, inputs: Tensor) -> Tensor:
    """Σ_j W_ij·c_j over some inputs, with the sums of kernels, in float64."""
    chosen = weight[:, inputs].double()
    return (chosen.flatten(2).sum(2) if chosen.ndim > 2 else chosen) @ constant[inputs]
