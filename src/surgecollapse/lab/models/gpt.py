"""Blocks over characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from surgecollapse.lab.models.registry import WithPositions, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("gpt")
class GPTModel(WithPositions):
    """A GPT, see :class:`~surgecollapse.lab.nets.gpt.GPT`."""

    reads = ("text",)
    layers: int = Field(5, ge=1, le=1_000, description="gpt: number of blocks.")
    heads: int = Field(4, ge=1, le=1_000, description="gpt: attention heads of a block.")

    def build(self, data: Data) -> nn.Module:
        """Return the net."""
        from surgecollapse.lab.nets.gpt import GPT

        return GPT(data.vocabulary, data.input_shape[0], layers=self.layers, heads=self.heads, **self.shape)
