"""How representations change: between times of a run, between layers, between nets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgecollapse.analysis.colors import plain
from surgecollapse.analysis.plain_values import PlainValues
from surgecollapse.functional import linear_cka

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

FEWEST_NUMBERS = 12
"""Rows up to which a map has its numbers written into it."""


@dataclass(frozen=True)
class SimilarityMap(PlainValues):
    """Debiased linear CKA of each layer of one net with each of another, or of its own."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    """``values[i][j]`` of row i and column j, 1 for equal representations, near 0 for unrelated ones."""
    first: str
    """Name of the net of the rows."""
    second: str
    """Name of the net of the columns."""

    def plot(self) -> Figure:
        """Draw the map; layers of the rows from bottom to top."""
        from surgecollapse.record.plot import new_figure

        side = 2.2 + 0.55 * max(len(self.rows), len(self.columns), 4)
        figure: Figure = new_figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(self.values, origin="lower", vmin=0.0, vmax=1.0, cmap="cividis", aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(
            range(len(self.columns)),
            [plain(name) for name in self.columns],
            rotation=45,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_yticks(range(len(self.rows)), [plain(name) for name in self.rows])
        axes.set_xlabel(f"layer of {plain(self.second)}")
        axes.set_ylabel(f"layer of {plain(self.first)}")
        if max(len(self.rows), len(self.columns)) <= FEWEST_NUMBERS:
            for i, row in enumerate(self.values):
                for j, value in enumerate(row):
                    color = "black" if value > 0.55 else "white"
                    axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9)
        figure.colorbar(image, ax=axes, label="linear CKA, debiased")
        return figure


@dataclass(frozen=True)
class RepresentationChange(PlainValues):
    """Debiased linear CKA of each layer at each time with the same layer at other times."""

    steps: tuple[int, ...]
    layers: tuple[str, ...]
    to_first: tuple[tuple[float, ...], ...]
    """``to_first[i][t]``: layer i at time t with the first time."""
    to_last: tuple[tuple[float, ...], ...]
    """The same with the last time."""
    to_previous: tuple[tuple[float, ...], ...]
    """The same with the time before; of the first time with itself."""

    def plot(self) -> Figure:
        """Draw similarity to the first and to the last net over the steps."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(8.4, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        panels = ((left, self.to_first, "with the net at the start"), (right, self.to_last, "with the net at the end"))
        for axes, values, title in panels:
            for name, row in zip(self.layers, values, strict=True):
                axes.plot(self.steps, row, label=plain(name), marker="." if len(self.steps) < 30 else None)
            axes.set_title(title)
            axes.set_xlabel("optimizer step")
            axes.set_ylim(min(0.0, *(v for row in values for v in row if v == v)) - 0.03, 1.03)
        left.set_ylabel("linear CKA, debiased")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
        return figure


def similarity_map(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], *, names: tuple[str, str] = ("net", "net")
) -> SimilarityMap:
    """Compare all layers of two nets on the same samples by :func:`surgecollapse.functional.linear_cka`.

    Args:
        first: representations ``(n, units)`` by layer.
        second: of the other net, or the same one.
        names: of the two nets.

    Raises:
        ValueError: if the samples do not fit.

    >>> import torch
    >>> x = torch.tensor([[0.0, 1], [2, 0], [1, 5], [3, 3], [4, 1]])
    >>> similarity_map({"a": x}, {"b": 2 * x + 1}).values
    ((1.0,),)
    """
    values = tuple(tuple(linear_cka(x, y).item() for y in second.values()) for x in first.values())
    return SimilarityMap(tuple(first), tuple(second), values, *names)


def representation_change(steps: Sequence[int], history: Sequence[Mapping[str, Tensor]]) -> RepresentationChange:
    """Follow the representations of the same samples through training.

    Args:
        steps: optimizer step of each time, ascending.
        history: representations ``(n, units)`` by layer, at each time.

    Raises:
        ValueError: if there are fewer than two times, or their numbers differ.
    """
    if len(steps) != len(history) or len(steps) < 2:
        raise ValueError(
            f"expected representations at two times at least, got {len(history)} for {len(steps)} steps: "
            "keep more checkpoints"
        )
    layers = tuple(history[0])

    def against(others: Sequence[Mapping[str, Tensor]]) -> tuple[tuple[float, ...], ...]:
        pairs = list(zip(history, others, strict=True))
        return tuple(tuple(linear_cka(now[name], then[name]).item() for now, then in pairs) for name in layers)

    return RepresentationChange(
        tuple(steps),
        layers,
        to_first=against([history[0]] * len(history)),
        to_last=against([history[-1]] * len(history)),
        to_previous=against([history[0], *history[:-1]]),
    )
