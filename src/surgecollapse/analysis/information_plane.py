"""The information plane: what layers say of their inputs and of the labels, by estimates that bins decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.analysis.colors import GREEN, VERMILLION, plain
from surgecollapse.functional import discretize, symbol_entropy, symbol_mutual_information

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

CAVEAT = (
    "A deterministic net loses no information that an estimator could find: what is seen is how activations cluster at "
    "the width of the bins (Goldfeld et al., arXiv 1810.05728). At ln n the estimate is saturated and says nothing."
)


@dataclass(frozen=True)
class InformationPlane:
    """Binned estimates in nats; read :data:`CAVEAT` before them."""

    steps: tuple[int, ...]
    layers: tuple[str, ...]
    with_input: tuple[tuple[float, ...], ...]
    """``with_input[i][t]``: I(X; T) of layer i at time t, which is H(T) for different inputs."""
    with_label: tuple[tuple[float, ...], ...]
    """``with_label[i][t]``: I(T; Y)."""
    label_entropy: float
    """H(Y), the most that I(T; Y) can be."""
    samples: int
    """n; no estimate exceeds ln n."""
    bins: int
    components: int | None
    """Principal components that were binned; ``None``: all units."""

    def plot(self) -> Figure:
        """Draw the path of each layer in the plane, early times pale; lines mark H(Y) and ln n."""
        from surgecollapse.record.plot import new_figure

        columns = min(4, len(self.layers))
        rows = math.ceil(len(self.layers) / columns)
        figure: Figure = new_figure(figsize=(2.7 * columns + 1.2, 2.7 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(self.layers) :]:
            axes.set_visible(False)
        points = None
        for axes, name, x, y in zip(grid.flat, self.layers, self.with_input, self.with_label, strict=False):
            axes.plot(x, y, "-", color="gray", linewidth=0.8)
            points = axes.scatter(x, y, c=self.steps, cmap="cividis_r", s=18, zorder=3)
            axes.axhline(self.label_entropy, color=VERMILLION, linestyle="--", linewidth=1)
            axes.axvline(math.log(self.samples), color=GREEN, linestyle=":", linewidth=1.4)
            axes.set_title(plain(name), fontsize=10)
            axes.set_xlim(-0.2, math.log(self.samples) * 1.06)
            axes.set_ylim(-0.05, self.label_entropy * 1.12)
        what = "units" if self.components is None else f"of {self.components} components"
        figure.supxlabel(f"I(input; layer), nats, {self.bins} bins {what}; dotted: ln n (saturated)", fontsize=10)
        figure.supylabel("I(layer; label), nats; dashed: H(label)", fontsize=10)
        if points is not None:
            figure.colorbar(points, ax=grid, label="optimizer step")
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Plain values and the caveat, for JSON."""
        return {**asdict(self), "caveat": CAVEAT}


def information_plane(
    steps: Sequence[int],
    history: Sequence[Mapping[str, Tensor]],
    labels: Tensor,
    *,
    bins: int = 8,
    components: int | None = 2,
) -> InformationPlane:
    """Estimate I(input; layer) and I(layer; label) by equal bins (after Shwartz-Ziv and Tishby, arXiv 1703.00810).

    The paper bins every unit, which for layers of more than some ten units gives each sample a pattern of its own, and
    so saturates. Deviation: the leading principal components of the layer at that time are binned, each between its own
    ends. So scale and rotation do not matter. These are functions of the layer. So they know no more of the label than
    the layer does, but for the bias of the estimate. I(T; Y) has the correction of Miller and Madow. All rows of the
    input count as different, so that I(X; T) = H(T), at most components·ln bins.

    Args:
        steps: optimizer step of each time.
        history: representations ``(n, units)`` by layer at each time.
        labels: ``(n,)``.
        bins: for each component.
        components: how many; ``None`` takes the units themselves, as the paper does.

    Returns:
        Both for each layer and time, NaN where a representation is not finite.

    Raises:
        ValueError: if numbers do not fit.
    """
    if len(steps) != len(history) or not steps:
        raise ValueError(f"expected representations at each step, got {len(history)} for {len(steps)} steps")
    layers = tuple(history[0])
    inputs, classes = [], []
    for name in layers:
        known = [_information(x[name], labels, bins, components) for x in history]
        inputs.append(tuple(of_input for of_input, _ in known))
        classes.append(tuple(of_label for _, of_label in known))
    entropy = symbol_entropy(labels, correct=False).item()
    return InformationPlane(tuple(steps), layers, tuple(inputs), tuple(classes), entropy, len(labels), bins, components)


def _information(x: Tensor, labels: Tensor, bins: int, components: int | None) -> tuple[float, float]:
    """I(input; layer) and I(layer; label); NaN where the representation is not finite."""
    if not bool(x.isfinite().all()):
        return math.nan, math.nan
    symbols = discretize(_between_ends(x, components), bins, low=0.0, high=1.0)
    return symbol_entropy(symbols, correct=False).item(), symbol_mutual_information(symbols, labels).item()


def _between_ends(x: Tensor, components: int | None) -> Tensor:
    """Leading principal components, or units, each from 0 to 1; constant ones are 0."""
    x = x.double()
    x = x - x.mean(0)
    if components is not None:
        u, sigma, _ = torch.linalg.svd(x, full_matrices=False)
        x = (u * sigma * (sigma > 1e-7 * sigma[:1]))[:, :components]
    x = x - x.amin(0)
    return x / x.amax(0).clamp(min=1e-300)
