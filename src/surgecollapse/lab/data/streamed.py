"""Data that are read sample by sample while a run trains: sources, damaged samples, and the order of an epoch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE_ROWS = 512
"""Rows of each part that are held in memory, for analyses and for the accuracy on training rows."""
SAMPLE_BYTES = 64 * 2**20
"""Most that these rows may take."""
WINDOW = 16
"""Blocks whose samples are shuffled together."""
_SHOWN = 3


@runtime_checkable
class Source(Protocol):
    """Samples by number, each read when it is asked for.

    A source may also have ``num_classes`` or ``classes``, and ``vocabulary``. Its ``blocks`` are numbers of samples
    that lie together in a file, in order: they are read together. ``plain`` is the same without augmentation.
    ``sources`` maps the name of each source in it to the numbers of its samples. ``collate`` makes a batch ``(inputs,
    labels)`` of a list of its samples.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """One sample and its label; an ``OSError`` or ``ValueError`` says that it is missing or damaged."""
        ...


class BadDataError(ValueError):
    """More samples are missing or damaged than the run allows."""


@dataclass
class BadSamples:
    """The samples that were missing or damaged, by name, each with why; they are skipped, up to a limit.

    Args:
        limit: how many may be.
        tell: takes one line for each.

    Raises:
        BadDataError: from :meth:`take`, at the first beyond the limit.

    >>> bad = BadSamples(limit=1)
    >>> bad.take({"a.jpg": "truncated"})
    >>> bad.take({"a.jpg": "truncated", "b.jpg": "no such file"})
    Traceback (most recent call last):
    surgecollapse.lab.data.streamed.BadDataError: 2 samples are missing or damaged, max_bad allows 1: a.jpg ...
    """

    limit: int = 0
    tell: Callable[[str], None] = lambda _line: None
    named: dict[str, str] = field(default_factory=dict)

    def take(self, found: dict[str, str]) -> None:
        """Note samples that could not be read."""
        for name, why in found.items():
            if name not in self.named:
                self.named[name] = why
                if len(self.named) <= self.limit:
                    self.tell(f"skipped {name}: {why} ({len(self.named)} of at most {self.limit} bad samples)")
        if len(self.named) > self.limit:
            shown = [f"{name} ({why})" for name, why in list(self.named.items())[:_SHOWN]]
            more = f" and {len(self.named) - _SHOWN} more" if len(self.named) > _SHOWN else ""
            count = "1 sample is" if len(self.named) == 1 else f"{len(self.named)} samples are"
            raise BadDataError(f"{count} missing or damaged, max_bad allows {self.limit}: {', '.join(shown)}{more}")


@dataclass(frozen=True, kw_only=True)
class StreamedData(Data):
    """A task whose samples are read while it trains; the tensors hold a few rows of each part, evenly spaced."""

    train: Source
    validation: Source
    test: Source
    workers: int = 0
    validation_samples: int | None = None
    bad: BadSamples = field(default_factory=BadSamples)
    seed: int = 0

    @property
    def train_size(self) -> int:
        """Number of training samples."""
        return len(self.train)

    def described(self) -> dict[str, Any]:
        """What a run learns from, for its record."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {**super().described(), "samples": {name: len(source) for name, source in parts.items()}}


@dataclass(frozen=True)
class Part:
    """Some samples of a source, by their numbers in it."""

    source: Any
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.source[int(self.rows[index])]

    def __getattr__(self, name: str) -> Any:
        if name in ("source", "rows", "blocks") or name.startswith("__"):
            raise AttributeError(name)
        if name == "plain":
            return Part(self.source.plain, self.rows)
        if name == "sources":
            return {key: _positions(self.rows, rows) for key, rows in self.source.sources.items()}
        if name == "name_of":
            own = self.source.name_of
            return lambda index: own(int(self.rows[index]))
        return getattr(self.source, name)


def _positions(rows: Tensor, wanted: Sequence[int]) -> list[int]:
    """Where in ``rows`` the wanted ones are."""
    found: list[int] = torch.isin(rows, torch.as_tensor(wanted)).nonzero()[:, 0].tolist()
    return found


@dataclass(frozen=True)
class Augmented:
    """A source of which a share of the samples is augmented, drawn anew each time."""

    source: Any
    share: float

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        augmented = float(torch.rand(())) < self.share
        return self.source[index] if augmented else self.source.plain[index]

    def __getattr__(self, name: str) -> Any:
        if name in ("source", "share") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.source, name)


@dataclass(frozen=True)
class Unread:
    """What stands in a batch for a sample that could not be read."""

    name: str
    why: str


class Addressed(torch.utils.data.Dataset[Any]):
    """Samples by (epoch, number): what is random in reading one depends on this, the seed, and on nothing else.

    Args:
        source: the samples.
        seed: of the run.
        what: the part, for the names of samples that cannot be read.
    """

    def __init__(self, source: Source, seed: int, what: str) -> None:
        self._source, self._seed, self._what = source, seed, what

    def __getitem__(self, index: tuple[int, int]) -> Any:
        """One sample, or :class:`Unread`, by its address."""
        return self.__getitems__([index])[0]

    def __getitems__(self, addresses: Sequence[tuple[int, int]]) -> list[Any]:
        """Samples of a batch."""
        with _generators_restored():
            return [self._one(epoch, index) for epoch, index in addresses]

    def _one(self, epoch: int, index: int) -> Any:
        _seed_generators(self._seed, epoch, index)
        try:
            return self._source[index]
        except ConfigError:
            raise
        except (OSError, ValueError) as error:
            name_of = getattr(self._source, "name_of", None)
            name = f"sample {index} of {self._what}" if name_of is None else str(name_of(index))
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return Unread(name, " ".join(why.split()) or type(error).__name__)


@contextmanager
def _generators_restored() -> Iterator[None]:
    """Give the global generators of torch, NumPy and Python their states back after a block."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _seed_generators(*numbers: int) -> None:
    """Seed them, from all of the numbers."""
    words = np.random.SeedSequence(numbers).generate_state(4, np.uint32).tolist()
    torch.default_generator.manual_seed(words[0] << 32 | words[1])
    np.random.seed(words[2])  # noqa: NPY002
    random.seed(words[3])


def collated(items: Sequence[Any], collate: Callable[[list[Any]], Any] | None) -> tuple[Any, Any, dict[str, str]]:
    """A batch of samples: inputs and labels, ``None`` where none could be read, and those that could not."""
    bad = {item.name: item.why for item in items if isinstance(item, Unread)}
    good = [item for item in items if not isinstance(item, Unread)]
    if not good:
        return None, None, bad
    if collate is not None:
        batch = collate(good)
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(one, Tensor) for one in batch):
            raise ConfigError(
                f"collate_fn gave a {type(batch).__name__}: expected a pair of tensors, inputs and labels"
            )
        return batch[0], batch[1], bad
    for column, what in enumerate(("inputs", "labels")):
        shapes = dict.fromkeys(tuple(item[column].shape) for item in good)
        if len(shapes) > 1:
            raise ConfigError(
                f"{what} of different shapes in one batch: {', '.join(map(str, list(shapes)[:_SHOWN]))}; give all one "
                "shape, or a DataLoader with a collate_fn"
            )
    return torch.stack([item[0] for item in good]), torch.stack([item[1] for item in good]), bad


def held_rows(source: Source, bad: BadSamples, seed: int, what: str) -> tuple[Tensor, Tensor]:
    """A few samples and labels, evenly spaced over a source, without augmentation.

    Raises:
        ConfigError: if none of them can be read.
    """
    source = getattr(source, "plain", source)
    read = Addressed(source, seed, what)
    count, kept = min(SAMPLE_ROWS, len(source)), []
    room = SAMPLE_BYTES
    for row in torch.linspace(0, len(source) - 1, count).long().tolist():
        item = read[(0, row)]
        x, y, unread = collated([item], getattr(source, "collate", None))
        bad.take(unread)
        if x is None:
            continue
        room -= x.nbytes + y.nbytes
        kept.append((x, y))
        if room < 0:
            break
    if not kept:
        raise ConfigError(f"no sample of {what} could be read")
    items = [(x[0], y[0]) for x, y in kept]
    x, y, _ = collated(items, None)
    return x, y


def epoch_order(size: int, epoch: int, seed: int, blocks: Sequence[int] | None) -> Tensor:
    """The order of the samples in one epoch, a function of its arguments alone.

    Without blocks a random permutation. With blocks, samples that lie together in a file: the blocks are permuted. The
    samples of every :data:`WINDOW` of them are permuted together, so that files are read one after another.

    Args:
        size: number of samples.
        epoch: from 0.
        seed: of the run.
        blocks: numbers of samples of each block, in order; they sum to ``size``.

    >>> order = epoch_order(6, 0, seed=0, blocks=None)
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4, 5]
    """
    words = np.random.SeedSequence([seed, epoch, 0x0DE2]).generate_state(2, np.uint32)
    draws = torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
    if not blocks:
        return torch.randperm(size, generator=draws)
    starts = torch.cumsum(torch.tensor([0, *blocks]), 0)
    chosen = torch.randperm(len(blocks), generator=draws).tolist()
    parts = []
    for first in range(0, len(chosen), WINDOW):
        rows = torch.cat([torch.arange(int(starts[b]), int(starts[b + 1])) for b in chosen[first : first + WINDOW]])
        parts.append(rows[torch.randperm(len(rows), generator=draws)])
    return torch.cat(parts)


def limited(data: StreamedData, train_samples: int | None) -> StreamedData:
    """The data with so many of the training samples, drawn at random."""
    if train_samples is None:
        return data
    if train_samples > len(data.train):
        raise ConfigError(f"train_samples = {train_samples}: {data.name} has {len(data.train)} training samples")
    rows = epoch_order(len(data.train), 0, data.seed, None)[:train_samples].sort().values
    return replace(
        data,
        train=Part(data.train, rows),
        description=f"{data.description}; {train_samples} of the training samples used",
    )
