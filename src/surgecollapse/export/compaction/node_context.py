"""One operation of a traced model, with what is known of what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from surgecollapse.export.compaction.channel_groups import ChannelGroups, Units


@dataclass
class NodeContext:
    """A node with what is known of what it reads."""

    groups: ChannelGroups
    node: fx.Node
    module: nn.Module | None
    """For calls of a module."""
    values: Mapping[fx.Node, Units | None]

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return self.node.args

    def arg(self, index: int) -> Any:
        """A positional argument, or ``None``."""
        return self.args[index] if len(self.args) > index else None

    def units(self, index: int = 0) -> Units | None:
        """The units of a positional argument."""
        found = self.arg(index)
        return self.values[found] if isinstance(found, fx.Node) else None

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of a positional argument; empty if it is no tensor."""
        found = self.arg(index)
        return shape_of(found) if isinstance(found, fx.Node) else ()

    @property
    def plain(self) -> bool:
        """Whether nothing but the first argument is computed by the model."""
        return len(self.node.all_input_nodes) == 1 and isinstance(self.arg(0), fx.Node)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of what a node gives; empty for what is no tensor."""
    shape: tuple[int, ...] = node.meta.get("shape", ())
    return shape


def evaluate(units: Units, function: Callable[[Tensor], Tensor]) -> Units:
    """Constants through an elementwise function."""
    varies = units.constant.isnan()
    value = function(units.constant.nan_to_num()).double()
    return Units(units.axis, units.ids, torch.where(varies, torch.nan, value))


def zeros_only(units: Units) -> Units:
    """The units, of whose constants only zeros hold."""
    return Units(units.axis, units.ids, torch.where(units.constant == 0, units.constant, torch.nan))


def batched_channels(context: NodeContext, rank: int) -> bool:
    """Whether the input is (n, channels, …) with its units, if it has any, on the channels."""
    units = context.units()
    return context.plain and len(context.shape()) == rank + 2 and (units is None or units.axis == 1)


def module_name(node: fx.Node) -> str:
    """The name of a module, or parameter, in the model that was traced."""
    return str(node.target).removeprefix("inner").removeprefix(".")
