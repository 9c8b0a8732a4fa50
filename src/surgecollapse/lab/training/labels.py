"""The labels of training samples, which a person may correct while a run trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from surgecollapse.lab.data.dataset import Data
from surgecollapse.lab.data.streamed import StreamedData


def with_own_labels(data: Data) -> Data:
    """The data with a copy of its training labels, where they are one class for each sample in memory."""
    return replace(data, y_train=data.y_train.clone()) if _has_classes(data) else data


class LiveLabels:
    """Changes training labels in place, and back.

    Args:
        data: its training labels are written; see :func:`with_own_labels`.

    Attributes:
        changed: row → its new label.
    """

    def __init__(self, data: Data) -> None:
        self._data = data
        self._before: dict[int, int] = {}
        self.changed: dict[int, int] = {}

    def change(self, rows: Sequence[int], label: int) -> int:
        """Give rows another label; returns how many had a different one.

        Raises:
            ValueError: if there is no such row or class, or labels are not one class for each sample in memory.
        """
        y = self._data.y_train
        if not _has_classes(self._data):
            raise ValueError("samples are relabeled where each has one class and lies in memory")
        if max(rows) >= len(y):
            raise ValueError(f"no sample {max(rows)}: there are {len(y)}, from 0 to {len(y) - 1}")
        if label >= self._data.num_classes:
            raise ValueError(f"no class {label}: there are {self._data.num_classes}, from 0")
        different = [row for row in dict.fromkeys(rows) if int(y[row]) != label]
        if not different:
            raise ValueError(f"these samples have the label {label} already")
        for row in different:
            self._put(row, label)
        return len(different)

    def load(self, changed: Mapping[int, int]) -> None:
        """Have exactly these changes."""
        for row, label in self._before.items():
            self._data.y_train[row] = label
        self.changed = {}
        for row, label in changed.items():
            self._put(row, label)

    def _put(self, row: int, label: int) -> None:
        self._before.setdefault(row, int(self._data.y_train[row]))
        self._data.y_train[row] = self.changed[row] = label


def _has_classes(data: Data) -> bool:
    return not isinstance(data, StreamedData) and data.y_train.ndim == 1 and not data.y_train.is_floating_point()
