"""Data of a user's own project: whatever their factory returns, as a task of the lab.

Tensors stay in memory, and iterables are read into it once. Data sets and the data sets of loaders are read while the
run trains, in its own order and batch size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, TensorDataset, default_collate

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data, Kind
from surgecollapse.lab.data.streamed import BadSamples, Part, Source, StreamedData, epoch_order, held_rows
from surgecollapse.lab.references import label

EXPECTED = (
    "a surgecollapse.lab.data.dataset.Data, or two or three parts (training, held-out; or training, validation, test), "
    "each a torch Dataset or DataLoader, a pair of tensors (inputs, labels), or an iterable of such pairs; or a "
    "mapping of splits, such as a DatasetDict"
)
_SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_LABELS = ("label", "labels", "target", "targets", "y")
_NAMES = ("train", "validation", "test")
_KINDS: dict[int, Kind] = {1: "vector", 2: "series", 3: "image"}


def as_data(
    made: Any, reference: str, seed: int, bad: BadSamples, *, workers: int = 0, held: int | None = None
) -> Data:
    """What a factory returned, as a task.

    Two parts are training samples and held-out ones, of which a random half is for validation and the rest for the
    test. Three are training, validation and test.

    Args:
        made: what it returned.
        reference: the factory, for the name and for errors.
        seed: of the cut.
        bad: takes samples that cannot be read.
        workers: processes that read samples.
        held: held-out samples that evaluations before the end take.

    Raises:
        ConfigError: if it cannot be used.
    """
    if isinstance(made, Data):
        return made
    parts = _parts(made, reference)
    sources = [_part(part, f"{reference}, {name}") for name, part in zip(_NAMES, parts, strict=False)]
    return from_parts(sources, label(reference), reference, seed, bad, workers=workers, held=held)


def from_parts(
    parts: Sequence[Any],
    name: str,
    origin: str,
    seed: int,
    bad: BadSamples,
    *,
    workers: int = 0,
    held: int | None = None,
) -> Data:
    """A task of two or three parts, cut as :func:`as_data` says.

    Args:
        parts: sources of samples.
        name: what the task is called.
        origin: where the samples are from, for the record and for errors.
        seed: of the run.
        bad: takes samples that cannot be read.
        workers: processes that read samples.
        held: held-out samples that evaluations before the end take.

    Raises:
        ConfigError: if a part is empty, or its labels are out of range.
    """
    sources, cut = list(parts), len(parts) == 2
    if cut:
        sources[1:] = _halves(sources[1], seed, origin)
    sizes = "/".join(str(len(source)) for source in sources)
    what = "halves of the held-out samples for validation and test" if cut else "parts as given"
    facts: dict[str, Any] = {
        "name": name,
        "description": f"{name}: {sizes} samples for training/validation/test, {what}",
        "source": origin,
    }
    if all(isinstance(source, _Rows) for source in sources):
        return _in_memory(sources, origin, facts)
    for source, part in zip(sources, _NAMES, strict=True):
        if not len(source):
            raise ConfigError(f"{name}: the {part} part is empty; expected at least one sample")
    rows = [held_rows(source, bad, seed, f"the {part} data") for source, part in zip(sources, _NAMES, strict=True)]
    (x, y), train = rows[0], sources[0]
    for part, (inputs, labels) in zip(_NAMES, rows, strict=True):
        if labels.is_floating_point() != y.is_floating_point() or inputs.shape[1:] != x.shape[1:]:
            raise ConfigError(
                f"{name}: samples of {part} are {tuple(inputs.shape[1:])} with {labels.dtype} labels, those of train "
                f"{tuple(x.shape[1:])} with {y.dtype}; expected the same"
            )
    fields: dict[str, Any] = {
        f"{letter}_{part}": found[column]
        for part, found in zip(_NAMES, rows, strict=True)
        for column, letter in enumerate("xy")
    }
    return StreamedData(
        kind=_kind(x, y),
        **facts,
        **fields,
        num_classes=0 if y.is_floating_point() else _classes(train),
        vocabulary=0 if x.is_floating_point() else int(getattr(train, "vocabulary", 0)),
        train=sources[0],
        validation=sources[1],
        test=sources[2],
        workers=workers,
        validation_samples=held,
        bad=bad,
        seed=seed,
    )


def _classes(source: Any) -> int:
    """Number of classes that a source says it has; 0 if it does not say."""
    for name in ("num_classes", "classes"):
        found = getattr(source, name, None)
        if found is not None:
            return found if isinstance(found, int) else len(found)
    return 0


def _parts(made: Any, reference: str) -> list[Any]:
    """The two or three parts."""
    if isinstance(made, Mapping):
        found = {role: key for role, keys in _SPLITS.items() for key in keys if key in made}
        if "train" not in found or len(found) < 2:
            raise ConfigError(
                f"{reference} gave the splits {', '.join(map(str, made)) or '(none)'}: expected train and validation "
                "or test"
            )
        return [made[found[role]] for role in _SPLITS if role in found]
    if isinstance(made, tuple | list) and len(made) in (2, 3):
        return list(made)
    came = f"a {type(made).__name__}" + (f" of {len(made)}" if isinstance(made, tuple | list) else "")
    raise ConfigError(f"{reference} gave {came}: expected {EXPECTED}")


@dataclass(frozen=True)
class _Rows:
    """Samples in memory."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


class _DataSet:
    """A map-style data set of a user.

    Args:
        dataset: anything with a length and numbered samples.
        where: for errors.
        collate: what makes a batch of raw samples, if they have no common shape.
    """

    def __init__(self, dataset: Any, where: str, collate: Any = None) -> None:
        self.dataset, self._where = dataset, where
        if collate is not None:
            self.collate = collate
        self._facts = dataset
        while not _classes(self._facts) and hasattr(self._facts, "dataset"):  # Subset
            self._facts = self._facts.dataset
        features = getattr(dataset, "features", None)
        column = _label_column(list(features)) if isinstance(features, Mapping) else None
        if isinstance(dataset, ConcatDataset):
            ends = [0, *dataset.cumulative_sizes]
            self.sources = {str(n): range(*pair) for n, pair in enumerate(pairwise(ends))}
        elif hasattr(dataset, "sources"):
            self.sources = dataset.sources
        classes = _classes(self._facts) or (_classes(features[column]) if features and column else 0)
        if classes:
            self.num_classes = classes

    @property
    def plain(self) -> _DataSet:
        """The same without augmentation, if the user's has it."""
        return _DataSet(self.dataset.plain, self._where, getattr(self, "collate", None))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[index]
        return item if hasattr(self, "collate") else _sample(item, f"{self._where}, sample {index}")


def _part(part: Any, where: str) -> Any:
    """One part: rows in memory, or a source."""
    if isinstance(part, DataLoader):
        if isinstance(part.dataset, IterableDataset):
            return _gathered((item for batch in part for item in _unbatched(batch, where)), where)
        own = part.collate_fn is not default_collate
        return _DataSet(part.dataset, where, part.collate_fn if own else None)
    if isinstance(part, TensorDataset) and len(part.tensors) == 2:
        return _rows(part.tensors[0], part.tensors[1], where)
    if isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(one, Tensor | np.ndarray) for one in part):
        return _rows(part[0], part[1], where)
    if isinstance(part, (IterableDataset, list)):
        return _gathered(part, where)
    if isinstance(part, Source) and not isinstance(part, str | bytes | Mapping | Tensor | np.ndarray):
        return _DataSet(part, where)
    if isinstance(part, Iterable) and not isinstance(part, str | bytes | Mapping | Tensor | np.ndarray):
        return _gathered(part, where)
    raise ConfigError(f"{where}: got {_said(part)}; expected {EXPECTED}")


def _rows(x: Any, y: Any, where: str) -> _Rows:
    inputs, labels = _tensor(x, f"{where}, inputs"), _tensor(y, f"{where}, labels")
    if not inputs.ndim or not labels.ndim or len(inputs) != len(labels):
        raise ConfigError(
            f"{where}: inputs of shape {tuple(inputs.shape)} and labels of shape {tuple(labels.shape)}; expected one "
            "label for each input"
        )
    return _Rows(inputs, labels)


def _gathered(items: Iterable[Any], where: str) -> _Rows:
    """All samples of an iterable."""
    samples = [_sample(item, f"{where}, sample {number}") for number, item in enumerate(items)]
    if not samples:
        raise ConfigError(f"{where} is empty: expected at least one pair (input, label)")
    for column, what in enumerate(("inputs", "labels")):
        shapes = list(dict.fromkeys(tuple(sample[column].shape) for sample in samples))
        if len(shapes) > 1:
            raise ConfigError(f"{where}: {what} of different shapes {shapes[0]} and {shapes[1]}; expected one shape")
    return _Rows(torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples]))


def _unbatched(batch: Any, where: str) -> list[Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ConfigError(f"{where}: a batch is {_said(batch)}; expected a pair (inputs, labels)")
    return list(zip(*batch, strict=True))


def _sample(item: Any, where: str) -> tuple[Tensor, Tensor]:
    """Input and label of one sample, as tensors."""
    if isinstance(item, Mapping):
        column = _label_column(list(item))
        others = [name for name in item if name != column]
        if column is None or len(others) != 1:
            raise ConfigError(
                f"{where} has the columns {', '.join(map(str, item))}: expected one input and one of "
                f"{', '.join(_LABELS)}; choose or join columns in the factory"
            )
        item = (item[others[0]], item[column])
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ConfigError(f"{where} is {_said(item)}: expected a pair (input, label)")
    return _tensor(item[0], f"{where}, input"), _tensor(item[1], f"{where}, label")


def _label_column(names: list[str]) -> str | None:
    return next((name for name in _LABELS if name in names), None)


def _tensor(value: Any, where: str) -> Tensor:
    """A tensor of float32, or of int64; images of Pillow as (channels, height, width) in [0, 1]."""
    if hasattr(value, "getbands"):
        pixels = np.asarray(value)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{where} is {_said(value)}: expected a tensor, an array or numbers") from error
    if found.is_floating_point():
        return found.float()
    return found if found.dtype == torch.uint8 and found.ndim > 1 else found.long()


def _halves(held: Any, seed: int, reference: str) -> list[Any]:
    """Validation and test samples."""
    if len(held) < 2:
        raise ConfigError(f"{reference}: {len(held)} held-out samples; expected at least 2, for validation and test")
    order = epoch_order(len(held), 0, seed, None)
    rows = [half.sort().values for half in torch.tensor_split(order, 2)]
    if isinstance(held, _Rows):
        return [_Rows(held.x[half], held.y[half]) for half in rows]
    return [Part(held, half) for half in rows]


def _in_memory(parts: Sequence[_Rows], reference: str, facts: Mapping[str, Any]) -> Data:
    for name, part in zip(_NAMES, parts, strict=True):
        if not len(part):
            raise ConfigError(f"{reference}: the {name} part is empty; expected at least one sample")
        for own, first, what in ((part.x, parts[0].x, "inputs"), (part.y, parts[0].y, "labels")):
            if own.shape[1:] != first.shape[1:] or own.dtype != first.dtype:
                raise ConfigError(
                    f"{reference}: {what} of {name} are {own.dtype} {tuple(own.shape[1:])}, those of train "
                    f"{first.dtype} {tuple(first.shape[1:])}; expected the same"
                )
        if not part.y.is_floating_point() and int(part.y.min()) < 0:
            row = int((part.y < 0).flatten(start_dim=min(1, part.y.ndim - 1)).nonzero()[0, 0])
            raise ConfigError(
                f"{reference}: label {int(part.y.min())} in {name} (sample {row}); expected classes from 0"
            )
    x, y = parts[0].x, parts[0].y
    classes = 0 if y.is_floating_point() else max(int(part.y.max()) for part in parts) + 1
    vocabulary = 0 if x.is_floating_point() else max(int(part.x.max()) for part in parts) + 1
    tensors = {f"{letter}_{n}": getattr(part, letter) for n, part in zip(_NAMES, parts, strict=True) for letter in "xy"}
    return Data(kind=_kind(x, y), num_classes=classes, vocabulary=vocabulary, **facts, **tensors)


def _kind(x: Tensor, y: Tensor) -> Kind:
    """What samples are, by their type and shape."""
    if x.is_floating_point():
        return _KINDS.get(x.ndim - 1, "other")
    if x.dtype == torch.int64 and x.ndim == 2:
        return "text" if y.shape == x.shape and not y.is_floating_point() else "tokens"
    return "other"


def _said(value: Any) -> str:
    """What came, in a few words."""
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    if isinstance(value, Tensor | np.ndarray):
        return f"{article} {kind} of shape {tuple(value.shape)}"
    return f"{article} {kind} of {len(value)}" if isinstance(value, tuple | list | Mapping) else f"{article} {kind}"
