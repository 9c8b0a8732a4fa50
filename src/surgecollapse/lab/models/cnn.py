"""Convolutions of images or series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from surgecollapse.lab.models.registry import WIDTHS, WithActivation, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("cnn")
class CNNModel(WithActivation):
    """Convolutions of pictures or series.

    See :class:`~surgecollapse.lab.nets.cnn.SmallCNN` and :class:`~surgecollapse.lab.nets.cnn.SeriesCNN`.
    """

    reads = ("image", "series")
    widths: tuple[int, ...] = Field((16, 32), description=WIDTHS)

    def build(self, data: Data) -> nn.Module:
        """Return the net for images, or that for series."""
        from surgecollapse.lab.nets.cnn import SeriesCNN, SmallCNN

        if data.kind == "series":
            channels, length = data.input_shape
            return SeriesCNN((channels, length), self.widths, data.num_classes, **self.style)
        channels, height, width = data.input_shape
        return SmallCNN((channels, height, width), self.widths, data.num_classes, **self.style)
