"""Ranks and counts the entries of weights of which each process holds a part, exactly as one process would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

import torch
from torch import Tensor

from surgecollapse.functional.keys import Keys
from surgecollapse.functional.selection import Ranking
from surgecollapse.torch_utils.shards import Shards, box

_CHUNK, _DEVICE_CHUNK = 1 << 18, 1 << 26
_DIGIT = 16
"""Bits of one pass: a histogram of them is one message of 512 KB."""


class ShardedRanking(Ranking):
    """Ranks and counts over all parts: by histograms of their keys, summed over the ranks.

    Non-negative floats order like the integers of their bits. The threshold is found 16 bits at a time. Each rank
    counts the keys of its parts in a histogram, and one all-reduce adds them up, two in all for float32. Sometimes only
    some of the entries at the threshold are to be taken. Those of the lowest positions in the whole tensors are found
    in the same way. So the result is, bit for bit, that of :func:`~surgecollapse.functional.lowest` on whole tensors.

    Args:
        params: gives the parameters by name, in their order; further tensors of other names are taken as whole.
        shards: which processes hold them, and which parts count here.
    """

    def __init__(self, params: Callable[[], Mapping[str, Tensor]], shards: Shards) -> None:
        self._params, self._shards = params, shards

    def shapes(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shape of each whole tensor."""
        params = self._params()
        return {name: tuple(params[name].shape) for name in tensors}

    def counts(self, masks: Mapping[str, Tensor]) -> dict[str, int]:
        """Entries of each whole mask that are true."""
        found = self._shards.sums(self._params(), {name: mask.count_nonzero() for name, mask in masks.items()})
        return {name: int(count) for name, count in found.items()}

    def lowest(
        self, scores: Mapping[str, Tensor], k: int, eligible: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """As :func:`~surgecollapse.functional.lowest`; parts in, parts out."""
        return self._select(scores, k, eligible, descending=False)

    def highest(
        self, scores: Mapping[str, Tensor], k: int, eligible: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """As :func:`~surgecollapse.functional.highest`; parts in, parts out."""
        return self._select(scores, k, eligible, descending=True)

    @torch.no_grad()
    def _select(
        self, scores: Mapping[str, Tensor], k: int, eligible: Mapping[str, Tensor] | None, *, descending: bool
    ) -> list[Tensor]:
        params = self._params()
        count = (
            sum(params[name].numel() for name in scores)
            if eligible is None
            else sum(self.counts({n: eligible[n] for n in scores}).values())
        )
        if not 0 <= k <= count:
            raise ValueError(f"k must lie in [0, {count}], the number of eligible entries, got {k}")
        masks = {
            name: torch.zeros(score.shape, dtype=torch.bool, device=score.device) for name, score in scores.items()
        }
        if k == 0:
            return list(masks.values())
        if k == count:
            whole = {name: mask.fill_(True) for name, mask in masks.items()} if eligible is None else eligible
            return [whole[name].clone(memory_format=torch.contiguous_format) for name in scores]
        allowed = None if eligible is None else [eligible[name].detach() for name in scores]
        keys = Keys([score.detach() for score in scores.values()], allowed, descending, count)
        self._mark(masks, keys, k)
        return list(masks.values())

    def _mark(self, masks: Mapping[str, Tensor], keys: Keys, k: int) -> None:
        """Mark the k lowest keys of all ranks in the parts that are here; of equal keys, the lowest positions."""
        params, names, device = self._params(), list(masks), keys.scores[0].device
        counted = {name for name in names if self._shards.counts_here(params[name])}
        sizes = [params[name].numel() for name in names]
        starts = dict(zip(names, accumulate([0, *sizes]), strict=False))

        def pieces() -> Iterator[tuple[str, int, Tensor]]:
            chunk = _CHUNK if device.type == "cpu" else _DEVICE_CHUNK
            return ((names[number], offset, piece) for number, offset, piece in keys.pieces(chunk))

        def ties(name: str, offset: int, piece: Tensor) -> tuple[Tensor, Tensor]:
            """Indices in the piece, and positions in all tensors together."""
            index = (piece == threshold).nonzero().squeeze(1)
            return index, starts[name] + self._positions(params[name], index + offset)

        def ours() -> Iterator[Tensor]:
            return (piece for name, _, piece in pieces() if name in counted)

        def tied() -> Iterator[Tensor]:
            return (ties(name, offset, piece)[1] for name, offset, piece in pieces() if name in counted)

        threshold, below, equal = self._order_statistic(ours, 64 if keys.wide else 32, k - 1, device)
        last: int | None = None
        if k - below < equal:
            bits = _DIGIT * -(-sum(sizes).bit_length() // _DIGIT)
            last, _, _ = self._order_statistic(tied, bits, k - below - 1, device)
        for name, offset, piece in pieces():
            out = masks[name].view(-1)[offset : offset + len(piece)]
            torch.le(piece, threshold, out=out) if last is None else torch.lt(piece, threshold, out=out)
            if last is not None:
                index, positions = ties(name, offset, piece)
                out[index[positions <= last]] = True

    def _order_statistic(
        self, pieces: Callable[[], Iterator[Tensor]], bits: int, rank: int, device: torch.device
    ) -> tuple[int, int, int]:
        """Of non-negative integers on all ranks: that of a 0-based rank, how many are lower, how many are equal."""
        prefix, below, equal = 0, 0, 0
        for shift in range(bits - _DIGIT, -1, -_DIGIT):
            bins = torch.zeros(1 << _DIGIT, dtype=torch.int64, device=device)
            for values in pieces():
                digits = values >> shift
                digits = digits[(digits >> _DIGIT) == prefix] & ((1 << _DIGIT) - 1)
                bins += torch.bincount(digits, minlength=len(bins))
            cumulative = self._shards.add_up(bins).cumsum(0)
            digit = int(torch.searchsorted(cumulative, rank - below, right=True))
            equal = int(bins[digit])
            below += int(cumulative[digit]) - equal
            prefix = prefix << _DIGIT | digit
        return prefix, below, equal

    @staticmethod
    def _positions(param: Tensor, index: Tensor) -> Tensor:
        """Flat indices in a whole parameter, of flat indices in the part of it that is here."""
        start, shape = box(param)
        found, stride = torch.zeros_like(index), 1
        for dim in reversed(range(param.ndim)):
            found += (index % max(shape[dim], 1) + start[dim]) * stride
            index = index // max(shape[dim], 1)
            stride *= param.shape[dim]
        return found
