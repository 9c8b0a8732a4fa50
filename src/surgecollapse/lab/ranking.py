"""Recommendations in time order: who could be offered what, how well the next item was ranked, and simple controls."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def offered(seen: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """Which items a user could be offered at each interaction: those that they had not had before; updates ``seen``.

    Args:
        seen: bool ``(users, items)``, whether a user has had an item; the interactions are added to it.
        users: of each interaction, in order ``(n,)``.
        items: likewise.

    Returns:
        Bool ``(n, items)``; the item itself is offered at its first interaction.

    >>> seen = torch.zeros(1, 3, dtype=torch.bool)
    >>> offered(seen, torch.tensor([0, 0]), torch.tensor([2, 1])).tolist(), seen.tolist()
    ([[True, True, True], [True, True, False]], [[False, True, True]])
    """
    rows = torch.empty(len(users), seen.shape[1], dtype=torch.bool)
    for row, user, item in zip(rows, users.tolist(), items.tolist(), strict=True):
        torch.logical_not(seen[user], out=row)
        seen[user, item] = True
    return rows


def places(scores: Tensor, items: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """How many candidates are ahead of each item, and how many others have its score.

    Args:
        scores: ``(n, items)``, finite, higher is better.
        items: the item that is judged in each row ``(n,)``.
        candidates: bool ``(n, items)``, the items that compete; each judged one is among them.

    Raises:
        ValueError: if a judged item is not a candidate.

    >>> scores, everything = torch.tensor([[3.0, 1.0, 1.0, 2.0]]), torch.ones(1, 4, dtype=torch.bool)
    >>> [part.tolist() for part in places(scores, torch.tensor([1]), everything)]
    [[2], [1]]
    """
    rows = torch.arange(len(items))
    if not bool(candidates[rows, items].all()):
        raise ValueError("expected every judged item to be among its row's candidates")
    own = scores[rows, items][:, None]
    ahead = ((scores > own) & candidates).sum(1)
    return ahead, ((scores == own) & candidates).sum(1) - 1


def ndcg_at(k: int, ahead: Tensor, tied: Tensor) -> Tensor:
    """NDCG@k of one relevant item, 1/log₂(1 + place) up to place k, else 0; the mean over all orders of ties.

    Järvelin and Kekäläinen 2002, ACM Transactions on Information Systems 20.

    >>> [round(value, 6) for value in ndcg_at(10, torch.tensor([0, 2, 10]), torch.tensor([0, 0, 0])).tolist()]
    [1.0, 0.5, 0.0]
    """
    return _mean_gain([1 / math.log2(1 + place) for place in range(1, k + 1)], ahead, tied)


def recall_at(k: int, ahead: Tensor, tied: Tensor) -> Tensor:
    """Recall@k of one relevant item: whether it is among the first k; the mean over all orders of ties.

    >>> recall_at(2, torch.tensor([0, 1, 2, 1]), torch.tensor([0, 0, 0, 3])).tolist()
    [1.0, 1.0, 0.0, 0.25]
    """
    return _mean_gain([1.0] * k, ahead, tied)


def _mean_gain(gains: list[float], ahead: Tensor, tied: Tensor) -> Tensor:
    """Mean gain over the places ahead + 1, …, ahead + tied + 1; 0 after the last gain."""
    total = torch.cat([torch.zeros(1, dtype=torch.float64), torch.tensor(gains, dtype=torch.float64).cumsum(0)])
    first, last = (at.clamp(max=len(gains)) for at in (ahead, ahead + tied + 1))
    return (total[last] - total[first]) / (tied + 1)


class Popularity:
    """Scores items by how often they were chosen, among the last ``window`` interactions or all.

    >>> control = Popularity(items=3, window=2)
    >>> control.learn(torch.tensor([0, 1, 0]), torch.tensor([2, 1, 1]))
    >>> control.scores(torch.tensor([5])).tolist()
    [[0.0, 2.0, 0.0]]
    """

    def __init__(self, items: int, window: int | None = None) -> None:
        self.counts = torch.zeros(items)
        self.window = window
        self._last = torch.empty(0, dtype=torch.long)

    def scores(self, users: Tensor) -> Tensor:
        """The same for all users ``(n, items)``."""
        return self.counts.expand(len(users), -1)

    def learn(self, users: Tensor, items: Tensor) -> None:  # noqa: ARG002
        """Count interactions."""
        self.counts.index_add_(0, items, torch.ones(len(items)))
        if self.window is not None:
            kept = torch.cat([self._last, items])
            old, self._last = kept[: -self.window], kept[-self.window :]
            self.counts.index_add_(0, old, -torch.ones(len(old)))


class RepeatLast:
    """Scores items by when anyone chose them last: what came last is offered first.

    >>> control = RepeatLast(items=3)
    >>> control.learn(torch.tensor([0, 1, 0]), torch.tensor([2, 1, 2]))
    >>> control.scores(torch.tensor([5])).tolist()
    [[0.0, 2.0, 3.0]]
    """

    def __init__(self, items: int) -> None:
        self.time = 0
        self.latest = torch.zeros(items)

    def scores(self, users: Tensor) -> Tensor:
        """The same for all users ``(n, items)``."""
        return self.latest.expand(len(users), -1)

    def learn(self, users: Tensor, items: Tensor) -> None:  # noqa: ARG002
        """Remember when."""
        for item in items.tolist():
            self.time += 1
            self.latest[item] = self.time


class FollowLast:
    """Scores items by how often they came next after the user's last one, over all users; ties by popularity.

    >>> control = FollowLast(users=2, items=3)
    >>> control.learn(torch.tensor([0, 0, 1]), torch.tensor([2, 1, 2]))
    >>> control.scores(torch.tensor([1])).argmax(1).tolist()  # 1 followed 2, which user 1 had last
    [1]
    """

    def __init__(self, users: int, items: int) -> None:
        self.after = torch.zeros(items, items)
        self.last = torch.full((users,), -1)
        self.popularity = Popularity(items)

    def scores(self, users: Tensor) -> Tensor:
        """By the last item of each user ``(n, items)``; popularity where there is none."""
        last = self.last[users]
        followed = self.after[last.clamp(min=0)] * (last >= 0)[:, None]
        return followed + self.popularity.scores(users) / (1 + self.popularity.counts.sum())

    def learn(self, users: Tensor, items: Tensor) -> None:
        """Count what followed what."""
        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            before = int(self.last[user])
            if before >= 0:
                self.after[before, item] += 1
            self.last[user] = item
        self.popularity.learn(users, items)
