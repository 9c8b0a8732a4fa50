"""The order of training samples, from a generator of its own, resumable inside an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surgecollapse.lab.data.streamed import epoch_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from surgecollapse.lab.config import RunConfig


class Batches:
    """Endless batches of indices: every epoch is a new permutation, its last batch may be smaller.

    Args:
        size: number of samples.
        batch_size: samples in a batch; 0, or ``size`` and more, always gives all samples in their order.
        seed: of the permutations.

    >>> batches = Batches(5, 2, seed=0)
    >>> epoch = [next(batches) for _ in range(3)]
    >>> sorted(torch.cat(epoch).tolist()), [len(batch) for batch in epoch]
    ([0, 1, 2, 3, 4], [2, 2, 1])
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size = size
        self.batch_size = min(batch_size or size, size)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.arange(size)
        self._position = size
        self._weights: Tensor | None = None
        self._given = self.batch_size
        self.epoch = 0

    def __iter__(self) -> Batches:
        """Itself."""
        return self

    def __next__(self) -> Tensor:
        """Indices of the next batch."""
        if self._position >= len(self._order):
            self._order, self._position = self._next_order(), 0
            self.epoch += 1
        size = self.batch_size if self.batch_size < self.size else len(self._order)
        batch = self._order[self._position : self._position + size]
        self._position += size
        return batch

    def _next_order(self) -> Tensor:
        """The rows of an epoch: each one once, or as often as its weight says."""
        order = torch.arange(self.size)
        if self._weights is not None:
            often = self._weights.floor()
            often += torch.rand(self.size, generator=self._generator) < self._weights - often
            drawn = order.repeat_interleave(often.long())
            order = drawn if len(drawn) else order[self._weights > 0]
        if self.batch_size >= self.size:
            return order
        return order[torch.randperm(len(order), generator=self._generator)]

    def set_batch_size(self, size: int) -> None:
        """Take so many samples from the next batch on; ``size`` of the data and more: all of them."""
        self.batch_size = min(size, self.size)

    def weigh(self, rows: Sequence[int], weight: float) -> None:
        """Take rows ``weight`` times an epoch on average; from the next epoch on, but what is dropped goes at once.

        Raises:
            ValueError: if there is no such row, or nothing would be left.
        """
        if max(rows) >= self.size:
            raise ValueError(f"no sample {max(rows)}: there are {self.size}, from 0 to {self.size - 1}")
        weights = torch.ones(self.size) if self._weights is None else self._weights.clone()
        weights[list(rows)] = weight
        if not bool((weights > 0).any()):
            raise ValueError("no training sample would be left")
        self._weights = None if bool((weights == 1).all()) else weights
        left = self._order[self._position :]
        self._order, self._position = left[weights[left] > 0], 0

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs."""
        return {
            "order": self._order.clone(),
            "position": self._position,
            "epoch": self.epoch,
            "generator": self._generator.get_state(),
            **({} if self.batch_size == self._given else {"batch_size": self.batch_size}),
            **({} if self._weights is None else {"weights": self._weights.clone()}),
            **({} if len(self._order) == self.size else {"size": self.size}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: if it is of another number of samples.
        """
        size = state.get("size", len(state["order"]))
        if size != self.size:
            raise ValueError(f"the saved order is of {size} samples, the data has {self.size}")
        self._order = state["order"].clone()
        self._position = state["position"]
        self.epoch = state["epoch"]
        self._generator.set_state(state["generator"])
        self.batch_size = state.get("batch_size", self._given)
        weights = state.get("weights")
        self._weights = None if weights is None else weights.clone()


class Addresses:
    """Endless batches of (epoch, number): each epoch in its own order, its last batch may be smaller.

    >>> addresses = Addresses(3, 2, seed=0)
    >>> [len(next(addresses)) for _ in range(4)]
    [2, 1, 2, 1]
    """

    def __init__(self, size: int, batch_size: int, seed: int, blocks: Sequence[int] | None = None) -> None:
        self.size, self.batch_size, self._seed, self._blocks = size, min(batch_size, size), seed, blocks
        self.epoch = self.position = 0
        self._order: Tensor | None = None
        self._weights: Tensor | None = None

    def __iter__(self) -> Addresses:
        """Itself."""
        return self

    def __next__(self) -> list[tuple[int, int]]:
        """Addresses of the next batch."""
        rows = self._ordered()[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return [(self.epoch, row) for row in rows.tolist()]

    def _ordered(self) -> Tensor:
        """The order of the epoch in which the next batch is."""
        if self._order is None:
            self._order = self._order_of(self.epoch)
        while self.position >= len(self._order):
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._order_of(self.epoch)
        return self._order

    def _order_of(self, epoch: int) -> Tensor:
        order = epoch_order(self.size, epoch, self._seed, self._blocks)
        if self._weights is None:
            return order
        words = np.random.SeedSequence([self._seed, epoch, 0x3E16]).generate_state(2, np.uint32)
        draws = torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
        weights = self._weights[order]
        often = weights.floor()
        often += torch.rand(self.size, generator=draws) < weights - often
        drawn = order.repeat_interleave(often.long())
        return drawn if len(drawn) else order[weights > 0]

    @property
    def weights(self) -> dict[int, float]:
        """How often samples come on average, of those that do not come once an epoch."""
        if self._weights is None:
            return {}
        return {row: float(self._weights[row]) for row in (self._weights != 1).nonzero()[:, 0].tolist()}

    def weigh(self, weights: Iterable[tuple[Sequence[int], float]]) -> None:
        """Take rows ``weight`` times an epoch on average; a new epoch begins at once.

        Raises:
            ValueError: if there is no such row, or nothing would be left.
        """
        found = torch.ones(self.size) if self._weights is None else self._weights.clone()
        for rows, weight in weights:
            if len(rows) and max(rows) >= self.size:
                raise ValueError(f"no sample {max(rows)}: there are {self.size}, from 0 to {self.size - 1}")
            found[list(rows)] = weight
        if not bool((found > 0).any()):
            raise ValueError("no training sample would be left")
        self._weights = None if bool((found == 1).all()) else found
        self.go_to(self.epoch + 1, 0)

    def put_weights(self, weights: Mapping[int, float]) -> None:
        """Have exactly these weights, as :attr:`weights` gave them."""
        self._weights = None
        if weights:
            self._weights = torch.ones(self.size)
            self._weights[list(weights)] = torch.tensor(list(weights.values()))
        self._order = None

    def go_to(self, epoch: int, position: int) -> None:
        """Go on there."""
        self.epoch, self.position, self._order = epoch, position, None

    def skip(self) -> None:
        """Go past a batch."""
        size = self.size if self._weights is None else len(self._ordered())
        if self.position >= size:
            self.epoch, self.position, self._order = self.epoch + 1, 0, None
        self.position += self.batch_size


def batches_of(config: RunConfig, size: int) -> Batches:
    """The batches of a run with so many training samples."""
    return Batches(size, config.run.batch_size, (config.run.seed + 0xBA7C4) % 2**63)
