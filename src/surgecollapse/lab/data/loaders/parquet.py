"""Parquet shards (pyarrow): columns of numbers, lists of numbers or encoded pictures."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.loaders.pictures import centered, cropped, opened, with_changes
from surgecollapse.lab.data.streamed import WINDOW

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from surgecollapse.lab.data.streamed import BadSamples


class Parquet:
    """The rows of Parquet files, in the order of the files; the last row groups that were read stay in memory.

    Args:
        files: the shards of one part.
        columns: of the inputs and of the labels.
        bad: takes files that cannot be opened, and those are left out.
        size: side of the squares that are cut out of pictures.
        augment: cut at random and mirror, instead of the center.

    Raises:
        ConfigError: if a file lacks a column.
        BadDataError: if more files are damaged than ``bad`` allows.
        ModuleNotFoundError: without pyarrow.
    """

    def __init__(
        self, files: Sequence[Path], columns: tuple[str, str], bad: BadSamples, *, size: int, augment: bool
    ) -> None:
        import pyarrow
        from pyarrow import parquet

        self._columns, self._size, self._augment = columns, size, augment
        self._groups: list[tuple[Path, int]] = []
        self.blocks: list[int] = []
        for file in files:
            try:
                with parquet.ParquetFile(file) as shard:
                    names = shard.schema_arrow.names
                    rows = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
            except (OSError, pyarrow.ArrowInvalid) as error:
                bad.take({str(file): " ".join(str(error).split())})
                continue
            for column in columns:
                if column not in names:
                    raise ConfigError(f"{file} has no column {column!r}: it has {', '.join(names)}")
            self._groups += [(file, i) for i in range(len(rows))]
            self.blocks += rows
        self._ends = list(accumulate(self.blocks))
        self._read: OrderedDict[int, tuple[list[Any], list[Any]]] = OrderedDict()

    @property
    def plain(self) -> Parquet:
        """The same without augmentation."""
        return with_changes(self, _augment=False, _read=OrderedDict())

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        group, row = self._place(index)
        inputs, labels = self._group(group)
        return self._tensor(inputs[row]), self._tensor(labels[row])

    def name_of(self, index: int) -> str:
        """File, row group and row of a sample."""
        group, row = self._place(index)
        file, number = self._groups[group]
        return f"{file}, row {row} of row group {number}"

    def _place(self, index: int) -> tuple[int, int]:
        group = bisect.bisect_right(self._ends, index)
        return group, index - (self._ends[group - 1] if group else 0)

    def _group(self, group: int) -> tuple[list[Any], list[Any]]:
        if group not in self._read:
            from pyarrow import parquet

            file, number = self._groups[group]
            with parquet.ParquetFile(file) as shard:
                table = shard.read_row_group(number, columns=list(dict.fromkeys(self._columns)), use_threads=False)
            self._read[group] = (table[self._columns[0]].to_pylist(), table[self._columns[1]].to_pylist())
            while len(self._read) > WINDOW:
                self._read.popitem(last=False)
        self._read.move_to_end(group)
        return self._read[group]

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, dict) and "bytes" in value:  # pictures as Hugging Face's datasets store them
            value = value["bytes"]
        if isinstance(value, bytes):
            return (cropped if self._augment else centered)(opened(value), self._size)
        if value is None:
            raise ValueError("a value is null")
        try:
            found = torch.tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"a column holds {type(value).__name__} values: expected numbers, lists of numbers of one length, or "
                "encoded pictures"
            ) from error
        return found.float() if found.is_floating_point() else found.long()
