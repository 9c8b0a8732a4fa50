"""Rules of modules with parameters, and of pooling."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse.export.compaction.channel_groups import Units
from surgecollapse.export.compaction.node_context import (
    NodeContext,
    batched_channels,
    evaluate,
    module_name,
    zeros_only,
)


def linear(context: NodeContext) -> Units | None:
    """A layer on the last axis."""
    linear, read, shape = context.module, context.units(), context.shape()
    assert isinstance(linear, nn.Linear)
    if not context.plain or (read is not None and read.axis != len(shape) - 1):
        return None
    ids, constant = context.groups.layer(
        module_name(context.node), linear, linear.weight.detach().cpu(), linear.bias, read, uniform=True
    )
    return Units(len(shape) - 1, ids, constant)


def convolution(context: NodeContext) -> Units | None:
    """A convolution without groups."""
    conv, read = context.module, context.units()
    assert isinstance(conv, nn.modules.conv._ConvNd)
    if not batched_channels(context, len(conv.kernel_size)):
        return None
    weight = conv.weight.detach().cpu()
    ids, constant = context.groups.layer(
        module_name(context.node), conv, weight, conv.bias, read, uniform=_uniform(conv)
    )
    return Units(1, ids, constant)


def depthwise(context: NodeContext) -> Units | None:
    """A convolution with a kernel for each channel: its output channels are its input channels."""
    conv, units = context.module, context.units()
    assert isinstance(conv, nn.modules.conv._ConvNd)
    if units is None or not batched_channels(context, len(conv.kernel_size)):
        return None
    weight = conv.weight.detach().cpu().double().flatten(1)
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else conv.bias.detach().cpu().double()
    known = units.constant.nan_to_num()
    foldable = ~units.constant.isnan() if _uniform(conv) else units.constant == 0
    zero = (weight == 0).all(1)
    constant = torch.where(zero, bias, torch.where(foldable, bias + weight.sum(1) * known, torch.nan))
    context.groups.channelwise[conv] = (module_name(context.node), units.ids)
    return Units(1, units.ids, constant)


def _uniform(conv: nn.modules.conv._ConvNd) -> bool:
    """Whether the padding does not show when the input is a constant."""
    padding = conv.padding if isinstance(conv.padding, str) else sum(conv.padding)
    return (
        conv.padding_mode != "zeros" or padding in (0, "valid") or (prod(conv.kernel_size) == 1 and padding == "same")
    )


def batch_norm(context: NodeContext) -> Units | None:
    """γ·(c − μ)/√(σ² + ε) + β; a channel with γ = 0 is the constant β."""
    norm, units = context.module, context.units()
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if units is None or not context.plain or units.axis != 1:
        return None
    ones = torch.ones(len(units.ids), dtype=torch.float64)
    scale = ones if norm.weight is None else norm.weight.detach().cpu().double()
    shift = 0 * ones if norm.bias is None else norm.bias.detach().cpu().double()
    if norm.running_mean is None or norm.running_var is None:
        normed = 0 * units.constant
    else:
        mean, variance = norm.running_mean.cpu().double(), norm.running_var.cpu().double()
        normed = (units.constant - mean) / (variance + norm.eps).sqrt()
    context.groups.channelwise[norm] = (module_name(context.node), units.ids)
    return Units(1, units.ids, torch.where(scale == 0, shift, scale * normed + shift))


def prelu(context: NodeContext) -> Units | None:
    """One slope, or one for each channel."""
    prelu, units = context.module, context.units()
    assert isinstance(prelu, nn.PReLU)
    slope = prelu.weight.detach().cpu().double()
    if units is None or not context.plain or (len(slope) > 1 and units.axis != 1):
        return None
    if len(slope) > 1:
        context.groups.channelwise[prelu] = (module_name(context.node), units.ids)
    return evaluate(units, lambda value: torch.where(value > 0, value, slope * value))


def pool(context: NodeContext) -> Units | None:
    """Pooling over places; the mean counts zero padding as values."""
    module, units = context.module, context.units()
    rank = int(type(module).__name__[-2])
    if units is None or not batched_channels(context, rank):
        return None
    padding = getattr(module, "padding", 0)
    averages = isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d)
    padded = averages and (any(padding) if isinstance(padding, tuple) else padding)
    return zeros_only(units) if padded or getattr(module, "divisor_override", None) else units


def functional_pool(context: NodeContext) -> Units | None:
    """The same as a function."""
    target, units = context.node.target, context.units()
    rank = next(n for n in (1, 2, 3) for kind in ("max", "avg", "adaptive_avg") if target is _pool_function(kind, n))
    if units is None or not batched_channels(context, rank):
        return None
    simple = any(target is _pool_function(kind, rank) for kind in ("max", "adaptive_avg"))
    return units if simple or (len(context.args) < 4 and not context.node.kwargs) else zeros_only(units)


def _pool_function(kind: str, rank: int) -> Any:
    return getattr(F, f"{kind}_pool{rank}d")
