"""Cutting units out of modules, and putting what they held constant into biases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgecollapse.export.compaction.channel_groups import ChannelGroups, LayerUse


@dataclass(frozen=True)
class Verdict:
    """Which units stay, by root."""

    roots: Tensor
    matters: Tensor
    keeps: Tensor
    """What matters, and one unit of each layer that would be empty."""

    def kept(self, units: Tensor) -> Tensor:
        """Whether each of these units stays."""
        return self.keeps[self.roots[units]]

    def idle(self, units: Tensor) -> Tensor:
        """Whether nothing that matters varies with each of these units."""
        return ~self.matters[self.roots[units]]


def judge(groups: ChannelGroups, multiple: int = 1) -> Verdict:
    """Decide which units stay: what matters, and idle ones up to a multiple in each layer, at least one.

    Idle units that stay get zero weights in their readers.
    """
    roots = groups.roots()
    matters = groups.mattering(roots)
    keeps = matters.clone()
    for layer in groups.layers:
        own = torch.unique(roots[layer.makes])
        idle = own[~keeps[own]]
        kept = len(own) - len(idle)
        keeps[idle[: max(-kept % multiple, int(kept == 0))]] = True
    return Verdict(roots, matters, keeps)


@torch.no_grad()
def cut(groups: ChannelGroups, verdict: Verdict) -> None:
    """Cut idle units out of the modules themselves."""
    for layer in groups.layers:
        _cut_layer(layer, verdict)
    for module, (_, units) in groups.channelwise.items():
        kept = verdict.kept(units)
        if not kept.all():
            _cut_channels(module, kept)


def _cut_layer(layer: LayerUse, verdict: Verdict) -> None:
    module = layer.module
    assert isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    rows = verdict.kept(layer.makes)
    shift = torch.zeros(len(rows), dtype=torch.float64)
    weight, where = module.weight.clone(), module.weight.device
    columns = torch.ones(weight.shape[1], dtype=torch.bool)
    if layer.reads is not None:
        columns, idle = verdict.kept(layer.reads), verdict.idle(layer.reads)
        weight[:, (idle & columns).to(where)] = 0
        shift = layer.shift(idle)
    if rows.all() and columns.all() and not shift.any() and torch.equal(weight, module.weight):
        return
    kept = weight[rows.to(where)][:, columns.to(where)].contiguous()
    module.weight = nn.Parameter(kept, requires_grad=module.weight.requires_grad)
    module.register_parameter("bias", _shifted(module, shift, rows))
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = kept.shape
    else:
        module.out_channels, module.in_channels = kept.shape[:2]


def _shifted(module: nn.Linear | nn.modules.conv._ConvNd, shift: Tensor, rows: Tensor) -> nn.Parameter | None:
    """The bias of the rows that stay, made where there was none to hold the shift."""
    bias, weight = module.bias, module.weight
    shift, rows = shift[rows].to(weight.device), rows.to(weight.device)
    if bias is None:
        return nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad) if shift.any() else None
    held = (bias[rows].double() + shift).to(bias.dtype)
    return nn.Parameter(held, requires_grad=bias.requires_grad)


def _cut_channels(module: nn.Module, kept: Tensor) -> None:
    """Cut a module whose parameters and buffers have one entry for each unit."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, _rows(parameter, kept))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.ndim:
            setattr(module, name, buffer[kept.to(buffer.device)].clone())
    number = int(kept.sum())
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = number
    elif isinstance(module, nn.PReLU):
        module.num_parameters = number
    elif isinstance(module, nn.modules.conv._ConvNd):
        module.in_channels = module.out_channels = module.groups = number


def _rows(parameter: Tensor, kept: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter[kept.to(parameter.device)].clone(), requires_grad=parameter.requires_grad)
