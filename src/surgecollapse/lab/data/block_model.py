"""A random graph of communities, whose nodes have features: the contextual stochastic block model."""

from __future__ import annotations

import torch
from torch import Tensor


def block_model(
    nodes: int,
    classes: int,
    *,
    seed: int,
    inside: float = 0.05,
    outside: float = 0.01,
    features: int = 32,
    signal: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a graph after Deshpande, Montanari, Mossel and Sen (2018, arXiv 1807.09596), with several classes.

    Class c of node i is i mod C. Two nodes are joined with the probability ``inside`` if their classes are equal, else
    ``outside``. Features are N(0, 1) around the mean of their class, which has length ``signal`` in a random direction.

    Args:
        nodes: their number.
        classes: C.
        seed: of all draws.
        inside: probability of an edge within a class.
        outside: probability of an edge between classes.
        features: of a node.
        signal: length of the class means.

    Returns:
        Features ``(nodes, features)``, symmetric adjacency ``(nodes, nodes)`` of 0 and 1, classes ``(nodes,)``.

    >>> x, edges, y = block_model(6, 2, seed=0, inside=1.0, outside=0.0)
    >>> edges[0].tolist(), y.tolist()
    ([0.0, 0.0, 1.0, 0.0, 1.0, 0.0], [0, 1, 0, 1, 0, 1])
    """
    draws = torch.Generator().manual_seed(seed)
    y = torch.arange(nodes) % classes
    likely = torch.where(y[:, None] == y, inside, outside)
    upper = (torch.rand(nodes, nodes, generator=draws) < likely).float().triu(1)
    means = torch.randn(classes, features, generator=draws)
    means = signal * means / means.norm(dim=1, keepdim=True)
    x = means[y] + torch.randn(nodes, features, generator=draws)
    return x, upper + upper.T, y


def with_fewer_edges(adjacency: Tensor, share: float, *, seed: int) -> Tensor:
    """Keep exactly ⌊share·edges⌉ edges, drawn at random.

    >>> full = torch.ones(5, 5) - torch.eye(5)
    >>> kept = with_fewer_edges(full, 0.3, seed=0)
    >>> float(kept.sum()) / 2, torch.equal(kept, kept.T)
    (3.0, True)
    """
    rows, columns = torch.nonzero(adjacency.triu(1), as_tuple=True)
    draws = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(rows), generator=draws)[: round(share * len(rows))]
    kept = torch.zeros_like(adjacency)
    kept[rows[chosen], columns[chosen]] = 1
    return kept + kept.T
