"""One block without normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgecollapse.lab.models.registry import WithPositions, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("transformer")
class TransformerModel(WithPositions):
    """One causal block, as for modular arithmetic.

    See :class:`~surgecollapse.lab.nets.transformer.OneLayerTransformer`.
    """

    reads = ("tokens",)

    def build(self, data: Data) -> nn.Module:
        """Return the net."""
        from surgecollapse.lab.nets.transformer import OneLayerTransformer

        return OneLayerTransformer(data.vocabulary, data.input_shape[0], data.num_classes, **self.shape)
