"""Batches of a run: of tensors in memory, or read ahead by worker processes; in an order that resumes bitwise."""

from __future__ import annotations

import copy
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.streamed import (
    Addressed,
    Augmented,
    BadDataError,
    Part,
    StreamedData,
    collated,
)
from surgecollapse.lab.training.sampler import Addresses, Batches, batches_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.data.streamed import Source

_AHEAD = 2
"""Batches that each worker reads ahead."""


class Feed(Protocol):
    """Endless training batches."""

    @property
    def batch_size(self) -> int:
        """Samples in a batch."""
        ...

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the next batch, on the device of the run."""
        ...

    def set_batch_size(self, size: int) -> None:
        """Take so many samples from the next batch on."""
        ...

    def weigh(self, rows: Sequence[int], weight: float) -> None:
        """Take some samples ``weight`` times an epoch on average."""
        ...

    def weigh_all(self, weights: Sequence[tuple[Sequence[int], float]]) -> None:
        """The same of several groups at once."""
        ...

    def augment(self, share: float) -> float:
        """Augment this share of the samples; returns which share it was."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class MemoryFeed:
    """Batches of tensors.

    Args:
        data: the samples.
        batches: their order.
    """

    def __init__(self, data: Data, batches: Batches) -> None:
        self._data, self._batches = data, batches

    @property
    def batch_size(self) -> int:
        """Samples in a batch."""
        return self._batches.batch_size

    def set_batch_size(self, size: int) -> None:
        """Take so many samples from the next batch on."""
        self._batches.set_batch_size(size)

    def weigh(self, rows: Sequence[int], weight: float) -> None:
        """Take some samples ``weight`` times an epoch on average.

        Raises:
            ValueError: if there is no such sample, or nothing would be left.
        """
        self._batches.weigh(rows, weight)

    def weigh_all(self, weights: Sequence[tuple[Sequence[int], float]]) -> None:
        """The same of several groups."""
        for rows, weight in weights:
            self.weigh(rows, weight)

    def augment(self, share: float) -> float:
        """Refuse: samples in memory are not augmented.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"samples in memory are not augmented: no share of {share:g} can be")

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the next batch."""
        rows = next(self._batches).to(self._data.x_train.device, non_blocking=True)
        return self._data.x_train[rows], self._data.y_train[rows]

    def state_dict(self) -> dict[str, Any]:
        """The order so far."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._batches.load_state_dict(state)

    def close(self) -> None:
        """Nothing is open."""


class StreamFeed:
    """Batches that are read from a source, by worker processes if the data has any.

    What was read ahead is not part of the state: after a resume it is read again, to the same values.

    Args:
        data: the samples.
        batch_size: samples in a batch.
        seed: of the order and of what is random in reading.
        device: where batches go.
        dtype: of inputs that are floating point.
    """

    def __init__(
        self, data: StreamedData, batch_size: int, seed: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._data, self._device, self._dtype, self._seed = data, device, dtype, seed
        self._addresses = Addresses(len(data.train), batch_size, seed, getattr(data.train, "blocks", None))
        self._given = self._addresses.batch_size
        self._augmented = 1.0
        self._read: Iterator[Any] | None = None

    @property
    def batch_size(self) -> int:
        """Samples in a batch."""
        return self._addresses.batch_size

    def set_batch_size(self, size: int) -> None:
        """Take so many samples from the next batch on; what was read ahead is read again."""
        self.close()
        self._addresses.batch_size = min(size, self._addresses.size)

    def weigh(self, rows: Sequence[int], weight: float) -> None:
        """Take some samples ``weight`` times an epoch on average; a new epoch begins at once.

        Raises:
            ValueError: if there is no such sample, or nothing would be left.
        """
        self.weigh_all([(rows, weight)])

    def weigh_all(self, weights: Sequence[tuple[Sequence[int], float]]) -> None:
        """The same of several groups."""
        self._addresses.weigh(weights)
        self.close()

    def augment(self, share: float) -> float:
        """Augment this share of the samples; returns which share it was.

        Raises:
            ValueError: if the data is not augmented.
        """
        if not hasattr(self._data.train, "plain"):
            raise ValueError(f"{self._data.name} is not augmented: its training data has no `plain`")
        before, self._augmented = self._augmented, share
        self.close()
        return before

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the next batch; one without a readable sample is passed over."""
        if self._read is None:
            ahead = copy.copy(self._addresses)
            source = self._data.train if self._augmented == 1.0 else Augmented(self._data.train, self._augmented)
            self._read = _read(source, self._data, ahead, self._seed, "the train data")
        while True:
            x, y, bad = next(self._read)
            self._addresses.skip()
            self._data.bad.take(bad)
            if x is not None:
                return _placed(x, y, self._data, self._device, self._dtype)

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch, and the samples that could not be read."""
        where = self._addresses
        return {
            "size": where.size,
            "epoch": where.epoch,
            "position": where.position,
            **({} if where.batch_size == self._given else {"batch_size": where.batch_size}),
            **({"weights": where.weights} if where.weights else {}),
            **({} if self._augmented == 1.0 else {"augmented": self._augmented}),
            "bad": dict(self._data.bad.named),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: if it is of another number of samples.
        """
        if state["size"] != self._addresses.size:
            raise ValueError(f"the saved order is of {state['size']} samples, the data has {self._addresses.size}")
        self.close()
        self._addresses.put_weights(state.get("weights", {}))
        self._augmented = state.get("augmented", 1.0)
        self._addresses.go_to(state["epoch"], state["position"])
        self._addresses.batch_size = state.get("batch_size", self._given)
        self._data.bad.named.update(state["bad"])

    def close(self) -> None:
        """End the workers."""
        self._read = None


def feed_of(config: RunConfig, data: Data) -> Feed:
    """The training batches of a run.

    Raises:
        ConfigError: if a batch is to take all samples of data that do not lie in memory.
    """
    if not isinstance(data, StreamedData):
        return MemoryFeed(data, batches_of(config, len(data.x_train)))
    if config.run.batch_size == 0:
        raise ConfigError("batch_size = 0 takes all samples, and these are read while the run trains: give a number")
    seed = (config.run.seed + 0xBA7C4) % 2**63
    dtype = getattr(torch, config.run.precision)
    return StreamFeed(data, config.run.batch_size, seed, device=data.x_train.device, dtype=dtype)


def part_batches(
    data: StreamedData, part: str, batch_size: int, *, most: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All samples of a part in order, or ``most`` of them evenly spaced, as batches on the device of the data."""
    source: Source = getattr(data, part)
    source = getattr(source, "plain", source)
    rows = torch.arange(len(source))
    if most is not None and most < len(source):
        rows = torch.linspace(0, len(source) - 1, most).long()
        source = Part(source, rows)
    cut = torch.split(torch.arange(len(rows)), batch_size)
    addresses = [[(0, row) for row in some.tolist()] for some in cut]
    some = data.x_train
    for x, y, bad in _read(source, data, addresses, data.seed, f"the {part} data"):
        data.bad.take(bad)
        if x is not None:
            dtype = some.dtype if some.is_floating_point() else x.dtype
            yield _placed(x, y, data, some.device, dtype)


def _read(source: Source, data: StreamedData, addresses: Any, seed: int, what: str) -> Iterator[Any]:
    """Batches at addresses: inputs, labels, and the samples that could not be read."""
    workers: dict[str, Any] = {"prefetch_factor": _AHEAD, "worker_init_fn": _in_worker} if data.workers else {}
    loader: DataLoader[Any] = DataLoader(
        Addressed(source, seed, what),
        batch_sampler=addresses,
        num_workers=data.workers,
        collate_fn=partial(collated, collate=getattr(source, "collate", None)),
        generator=torch.Generator().manual_seed(0),  # it draws seeds of workers, which nothing depends on
        **workers,
    )
    try:
        yield from loader
    except ConfigError as error:  # in a worker, torch puts its traceback before the message
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ConfigError(lines[-1].rpartition("ConfigError: ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise BadDataError(f"a process that reads data was killed ({error}): lower workers, or batch_size") from error


def _in_worker(_number: int) -> None:
    """Ctrl-C is for the run, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _placed(
    x: Tensor, y: Tensor, data: StreamedData, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if data.num_classes and not y.is_floating_point() and y.numel():
        in_range(y, data.num_classes, data.name)
    if x.is_floating_point():
        x = x.to(dtype)
        y = y.to(dtype) if y.is_floating_point() else y
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def in_range(labels: Tensor, num_classes: int, name: str) -> None:
    """Check that labels are classes from 0.

    Raises:
        ConfigError: naming one that is not.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        found = low if low < 0 else high
        raise ConfigError(f"{name}: label {found} is out of range: expected 0 to {num_classes - 1}")
