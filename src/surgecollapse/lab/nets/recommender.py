"""Nets that score all items for a user."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MatrixFactorization(nn.Module):
    """Scores ⟨u, vᵢ⟩ + bᵢ, with one vector for each user and each item (Koren, Bell and Volinsky 2009).

    Vectors start at N(0, 0.1²), biases at 0.

    Args:
        users: number of them.
        items: likewise.
        width: numbers of a vector.

    >>> MatrixFactorization(5, 7)(torch.tensor([0, 4])).shape
    torch.Size([2, 7])
    """

    def __init__(self, users: int, items: int, *, width: int = 32) -> None:
        super().__init__()
        self.users = nn.Embedding(users, width)
        self.items = nn.Embedding(items, width)
        self.bias = nn.Parameter(torch.zeros(items))
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, users: Tensor) -> Tensor:
        """Scores (n, items) of users (n)."""
        return self.users(users) @ self.items.weight.T + self.bias  # type: ignore[no-any-return]


class TwoTower(nn.Module):
    """Scores ⟨f(u, mean of the recent items' vectors), g(vᵢ)⟩ + bᵢ, with f and g of one hidden layer each.

    After Covington, Adams and Sargin 2016 ("Deep neural networks for YouTube recommendations"), with a user's own
    vector beside what he had before. Vectors start at N(0, 0.1²).

    Args:
        users: number of them.
        items: likewise.
        width: numbers of a vector.
        hidden: units of the hidden layers.
        joint: width of what f and g return.

    >>> TwoTower(5, 7)(torch.tensor([0, 4]), torch.tensor([[1, 2], [-1, -1]])).shape
    torch.Size([2, 7])
    """

    def __init__(self, users: int, items: int, *, width: int = 32, hidden: int = 64, joint: int = 32) -> None:
        super().__init__()
        self.users = nn.Embedding(users, width)
        self.items = nn.Embedding(items, width)
        self.user_tower = nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), nn.Linear(hidden, joint))
        self.item_tower = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, joint))
        self.bias = nn.Parameter(torch.zeros(items))
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, users: Tensor, recent: Tensor) -> Tensor:
        """Scores (n, items) of users (n) whose recent items are ``recent`` (n, m), −1 where there are fewer."""
        there = (recent >= 0)[..., None]
        before = (self.items(recent.clamp(min=0)) * there).sum(1) / there.sum(1).clamp(min=1)
        towards = self.user_tower(torch.cat([self.users(users), before], 1))
        return towards @ self.item_tower(self.items.weight).T + self.bias  # type: ignore[no-any-return]
