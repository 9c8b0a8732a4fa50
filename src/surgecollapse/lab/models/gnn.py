"""Convolutions of graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from surgecollapse.lab.models.registry import WIDTHS, Model, model

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


@model("gnn")
class GNNModel(Model):
    """Edge-conditioned convolutions of molecules, see :class:`~surgecollapse.lab.nets.gnn.GraphNet`."""

    reads = ("graph",)
    widths: tuple[int, ...] = Field((32, 16, 32), description=WIDTHS)

    def build(self, data: Data) -> nn.Module:
        """Return the net; the last width stands for those that are not given."""
        from surgecollapse.lab.nets.gnn import GraphNet

        del data
        return GraphNet((*self.widths, *self.widths[-1:] * 2)[:3])
