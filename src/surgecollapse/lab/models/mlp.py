"""Linear layers; without widths a linear classifier."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from surgecollapse.lab.models.registry import WIDTHS, WithActivation, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("mlp")
class MLPModel(WithActivation):
    """Linear layers, see :class:`~surgecollapse.lab.nets.mlp.MLP`."""

    reads = ("vector", "series", "image", "pairs")
    pairs_of_tokens = True
    needs_width = False
    widths: tuple[int, ...] = Field((256, 256), description=WIDTHS)
    bias: bool = Field(True, description="Whether the linear layers of the mlp have biases.")

    def build(self, data: Data) -> nn.Module:
        """Return the net."""
        from surgecollapse.lab.nets.mlp import MLP

        return MLP(math.prod(data.input_shape), self.widths, data.num_classes, bias=self.bias, **self.style)
