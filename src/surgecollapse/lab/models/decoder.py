"""Two blocks over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from surgecollapse.lab.models.registry import WithPositions, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("decoder")
class DecoderModel(WithPositions):
    """A causal decoder that goes on from normalized values, see :class:`~surgecollapse.lab.nets.decoder.Decoder`."""

    reads = ("tokens",)
    temperature: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Decoder: keep the residual stream on the unit sphere; logits are that many times cosines.",
    )

    def build(self, data: Data) -> nn.Module:
        """Return the net, which computes what samples share once, unless there is dropout."""
        from surgecollapse.lab.nets.decoder import Decoder

        economy = "last" if self.dropout else "prefixes"
        return Decoder(
            data.vocabulary, data.input_shape[0], economy=economy, temperature=self.temperature, **self.shape
        )
