"""Two recurrent layers over words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from surgecollapse.lab.models.registry import WIDTHS, WithEmbeddings, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("lstm")
class LSTMModel(WithEmbeddings):
    """LSTM layers over an embedding, see :class:`~surgecollapse.lab.nets.lstm.LSTMClassifier`."""

    reads = ("tokens",)
    widths: tuple[int, ...] = Field((64, 128), description=WIDTHS)
    readout: Literal["last", "mean"] = Field(
        "last", description="lstm: its head reads the last state, or the mean over all of them."
    )

    def build(self, data: Data) -> nn.Module:
        """Return the net."""
        from surgecollapse.lab.nets.lstm import LSTMClassifier

        embedding, hidden = self.width_and_hidden
        return LSTMClassifier(
            data.vocabulary,
            data.num_classes,
            embedding=embedding,
            hidden=hidden,
            dropout=self.dropout,
            readout=self.readout,
        )
