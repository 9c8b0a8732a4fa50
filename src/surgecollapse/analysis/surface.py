"""Slices of the loss surface around a net, in random directions of the size of its filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgecollapse.analysis.open_weights import open_weights
from surgecollapse.analysis.plain_values import PlainValues
from surgecollapse.functional import batch_loss
from surgecollapse.torch_utils.modules import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LossSurface(PlainValues):
    """Loss at w + x·d₁ (+ y·d₂)."""

    steps: tuple[float, ...]
    """x, and y in two dimensions; 1 moves each filter as far as it is long."""
    losses: tuple[tuple[float, ...], ...]
    """``losses[j][i]`` at x = ``steps[i]``, y = ``steps[j]``; one row in one dimension."""

    def plot(self) -> Figure:
        """Draw the curve, or contours of the loss, logarithmic where it spans more than a factor of 10."""
        from matplotlib.colors import LogNorm

        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(5.2, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel("first direction (filter norms)")
        if len(self.losses) == 1:
            axes.plot(self.steps, self.losses[0])
            axes.set_ylabel("loss")
            return figure
        low, high = min(map(min, self.losses)), max(map(max, self.losses))
        wide = low > 0 and high > 10 * low
        image = axes.pcolormesh(
            self.steps, self.steps, self.losses, cmap="cividis", norm=LogNorm() if wide else None, shading="nearest"
        )
        levels = [low * (high / low) ** (i / 9) for i in range(1, 9)] if wide else None
        axes.contour(self.steps, self.steps, self.losses, levels, colors="white", linewidths=0.5)
        axes.plot(0, 0, "o", color="white", markersize=4)
        axes.set_ylabel("second direction (filter norms)")
        figure.colorbar(image, ax=axes, label="loss")
        return figure


def filter_direction(
    weights: Mapping[str, Tensor], generator: torch.Generator, masks: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A normal direction, each filter scaled to the norm of the net's: d ← d‖w‖/‖d‖ (Li et al., arXiv 1712.09913).

    A filter is one row of a weight of two axes or more. Biases and norms are left alone, and so is what a mask holds at
    zero.

    >>> w = {"w": torch.tensor([[3.0, 4.0], [0.0, 0.0]])}
    >>> filter_direction(w, torch.Generator())["w"].norm(dim=1).round(decimals=4)
    tensor([5., 0.])
    """
    found, masks = {}, masks or {}
    for name, weight in weights.items():
        if weight.ndim < 2:
            found[name] = torch.zeros_like(weight)
            continue
        draw = torch.randn(weight.shape, generator=generator).to(weight)
        if name in masks:
            draw = draw * masks[name]
        rows, own = draw.flatten(1), weight.flatten(1).norm(dim=1, keepdim=True)
        length = rows.norm(dim=1, keepdim=True)
        found[name] = (rows * own / torch.where(length > 0, length, 1.0)).view_as(weight)
    return found


@torch.no_grad()
def loss_surface(
    model: nn.Module,
    criterion: Callable[[Any, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    dimensions: int = 2,
    reach: float = 1.0,
    points: int = 21,
    seed: int = 0,
    masks: Mapping[str, Tensor] | None = None,
) -> LossSurface:
    """Measure the loss on a line or a grid through the net, in eval mode.

    Args:
        model: not changed; the mode is kept.
        criterion: mean loss of output and targets.
        inputs: a batch, as the net is called.
        targets: its labels.
        dimensions: 1 or 2.
        reach: from −reach to reach.
        points: on each axis; odd, so that the net itself is one.
        seed: of the directions.
        masks: of a sparse net, as ``controller.masks``: weights that a mask holds at zero stay there.

    Raises:
        ValueError: for other dimensions, an even number of points, weights that are complex or not finite, or a mask
            that fits no parameter.
    """
    if dimensions not in (1, 2) or points % 2 == 0:
        raise ValueError(f"expected 1 or 2 dimensions and an odd number of points, got {dimensions} and {points}")
    weights, held = open_weights(model, masks)
    generator = torch.Generator().manual_seed(seed)
    first, second = (filter_direction(weights, generator, held) for _ in range(2))
    steps = torch.linspace(-reach, reach, points, dtype=torch.float64)
    steps[points // 2] = 0.0
    with evaluating(model):
        loss = batch_loss(model, criterion, inputs, targets)
        rows = [
            tuple(
                float(loss({n: w + x * first[n] + y * second[n] for n, w in weights.items()})) for x in steps.tolist()
            )
            for y in (steps.tolist() if dimensions == 2 else [0.0])
        ]
    return LossSurface(tuple(steps.tolist()), tuple(rows))
