"""One hidden layer over the tokens so far."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from surgecollapse.lab.models.registry import WIDTHS, WithActivation, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("autoregressive")
class AutoregressiveModel(WithActivation):
    """One hidden layer over the whole input or sequence of one-hots.

    See :class:`~surgecollapse.lab.nets.autoregressive.AutoregressiveMLP`.
    """

    reads = ("vector", "series", "image", "tokens", "pairs")
    widths: tuple[int, ...] = Field((256,), description=WIDTHS)

    def build(self, data: Data) -> nn.Module:
        """Return the net."""
        from surgecollapse.lab.nets.autoregressive import AutoregressiveMLP

        inputs = math.prod(data.input_shape)
        return AutoregressiveMLP(
            inputs, data.num_classes, hidden=self.widths[0], vocabulary=data.vocabulary, **self.style
        )
