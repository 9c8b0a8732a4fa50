"""Scores as integers of the same order: what the selection compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Keys:
    """Scores seen as integer keys, so that lower means "selected first" and ineligible entries come last."""

    scores: list[Tensor]
    eligible: list[Tensor] | None
    descending: bool
    count: int
    """Eligible entries."""

    @cached_property
    def wide(self) -> bool:
        """Whether any score is float64, so that all are compared as float64."""
        return any(score.dtype == torch.float64 for score in self.scores)

    @property
    def compared(self) -> torch.dtype:
        """Type that scores are compared as."""
        return torch.float64 if self.wide else torch.float32

    @property
    def stored(self) -> torch.dtype:
        """Integer type of the keys, as wide as the compared type."""
        return torch.int64 if self.wide else torch.int32

    @property
    def sign_free(self) -> int:
        """All bits but the sign."""
        return (1 << (63 if self.wide else 31)) - 1

    @property
    def nan(self) -> int:
        """The one key of every NaN, next above infinity."""
        return (0x7FF0_0000_0000_0000 if self.wide else 0x7F80_0000) + 1

    @property
    def barred(self) -> int:
        """Key of an entry that takes no part; above every other."""
        return self.nan + 1

    def write(self, score: Tensor, eligible: Tensor | None, out: Tensor) -> Tensor:
        """Write the keys of one flat piece into the head of ``out`` and return that head."""
        keys = out[: score.numel()]
        if score.dtype == self.compared:
            torch.bitwise_and(score.view(self.stored), self.sign_free, out=keys)
        else:
            keys.view(self.compared).copy_(score)
            keys.bitwise_and_(self.sign_free)
        keys.clamp_(max=self.nan)
        if self.descending:
            keys.neg_().add_(self.nan)
        if eligible is not None:
            keys.masked_fill_(~eligible, self.barred)
        return keys

    def pieces(self, chunk: int, only: np.ndarray | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (tensor, flat offset, keys) in order of position, all in one buffer; ``only`` takes few positions."""
        buffer = torch.empty(0, dtype=self.stored, device=self.scores[0].device)
        position = 0
        for number, score in enumerate(self.scores):
            allowed = None if self.eligible is None else self.eligible[number]
            offset = 0
            for part, permitted in zip(_parts(score, chunk), _parts(allowed, chunk, score), strict=True):
                assert part is not None
                size = part.numel()
                if only is not None:
                    first, last = np.searchsorted(only, (position, position + size))
                    places = torch.from_numpy(only[first:last] - position)
                    part, permitted = part[places], permitted if permitted is None else permitted[places]
                if part.numel() > buffer.numel():
                    buffer = buffer.new_empty(part.numel())
                yield number, offset, self.write(part, permitted, buffer)
                offset += size
                position += size


def _parts(tensor: Tensor | None, chunk: int, like: Tensor | None = None) -> Iterator[Tensor | None]:
    """Flat contiguous pieces in logical order; strided tensors are copied a few rows at a time."""
    shape = tensor if like is None else like
    assert shape is not None
    if shape.numel() == 0:
        return
    flat = shape.ndim == 0 or shape.is_contiguous()
    length = shape.numel() if flat else shape.shape[0]
    step = chunk if flat else max(1, chunk // (shape.numel() // length))
    source = tensor if tensor is None or not flat else tensor.reshape(-1)
    for start in range(0, length, step):
        yield None if source is None else source[start : start + step].reshape(-1)
