"""Graph isomorphism networks on one graph whose nodes are classified."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GINLayer(nn.Module):
    """h′ᵢ = MLP((1 + ε)·hᵢ + Σ_{j joined to i} hⱼ), with ε learned from 0 (Xu et al. 2019, arXiv 1810.00826, eq. 4.1).

    The perceptron has one hidden layer of ReLU units, as wide as its output. Unlike the mean of
    :func:`~surgecollapse.lab.nets.gcn.propagation`, the sum tells how many neighbors a node has.

    Args:
        inputs: numbers of a node.
        outputs: numbers of a node afterwards.

    >>> path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> GINLayer(1, 4).gathered(torch.tensor([[1.0], [2.0], [5.0]]), path)[:, 0].tolist()
    [3.0, 8.0, 7.0]
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)
        self.epsilon = nn.Parameter(torch.zeros(()))

    def gathered(self, h: Tensor, adjacency: Tensor) -> Tensor:
        """What the perceptron takes in: (1 + ε)·h + A·h."""
        return (1 + self.epsilon) * h + adjacency @ h

    def forward(self, h: Tensor, adjacency: Tensor) -> Tensor:
        """Return nodes ``(n, outputs)`` of nodes ``(n, inputs)`` and a matrix of 0 and 1 ``(n, n)``."""
        return self.outer(F.relu(self.inner(self.gathered(h, adjacency))))  # type: ignore[no-any-return]


class GIN(nn.Module):
    """Two layers with ReLU behind each, then a linear layer for each node.

    Args:
        inputs: features of a node.
        hidden: width.
        classes: outputs.
        dropout: rate on the hidden values.

    >>> GIN(3, 8, 2)(torch.zeros(5, 3), torch.eye(5)).shape
    torch.Size([5, 2])
    """

    def __init__(self, inputs: int, hidden: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = GINLayer(inputs, hidden), GINLayer(hidden, hidden)
        self.head = nn.Linear(hidden, classes)
        self.dropout = dropout

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` of nodes ``(n, inputs)``."""
        x = F.relu(self.first(x, adjacency))
        x = F.relu(self.second(F.dropout(x, self.dropout, self.training), adjacency))
        return self.head(F.dropout(x, self.dropout, self.training))  # type: ignore[no-any-return]
