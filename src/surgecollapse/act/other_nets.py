"""Masks on other nets of the same architecture: averages of the weights, copies, teachers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from surgecollapse.torch_utils.modules import canonical_name, unwrap_model
from surgecollapse.torch_utils.shards import is_sharded, local, part_of, whole


@torch.no_grad()
def mask_other(masks: Mapping[str, Tensor], other: nn.Module | Mapping[str, Tensor]) -> None:
    """Put the closed weights of another net to zero, in place.

    Args:
        masks: parameter name → zero where a weight is closed.
        other: the net, wrapped or not, or its state dict.

    Raises:
        ValueError: if a weight is missing there, or has another shape.
    """
    found = _by_name(other)
    for name, mask in masks.items():
        tensor = found.get(name)
        if tensor is None or tensor.shape != mask.shape:
            shape = None if tensor is None else tuple(tensor.shape)
            raise ValueError(
                f"apply_masks needs a net with the same weights: {name} has shape {shape} there, "
                f"{tuple(mask.shape)} here"
            )
        part = mask if is_sharded(tensor) or not is_sharded(mask) else whole(mask, local(mask))
        part = part_of(tensor, part) if is_sharded(tensor) and not is_sharded(part) else local(part)
        local(tensor).masked_fill_(part.to(tensor.device) == 0, 0)


def _by_name(other: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by canonical name, of a net in any wrapper or of its state dict."""
    if isinstance(other, nn.Module):
        inner = unwrap_model(other)
        other = unwrap_model(inner.module) if isinstance(inner, AveragedModel) else inner
        return {canonical_name(name): p.data for name, p in other.named_parameters(remove_duplicate=False)}
    named = {canonical_name(name): value for name, value in other.items() if isinstance(value, Tensor)}
    return named | {name.removeprefix("module."): value for name, value in named.items()}
