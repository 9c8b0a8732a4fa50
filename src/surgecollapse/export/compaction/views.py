"""Rules of operations that move, merge, choose or join axes."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from surgecollapse.export.compaction.channel_groups import Units
from surgecollapse.export.compaction.node_context import NodeContext, shape_of, zeros_only

REDUCTIONS = {torch.mean: "mean", torch.sum: "sum", torch.amax: "amax", torch.amin: "amin"} | {
    name: name for name in ("mean", "sum", "amax", "amin")
}
RESHAPES = frozenset({torch.flatten, "flatten", torch.reshape, "reshape", "view"})


def reduction(context: NodeContext) -> Units | None:
    """Means, sums and extremes over other axes."""
    units = context.units()
    options: dict[str, Any] = dict(context.node.kwargs)
    axes = options.pop("dim", context.arg(1))
    keep = options.pop("keepdim", context.arg(2) or False)
    rank = len(context.shape())
    if units is None or not context.plain or options or axes is None or len(context.args) > 3:
        return None
    gone = {axis % rank for axis in ((axes,) if isinstance(axes, int) else axes)}
    if units.axis in gone:
        return None
    axis = units.axis if keep else units.axis - sum(axis < units.axis for axis in gone)
    found = Units(axis, units.ids, units.constant)
    return zeros_only(found) if REDUCTIONS[context.node.target] == "sum" else found


def cat(context: NodeContext) -> Units | None:
    """Parts side by side on the axis of their units."""
    parts = context.arg(0)
    options: dict[str, Any] = dict(context.node.kwargs)
    dim = options.pop("dim", context.arg(1) or 0)
    if options or not isinstance(parts, tuple | list) or not all(isinstance(part, fx.Node) for part in parts):
        return None
    rank = len(shape_of(context.node))
    found = []
    for part in parts:
        units = context.values[part]
        if units is None:
            size = shape_of(part)[dim % rank]
            units = Units(dim % rank, context.groups.fresh(size), torch.full((size,), torch.nan, dtype=torch.float64))
            context.groups.pin(units, f"{part.name} has no units")
        if units.axis != dim % rank:
            return None
        found.append(units)
    ids, constants = torch.cat([units.ids for units in found]), torch.cat([units.constant for units in found])
    return Units(dim % rank, ids, constants)


def transpose(context: NodeContext) -> Units | None:
    """Two axes change places."""
    rank, axes = len(context.shape()), context.args[1:]
    if len(axes) != 2 or not all(isinstance(axis, int) for axis in axes):
        return None
    order = list(range(rank))
    first, second = (axis % rank for axis in axes)
    order[first], order[second] = second, first
    return _reordered(context, order)


def permute(context: NodeContext) -> Units | None:
    """A new order of axes."""
    axes: Any = context.args[1:]
    axes = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
    if not axes or not all(isinstance(axis, int) for axis in axes):
        return None
    return _reordered(context, [axis % len(axes) for axis in axes])


def _reordered(context: NodeContext, order: list[int]) -> Units | None:
    units = context.units()
    if units is None or context.node.kwargs:
        return None
    return Units(order.index(units.axis), units.ids, units.constant)


def unsqueeze(context: NodeContext) -> Units | None:
    """A new axis of size one."""
    units, axis, rank = context.units(), context.arg(1), len(context.shape())
    if units is None or not isinstance(axis, int):
        return None
    return Units(units.axis + (axis % (rank + 1) <= units.axis), units.ids, units.constant)


def getitem(context: NodeContext) -> Units | None:
    """Places and slices of other axes."""
    units, index = context.units(), context.arg(1)
    if units is None:
        return None
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in items:
        at = items.index(Ellipsis)
        missing = len(context.shape()) - sum(item is not None for item in items) + 1
        items[at : at + 1] = [slice(None)] * missing
    source, axis = 0, 0
    for item in items:
        if source == units.axis and item is not None:
            if item != slice(None):
                return None
            break
        if isinstance(item, int) or item is None or isinstance(item, slice):
            source += item is not None
            axis += not isinstance(item, int)
        else:
            return None
    return Units(axis + units.axis - source, units.ids, units.constant)


def reshape(context: NodeContext) -> Units | None:
    """Views that keep the axis of the units, or merge it with others."""
    units, before, after = context.units(), context.shape(), shape_of(context.node)
    if units is None or not after:
        return None
    for axis in range(len(after)):
        start = next((at for at in range(units.axis + 1) if prod(before[:at]) == prod(after[:axis])), None)
        while start is not None and start <= units.axis:
            stop = next(
                (at for at in range(units.axis + 1, len(before) + 1) if prod(before[start:at]) == after[axis]), None
            )
            if stop is not None and prod(before[:start]) == prod(after[:axis]):
                return None if _fixes(context, axis) else _merged(units, before, start, stop, axis)
            start += 1
    return None


def _fixes(context: NodeContext, axis: int) -> bool:
    """Whether a view gives the size of this axis as a number, which would no longer be right."""
    if context.module is not None or context.node.target in ("flatten", torch.flatten):
        return False
    sizes: Any = context.args[1:] or (context.node.kwargs.get("shape", ()),)
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    return len(sizes) <= axis or (isinstance(sizes[axis], int) and sizes[axis] != -1)


def _merged(units: Units, before: tuple[int, ...], start: int, stop: int, axis: int) -> Units:
    shape = [1] * (stop - start)
    shape[units.axis - start] = len(units.ids)
    ids, constant = (part.view(shape).expand(before[start:stop]).flatten() for part in (units.ids, units.constant))
    return Units(axis, ids, constant)
