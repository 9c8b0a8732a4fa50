"""The order of training samples, from a generator of its own, resumable inside an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
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
        self.epoch = 0

    def __iter__(self) -> Batches:
        """Itself."""
        return self

    def __next__(self) -> Tensor:
        """Indices of the next batch."""
        if self._position >= self.size:
            if self.batch_size < self.size:
                self._order = torch.randperm(self.size, generator=self._generator)
            self._position = 0
            self.epoch += 1
        batch = self._order[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs."""
        return {
            "order": self._order.clone(),
            "position": self._position,
            "epoch": self.epoch,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: if it is of another number of samples.
        """
        if len(state["order"]) != self.size:
            raise ValueError(f"the saved order is of {len(state['order'])} samples, the data has {self.size}")
        self._order = state["order"].clone()
        self._position = state["position"]
        self.epoch = state["epoch"]
        self._generator.set_state(state["generator"])


def batches_of(config: RunConfig, size: int) -> Batches:
    """The batches of a run with so many training samples."""
    return Batches(size, config.run.batch_size, (config.run.seed + 0xBA7C4) % 2**63)
