"""Graph convolutions on one graph whose nodes are classified."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def propagation(adjacency: Tensor) -> Tensor:
    """D^−½ (A + I) D^−½ with the degrees of A + I on the diagonal of D (Kipf and Welling 2017, arXiv 1609.02907).

    Args:
        adjacency: symmetric, of 0 and 1, zero on the diagonal ``(n, n)``.

    Returns:
        ``(n, n)``.

    Raises:
        ValueError: if the matrix is not square and symmetric.

    >>> (4 * propagation(torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]))).round().div(4).tolist()
    [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    if adjacency.ndim != 2 or not torch.equal(adjacency, adjacency.T):
        raise ValueError(f"expected a symmetric matrix, got one of shape {tuple(adjacency.shape)}")
    looped = adjacency + torch.eye(len(adjacency), dtype=adjacency.dtype)
    scale = looped.sum(1).rsqrt()
    return scale[:, None] * looped * scale


def sparse_propagation(edges: Tensor, nodes: int) -> Tensor:
    """What :func:`propagation` gives, as a sparse matrix, for graphs whose whole matrix is large.

    Args:
        edges: pairs of different nodes, each pair once ``(m, 2)``.
        nodes: n.

    Returns:
        Sparse ``(n, n)``.

    >>> (4 * sparse_propagation(torch.tensor([[0, 1]]), 3).to_dense()).round().div(4).tolist()
    [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    loops = torch.arange(nodes)
    rows = torch.cat([edges[:, 0], edges[:, 1], loops])
    columns = torch.cat([edges[:, 1], edges[:, 0], loops])
    scale = torch.bincount(rows, minlength=nodes).float().rsqrt()
    values = scale[rows] * scale[columns]
    return torch.sparse_coo_tensor(
        torch.stack([rows, columns]), values, (nodes, nodes), check_invariants=True
    ).coalesce()


class GCN(nn.Module):
    """Two graph convolutions, X ← relu(P·X·W + b) with P of :func:`propagation`, then a linear layer for each node.

    Args:
        inputs: features of a node.
        hidden: width.
        classes: outputs.
        dropout: rate on the hidden values.

    >>> GCN(3, 8, 2)(torch.zeros(5, 3), torch.eye(5)).shape
    torch.Size([5, 2])
    """

    def __init__(self, inputs: int, hidden: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)
        self.dropout = dropout

    def forward(self, x: Tensor, propagate: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` of nodes ``(n, inputs)``."""
        x = F.relu(self.first(propagate @ x))
        x = F.relu(self.second(propagate @ F.dropout(x, self.dropout, self.training)))
        return self.head(F.dropout(x, self.dropout, self.training))  # type: ignore[no-any-return]
