"""Residual nets of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from surgecollapse.lab.models.registry import WIDTHS, Model, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("resnet")
class ResNetModel(Model):
    """A ResNet of 18 to 152 layers, see :class:`~surgecollapse.lab.nets.resnet.ResNet`."""

    reads = ("image",)
    widths: tuple[int, ...] = Field((64,), description=WIDTHS)
    depth: Literal[18, 34, 50, 101, 152] = Field(50, description="resnet: number of layers.")

    def build(self, data: Data) -> nn.Module:
        """Return the net."""
        from surgecollapse.lab.nets.resnet import ResNet

        return ResNet(data.input_shape[0], data.num_classes, self.depth, self.widths[0])
