"""What a task is: three disjoint sets of samples, and how they are cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["vector", "series", "image", "tokens", "pairs", "text", "graph", "other"]
_TRAIN_ROWS = 2_000
_TENSORS = ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test")
_PURPOSES = ("split", "bits", "dummy", "label noise", "subset")


@dataclass(frozen=True, kw_only=True)
class Data:
    """One task, ready to train on.

    Inputs have one row per sample; labels are int64 classes, one for each row, or of ``text`` for each of its tokens.
    Floating point labels, as those of ``graph``, are numbers, and nothing is classified.
    """

    name: str
    kind: Kind
    """``vector`` (n, d), ``series`` (n, channels, length), ``image`` (n, channels, h, w), ``tokens`` (n, length),
    ``pairs`` (n, 2·modulus), ``text`` (n, length), with labels of that shape,
    ``graph`` (n, atoms, 11 + 4·atoms), ``other`` (n, …), of a user's own."""
    x_train: Tensor
    y_train: Tensor
    x_validation: Tensor
    y_validation: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    """0: of numbers, or unknown until the model says."""
    vocabulary: int = 0
    """Number of different tokens; 0 unless ``kind`` is ``tokens`` or ``text``."""
    description: str
    source: str
    tolerance: float = 0.0
    """Where labels are numbers: error up to which an answer counts as right in what is called accuracy."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x_train.shape[1:])

    @property
    def train_size(self) -> int:
        """Number of training samples."""
        return len(self.x_train)

    def to(self, device: torch.device) -> Data:
        """The same task with its samples on a device; itself, where they lie there."""
        moved = {name: getattr(self, name).to(device) for name in _TENSORS}
        return self if all(moved[name] is getattr(self, name) for name in _TENSORS) else replace(self, **moved)

    def described(self) -> dict[str, Any]:
        """What a run learns from, for its record."""
        return {
            "name": self.name,
            "kind": self.kind,
            "description": self.description,
            "source": self.source,
            "num_classes": self.num_classes,
            "input_shape": list(self.input_shape),
            "samples": {
                "train": len(self.y_train),
                "validation": len(self.y_validation),
                "test": len(self.y_test),
            },
        }


def in_three(parts: Sequence[Tensor], inputs: Tensor, labels: Tensor, **facts: Any) -> Data:
    """Take training, validation and test set by their indices; ``facts`` are the other fields of :class:`Data`."""
    train, validation, test = parts
    return Data(
        x_train=inputs[train],
        y_train=labels[train],
        x_validation=inputs[validation],
        y_validation=labels[validation],
        x_test=inputs[test],
        y_test=labels[test],
        **facts,
    )


def generator(seed: int, purpose: str) -> torch.Generator:
    """A generator per purpose, so that turning one option on leaves the other draws alone."""
    return torch.Generator().manual_seed((seed * len(_PURPOSES) + _PURPOSES.index(purpose)) % 2**63)


def training_sample(data: Data) -> slice:
    """Training rows to evaluate on: the first ones; of text, whose neighbors overlap, as many as to validate."""
    if data.kind != "text":
        return slice(_TRAIN_ROWS)
    count = min(_TRAIN_ROWS, len(data.x_train), len(data.x_validation))
    step = len(data.x_train) // count
    return slice(0, step * count, step)
