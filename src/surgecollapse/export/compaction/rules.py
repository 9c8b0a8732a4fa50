"""What each operation does to units: one rule for each kind; what has no rule pins the units that it reads."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from surgecollapse.export.compaction.channel_groups import Units
from surgecollapse.export.compaction.layers import (
    batch_norm,
    convolution,
    depthwise,
    functional_pool,
    linear,
    pool,
    prelu,
)
from surgecollapse.export.compaction.node_context import NodeContext, evaluate, shape_of
from surgecollapse.export.compaction.views import (
    REDUCTIONS,
    RESHAPES,
    cat,
    getitem,
    permute,
    reduction,
    reshape,
    transpose,
    unsqueeze,
)

_Rule = Callable[[NodeContext], Units | None]
_MODULES = (
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish ReLU ReLU6 SELU SiLU Sigmoid "
    "Softplus Softshrink Softsign Tanh Tanhshrink Threshold"
)
ELEMENTWISE = frozenset(getattr(nn, name) for name in _MODULES.split())
SAME = frozenset({nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout})
POOLS = frozenset(
    getattr(nn, f"{kind}Pool{rank}d") for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for rank in (1, 2, 3)
)
_FUNCTIONS = (
    "abs celu clamp clamp_max clamp_min cos elu erf exp expm1 gelu hardshrink hardsigmoid hardswish hardtanh "
    "leaky_relu log1p logsigmoid mish neg relu relu6 rsqrt selu sigmoid sign silu sin softplus softsign sqrt "
    "square tanh"
)
_NAMES = {*_FUNCTIONS.split(), *(f"{name}_" for name in _FUNCTIONS.split())}
_CALLABLES = {getattr(home, name) for name in _NAMES for home in (F, torch) if hasattr(home, name)} | {operator.neg}
_CASTS = {"float", "double"}
_METHODS = _NAMES | _CASTS
_COPIES = {"contiguous", "clone", "detach"}
_ARITHMETIC: dict[Any, Callable[[Any, Any], Any]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), operator.add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), operator.sub),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), operator.mul),
    **dict.fromkeys((operator.truediv, torch.div, "div", "div_"), operator.truediv),
}


def apply(context: NodeContext) -> Units | None:
    """Follow units through one operation; ``None`` if it gives no units that could be cut."""
    rule = module_rule(context.module) if context.module is not None else _function_rule(context.node)
    return None if rule is None else rule(context)


def module_rule(module: nn.Module) -> _Rule | None:
    """The rule of a module by its exact type: a subclass may compute anything."""
    kind = type(module)
    if kind is nn.Linear:
        return linear
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        if module.groups == 1:
            return convolution
        return depthwise if module.groups == module.in_channels == module.out_channels else None
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return batch_norm
    if kind is nn.PReLU:
        return prelu
    if kind in POOLS:
        return pool
    if kind is nn.Flatten:
        return reshape
    return _same if kind in SAME else _elementwise_module if kind in ELEMENTWISE else None


def _function_rule(node: fx.Node) -> _Rule | None:
    target: Any = node.target
    named: dict[Any, _Rule]
    if node.op == "call_method":
        if target in _COPIES:
            return _same
        named = {"transpose": transpose, "permute": permute, "unsqueeze": unsqueeze}
    else:
        named = {torch.transpose: transpose, torch.permute: permute, torch.unsqueeze: unsqueeze}
        named |= {torch.cat: cat, operator.getitem: getitem, F.dropout: _functional_dropout}
        named |= {getattr(F, f"{kind}_pool{n}d"): functional_pool for kind in ("max", "avg") for n in (1, 2, 3)}
        named |= {getattr(F, f"adaptive_avg_pool{n}d"): functional_pool for n in (1, 2, 3)}
    if target in RESHAPES:
        return reshape
    if target in _ARITHMETIC:
        return _arithmetic
    if target in REDUCTIONS:
        return reduction
    if target in (_METHODS if node.op == "call_method" else _CALLABLES):
        return _elementwise_function
    return named.get(target)


def gives_new_memory(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether what a node that is not in place gives shares no memory with what it reads, as far as is known."""
    if module is not None:
        fresh = (
            nn.Linear,
            nn.modules.conv._ConvNd,
            nn.modules.batchnorm._NormBase,
            nn.LayerNorm,
            nn.MultiheadAttention,
        )
        return isinstance(module, fresh) or type(module) in POOLS | ELEMENTWISE | {nn.PReLU}
    computes = _function_rule(node) in (_arithmetic, _elementwise_function, reduction, cat, functional_pool)
    return computes and node.target not in _CASTS


def _same(context: NodeContext) -> Units | None:
    return context.units() if context.plain and not context.node.kwargs else None


def _elementwise_module(context: NodeContext) -> Units | None:
    units, module = context.units(), context.module
    assert module is not None
    return None if units is None or not context.plain else evaluate(units, module)


def _elementwise_function(context: NodeContext) -> Units | None:
    units, node = context.units(), context.node
    if units is None or not context.plain:
        return None
    if node.op == "call_method":
        return evaluate(units, lambda value: getattr(value, str(node.target))(*node.args[1:], **node.kwargs))
    function: Any = node.target
    return evaluate(units, lambda value: function(value, *node.args[1:], **node.kwargs))


def _functional_dropout(context: NodeContext) -> Units | None:
    training = context.node.kwargs.get("training", True if len(context.args) < 3 else context.args[2])
    return context.units() if context.plain and training is False else None


def _arithmetic(context: NodeContext) -> Units | None:
    """Sums, products and quotients, unit by unit."""
    if len(context.args) != 2 or context.node.kwargs:
        return None
    function = _ARITHMETIC[context.node.target]
    first, second = context.units(0), context.units(1)
    rank = len(shape_of(context.node))
    places = [
        units.axis - len(context.shape(index)) for index, units in enumerate((first, second)) if units is not None
    ]
    if not places or len(set(places)) > 1:
        return None
    axis = rank + places[0]
    if first is not None and second is not None:
        if len(first.ids) != len(second.ids):
            return None
        context.groups.tie(first.ids, second.ids)
        ids, constants = first.ids, (first.constant, second.constant)
    else:
        units, other = (first, 1) if first is not None else (second, 0)
        assert units is not None
        constant = _other_operand(context, other, places[0])
        if constant is None:
            return None
        pair = (units.constant, constant.expand(len(units.ids)))
        ids, constants = units.ids, pair if other else (pair[1], pair[0])
    value = function(*constants)
    if function is operator.mul:
        value = torch.where((constants[0] == 0) | (constants[1] == 0), 0.0, value)
    return Units(axis, ids, value)


def _other_operand(context: NodeContext, index: int, place: int) -> Tensor | None:
    """The value of an operand without units, NaN if not known; ``None`` if it has a value of its own for each unit."""
    other = context.arg(index)
    if isinstance(other, int | float):
        return torch.tensor(float(other), dtype=torch.float64)
    shape = context.shape(index)
    if len(shape) >= -place and shape[place] != 1:
        return None
    return torch.tensor(torch.nan, dtype=torch.float64)
