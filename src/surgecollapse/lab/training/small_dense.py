"""A smaller dense network with as many weights as a sparse one has open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from surgecollapse.act.prunable import prunable_parameters
from surgecollapse.errors import ConfigError
from surgecollapse.functional import kept
from surgecollapse.observe.dataflow import trace_dataflow
from surgecollapse.torch_utils.modules import evaluating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.models.registry import Model

_HALVINGS = 40
"""Of the interval in which the factor on the widths lies: finer than 1 in :data:`MOST_WIDTH`."""


def with_small_widths(section: Model, data: Data) -> Model:
    """The section with widths that give a dense network as many weights as the given one has open when it is pruned.

    All widths are multiplied by the greatest factor with which the network has no more parameters than the sparse one.
    Those are its open prunable weights, and all that is never pruned (biases, embeddings, the output layer). Then
    single widths grow by a step each, in turn, while that still fits. Of attention, the first width stays a multiple of
    the heads.

    Args:
        section: with ``shrink_to_sparsity`` above 0.
        data: whose shape the network reads.

    Returns:
        A section with ``shrink_to_sparsity`` 0.

    Raises:
        ConfigError: if even the smallest network has more parameters.
    """
    plain = section.model_copy(update={"shrink_to_sparsity": 0.0})
    budget = open_parameters(plain, data, section.shrink_to_sparsity)
    multiple = getattr(plain, "heads", plain.width_multiple)
    steps = [multiple, *[1] * (len(plain.widths) - 1)]

    def scaled(factor: float) -> list[int]:
        return [max(1, int(factor * width / step)) * step for width, step in zip(plain.widths, steps, strict=True)]

    def fits(widths: Sequence[int]) -> bool:
        return parameters_of(plain.model_copy(update={"widths": tuple(widths)}), data) <= budget

    if not fits(scaled(0.0)):
        raise ConfigError(
            f"no {plain.name} with {len(plain.widths)} widths is as small as the sparse one at "
            f"{section.shrink_to_sparsity:g} ({budget} parameters): lower shrink_to_sparsity"
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(scaled(middle)) else (low, middle)
    widths, grew = scaled(low), True
    while grew:
        grew = False
        for place, step in enumerate(steps):
            wider = [width + step * (place == other) for other, width in enumerate(widths)]
            if wider[place] <= plain.widths[place] and fits(wider):
                widths, grew = wider, True
    return plain.model_copy(update={"widths": tuple(widths)})


def parameters_of(section: Model, data: Data) -> int:
    """How many parameters the network of a section has; none of them is made."""
    with torch.device("meta"):
        return sum(p.numel() for p in section.build(data).parameters())


def prunable_of(section: Model, data: Data) -> tuple[int, int]:
    """How many parameters the network of a section has that pruning may close, and how many in all."""
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = section.build(data)
    x = data.x_train[:2].cpu()
    x = x.to(next(model.parameters()).dtype) if x.is_floating_point() else x
    with evaluating(model), torch.no_grad():
        dataflow = trace_dataflow(model, lambda: model(x))
    owned = {id(p) for p in model.parameters()}
    prunable = prunable_parameters(model, owned=owned, dataflow=dataflow)
    return sum(p.numel() for p in prunable.values()), sum(p.numel() for p in model.parameters())


def open_parameters(section: Model, data: Data, sparsity: float) -> int:
    """How many parameters the network of a section has left at a sparsity: open ones, and those that are not pruned."""
    prunable, every = prunable_of(section, data)
    return every - prunable + kept(prunable, sparsity)
