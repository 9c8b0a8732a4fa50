"""Ranks and counts the entries of weights of which each process holds a part, exactly as one process would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from surgecollapse.functional.keys import Keys
from surgecollapse.functional.selection import Ranking
from surgecollapse.torch_utils.shards import Shards, box

_CHUNK, _DEVICE_CHUNK = 1 << 18, 1 << 26
_DIGIT = 16
"""Bits of one pass: a histogram of them is one message of 512 KB."""

Piece = tuple[str, int, Tensor]
"""Name, flat index of the first entry, keys."""


class ShardedRanking(Ranking):
    """Ranks and counts over all parts: by histograms of their keys, summed over the ranks.

    Non-negative floats order like the integers of their bits. The threshold is found 16 bits at a time: each rank
    counts the keys of its parts in a histogram, and one all-reduce adds them up, two in all for float32. Where only
    some of the entries at the threshold are to be taken, those of the lowest positions in the whole tensors are found
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
        sizes = {name: prod(shape) for name, shape in self.shapes(scores).items()}
        count = sum(sizes.values()) if eligible is None else sum(self.counts({n: eligible[n] for n in scores}).values())
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
        names = list(scores)
        allowed = None if eligible is None else [eligible[name].detach() for name in names]
        keys = Keys([scores[name].detach() for name in names], allowed, descending, count)
        counted = {name for name in names if self._shards.counts_here(self._params()[name])}

        def pieces() -> Iterator[Piece]:
            chunk = _CHUNK if keys.scores[0].device.type == "cpu" else _DEVICE_CHUNK
            return ((names[number], offset, piece) for number, offset, piece in keys.pieces(chunk))

        def ours() -> Iterator[Tensor]:
            return (piece for name, _, piece in pieces() if name in counted)

        device = keys.scores[0].device
        threshold, below, equal = self._order_statistic(ours, 64 if keys.wide else 32, k - 1, device)
        last: int | None = None
        if k - below < equal:
            starts, start = {}, 0
            for name in names:
                starts[name], start = start, start + sizes[name]
            bits = _DIGIT * -(-start.bit_length() // _DIGIT)

            def tied() -> Iterator[Tensor]:
                return (
                    starts[name] + self._positions(name, (piece == threshold).nonzero().squeeze(1) + offset)
                    for name, offset, piece in pieces()
                    if name in counted
                )

            last, _, _ = self._order_statistic(tied, bits, k - below - 1, device)
        for name, offset, piece in pieces():
            out = masks[name].view(-1)[offset : offset + len(piece)]
            torch.lt(piece, threshold, out=out) if last is not None else torch.le(piece, threshold, out=out)
            if last is not None:
                places = (piece == threshold).nonzero().squeeze(1)
                out[places[starts[name] + self._positions(name, places + offset) <= last]] = True
        return [masks[name] for name in names]

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

    def _positions(self, name: str, index: Tensor) -> Tensor:
        """Flat indices in the whole tensor, of flat indices in the part that is here."""
        param = self._params()[name]
        start, shape = box(param)
        found, stride = torch.zeros_like(index), 1
        for dim in reversed(range(param.ndim)):
            found += (index % max(shape[dim], 1) + start[dim]) * stride
            index = index // max(shape[dim], 1)
            stride *= param.shape[dim]
        return found
