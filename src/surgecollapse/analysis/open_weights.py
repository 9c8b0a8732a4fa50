"""The weights around which an analysis moves: real, finite, and only those that a mask leaves open."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from surgecollapse.torch_utils.modules import canonical_name


def open_weights(
    model: nn.Module, masks: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters of a net, and where they may move.

    Args:
        model: not changed.
        masks: by parameter name, zero where a weight is held at zero, as ``controller.masks``; parameters that are not
            named are open.

    Returns:
        Detached parameters by the names of ``model.named_parameters()``, and ones and zeros of the same shape and dtype
        for those that have a mask.

    Raises:
        ValueError: if a parameter is complex or not finite, or a mask fits no parameter.

    >>> import torch
    >>> weights, masks = open_weights(nn.Linear(2, 1), {"weight": torch.tensor([[True, False]])})
    >>> sorted(weights), masks["weight"]
    (['bias', 'weight'], tensor([[1., 0.]]))
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}
    refuse_unusable(weights)
    paths = {canonical_name(name): name for name in weights}
    found = {}
    for name, mask in (masks or {}).items():
        path = paths.get(canonical_name(name))
        if path is None:
            raise ValueError(f"masks name {name!r}, which is no parameter: expected some of {', '.join(paths)}")
        if mask.shape != weights[path].shape:
            shapes = f"{tuple(weights[path].shape)}, got {tuple(mask.shape)}"
            raise ValueError(f"expected a mask for {name} of shape {shapes}")
        found[path] = (mask != 0).to(weights[path])
    return weights, found


def refuse_unusable(weights: Mapping[str, Tensor]) -> None:
    """Raise where derivatives or distances of the weights would be wrong or not finite.

    Raises:
        ValueError: if one is complex or not finite, naming it.
    """
    for name, weight in weights.items():
        if weight.is_complex():
            raise ValueError(f"{name} is {weight.dtype}: this analysis is defined for real weights")
    broken = not_finite(weights)
    if broken:
        raise ValueError(f"the net has diverged: not finite are {', '.join(broken)}")


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that hold NaN or infinite values, with their number.

    >>> import torch
    >>> not_finite({"a": torch.tensor([1.0, torch.nan]), "b": torch.ones(2)})
    ['a (1 of 2)']
    """
    return [
        f"{name} ({count:,} of {weight.numel():,})"
        for name, weight in weights.items()
        if (count := int((~weight.isfinite()).sum()))
    ]
