"""Text on disk, mapped into memory: the bytes of text files, or the numbers of tokens."""

from __future__ import annotations

import bisect
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgecollapse.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

BYTES = 256


class Tokens:
    """Windows of tokens, side by side in each file; a label is the token that follows.

    Files: ``.txt``, ``.bin`` and ``.npy``. In a ``.txt`` each byte of the UTF-8 text is a token. A ``.bin`` has
    unsigned 16-bit numbers in the order of this machine, as nanoGPT writes them. A ``.npy`` has one axis of whole
    numbers.

    Args:
        files: of one part.
        length: tokens of a window.
        vocabulary: number of different tokens.

    Raises:
        ConfigError: if a file is not of its form, or none is as long as a window.
    """

    def __init__(self, files: Sequence[Path], length: int, vocabulary: int) -> None:
        self._files, self._length = list(files), length
        self.num_classes = self.vocabulary = vocabulary
        self._arrays = [_mapped(file) for file in files]
        self.blocks = [max(0, len(array) - 1) // length for array in self._arrays]
        self._ends = list(accumulate(self.blocks))
        if not self._ends[-1]:
            raise ConfigError(f"{files[0]}: no file has {length + 1} tokens, as many as a window: lower text_length")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number = bisect.bisect_right(self._ends, index)
        first = (index - (self._ends[number - 1] if number else 0)) * self._length
        window = torch.from_numpy(self._arrays[number][first : first + self._length + 1].astype(np.int64))
        wrong = ((window < 0) | (window >= self.vocabulary)).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise ConfigError(
                f"{self._files[number]}: token {int(window[at])} at {first + at} is out of range: "
                f"expected 0 to {self.vocabulary - 1}; set vocab_size"
            )
        return window[:-1], window[1:]

    def name_of(self, index: int) -> str:
        """File and window of a sample."""
        number = bisect.bisect_right(self._ends, index)
        return f"{self._files[number]}, window {index - (self._ends[number - 1] if number else 0)}"


def _mapped(file: Path) -> Any:
    size = file.stat().st_size
    if file.suffix == ".npy":
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ConfigError(f"{file} is not a NumPy file of numbers: expected one axis of whole numbers") from error
        if array.ndim != 1 or array.dtype.kind not in "ui":
            raise ConfigError(f"{file} holds {array.dtype} {array.shape}: expected one axis of whole numbers")
        return array
    if not size:
        return np.zeros(0, np.uint8)
    if file.suffix == ".bin" and size % 2:
        raise ConfigError(f"{file} has {size} bytes: expected unsigned 16-bit numbers, two bytes each")
    return np.memmap(file, np.uint16 if file.suffix == ".bin" else np.uint8, mode="r")
