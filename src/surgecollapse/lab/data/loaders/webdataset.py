"""WebDataset shards: tar files whose members ``KEY.jpg`` and ``KEY.cls`` are one sample.

The tar files are indexed once, when the run begins, and samples are then read by their place. So the order is that of
the run, whatever the number of workers. A run goes on anywhere in an epoch. The package ``webdataset`` streams in the
order of the files and cannot go on in the middle, so it is not used.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgecollapse.lab.data.loaders.pictures import centered, cropped, opened, with_changes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from surgecollapse.lab.data.streamed import BadSamples

INPUTS = ("jpg", "jpeg", "png", "webp", "npy")
LABELS = ("cls", "json")
Place = tuple[int, int, str]
"""Offset and length of a member in its tar file, and its kind."""


class WebDataset:
    """The samples of tar files, in the order of the files.

    Args:
        files: the shards of one part.
        bad: takes samples without a label, and what follows the damage in a torn file; those are left out.
        size: side of the squares that are cut out of pictures.
        augment: cut at random and mirror, instead of the center.

    Raises:
        BadDataError: if more is damaged than ``bad`` allows.
    """

    def __init__(self, files: Sequence[Path], bad: BadSamples, *, size: int, augment: bool) -> None:
        self._files, self._size, self._augment = list(files), size, augment
        self._samples: list[tuple[int, str, Place, Place]] = []
        self.blocks: list[int] = []
        for number, file in enumerate(self._files):
            before = len(self._samples)
            self._samples += _indexed(file, number, bad)
            self.blocks.append(len(self._samples) - before)

    @property
    def plain(self) -> WebDataset:
        """The same without augmentation."""
        return with_changes(self, _augment=False)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number, _, inputs, labels = self._samples[index]
        with self._files[number].open("rb") as file:
            content, label = (os.pread(file.fileno(), length, offset) for offset, length, _ in (inputs, labels))
        return self._input(content, inputs[2]), _label(label, labels[2])

    def name_of(self, index: int) -> str:
        """File and key of a sample."""
        number, key, _, _ = self._samples[index]
        return f"{self._files[number]}: {key}"

    def _input(self, content: bytes, kind: str) -> Tensor:
        if kind != "npy":
            return (cropped if self._augment else centered)(opened(content), self._size)
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"it holds {array.dtype} values: expected numbers")
        return torch.from_numpy(array).float() if array.dtype.kind == "f" else torch.from_numpy(array).long()


def _indexed(file: Path, number: int, bad: BadSamples) -> list[tuple[int, str, Place, Place]]:
    """Where the samples of a tar file lie."""
    members: dict[str, dict[str, Place]] = {}
    twice: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as shard:
            end = file.stat().st_size
            for member in shard:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                key, _, kind = name.partition(".")
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError("it ends in the middle of a member")
                parts = members.setdefault(f"{folder}/{key}" if folder else key, {})
                if kind.lower() in parts:
                    twice[member.name] = twice.get(member.name, 1) + 1
                else:
                    parts[kind.lower()] = (member.offset_data, member.size, kind.lower())
            _check_end(file, shard.offset)
    except (tarfile.TarError, OSError) as error:
        bad.take({str(file): f"torn or no tar file ({error}); what precedes the damage is used"})
    for name, count in twice.items():
        bad.take({f"{file}: {name}": f"it is there {count} times; the first one is used"})
    found = []
    for key, parts in members.items():
        inputs = next((parts[kind] for kind in INPUTS if kind in parts), None)
        labels = next((parts[kind] for kind in LABELS if kind in parts), None)
        if inputs is None or labels is None:
            lacks = f"no input ({', '.join(INPUTS)})" if inputs is None else f"no label ({', '.join(LABELS)})"
            bad.take({f"{file}: {key}": f"it has {', '.join(parts)}, and {lacks}"})
            continue
        found.append((number, key, inputs, labels))
    return found


def _check_end(file: Path, offset: int) -> None:
    """Check that a block of zeros ends a tar file: reading a torn one ends silently.

    Raises:
        tarfile.ReadError: if there is none.
    """
    with file.open("rb") as stream:
        stream.seek(offset)
        block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise tarfile.ReadError("it has no end mark")


def _label(content: bytes, kind: str) -> Tensor:
    """A class, or the ``label`` of a JSON object."""
    if kind == "cls":
        return torch.tensor(int(content))
    value: Any = json.loads(content)
    if isinstance(value, dict):
        if "label" not in value:
            raise ValueError(f"its JSON has {', '.join(value)}, and no label")
        value = value["label"]
    found = torch.as_tensor(value)
    return found.float() if found.is_floating_point() else found.long()
