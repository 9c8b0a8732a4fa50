"""The order of training samples, from a generator of its own, resumable inside an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def batches_of(config: RunConfig, size: int) -> Batches:
    """The batches of a run with so many training samples."""
    return Batches(size, config.run.batch_size, (config.run.seed + 0xBA7C4) % 2**63)
