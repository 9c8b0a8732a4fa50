"""Operations that ask a tensor for facts without computing with it."""

from __future__ import annotations

import operator

from torch import fx

from surgecollapse.export.compaction.channel_groups import Units
from surgecollapse.export.compaction.node_context import shape_of
from surgecollapse.export.compaction.views import RESHAPES

_FACTS = {"dtype", "device", "ndim", "layout", "is_cuda", "requires_grad"}


def survives_cut(node: fx.Node, units: Units) -> bool:
    """Whether ``node`` asks only for what stays true when units are cut, or for sizes that only shape views."""
    if reads_metadata(node):
        return True
    rank = len(shape_of(node.all_input_nodes[0]))
    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        return node.args[1] in _others(units.axis, rank) or _shapes_views(node)
    sizes = node.target == "size" or (node.target is getattr and node.args[1] == "shape")
    return sizes and all(
        user.target is operator.getitem and (user.args[1] in _others(units.axis, rank) or _shapes_views(user))
        for user in node.users
    )


def reads_metadata(node: fx.Node) -> bool:
    """Whether a node asks a tensor only for its type, device or number of axes."""
    if node.op == "call_method":
        return node.target in ("dim", "ndimension", "is_floating_point", "element_size")
    return node.op == "call_function" and node.target is getattr and node.args[1] in _FACTS


def _others(axis: int, rank: int) -> list[int]:
    """The other axes, counted from either end."""
    return [index for index in range(-rank, rank) if index not in (axis, axis - rank)]


def _shapes_views(size: fx.Node) -> bool:
    """Whether a number goes nowhere but into the shapes of views, directly or times others."""
    return all(
        (user.target in RESHAPES and user.args[0] is not size) or (user.target is operator.mul and _shapes_views(user))
        for user in size.users
    )
