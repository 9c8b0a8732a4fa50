"""Exact selection of the k smallest or largest entries of many tensors at once, of any total size.

Non-negative floats order like the integers of their bits. So every score becomes one integer key (|score|, with one
common key for every NaN) and all comparisons are exact. On the host the threshold is bracketed by a scattered sample.
One pass counts what lies under the bracket and keeps what lies inside it. The order statistic among those few is exact.
Heavy ties (pruned weights are exact zeros) sit on an end of the bracket and are only counted. Where two samples
mislead, a radix histogram of 16 bits a pass gives the same answer. On an accelerator the keys are bisected bit by bit
without a host sync. Ties go to the lowest position: order of the tensors, then flat logical index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from surgecollapse.functional.keys import Keys

_CHUNK = 1 << 18  # keys of one chunk stay in a core's second-level cache
_DEVICE_CHUNK = 1 << 27  # bounds temporaries on an accelerator, below the 32-bit index limit
_SAMPLE = 1 << 16
_MULTIPLIERS = (0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9)  # odd, of well-spread bits: one for each sample
_DIGIT = 16  # bits of one radix pass


def kept(size: int, sparsity: float) -> int:
    """Number of live weights at a sparsity: ``floor((1 − sparsity)·size + ½)``.

    The sparsity is taken as the decimal it prints as, so that 0.9 means nine tenths, not the binary float
    near it.

    Args:
        size: number of weights N, at least 0.
        sparsity: share of zeros, in [0, 1].

    Returns:
        The live count, in [0, N].

    Raises:
        ValueError: if ``size`` is negative or ``sparsity`` lies outside [0, 1].

    >>> kept(10, 0.9), kept(5, 0.9), kept(7, 0.0)
    (1, 1, 7)
    """
    if size < 0:
        raise ValueError(f"size must be at least 0, got {size}")
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"sparsity must lie in [0, 1], got {sparsity}: give the share of weights that are zero")
    return int((1 - Fraction(repr(float(sparsity)))) * size + Fraction(1, 2))


def lowest(scores: Sequence[Tensor], k: int, *, eligible: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Mark exactly the ``k`` entries of lowest absolute score over all tensors together.

    Ties are broken by position (order of the tensors, then flat logical index, whatever the strides); NaN ranks above
    infinity. Scores are compared as float32, or as float64 if any tensor is float64. Temporary memory on the host is
    bounded by a chunk and by a sixteenth of the entries. On an accelerator it is one key per entry.

    Args:
        scores: floating-point tensors of any shapes, strides and dtypes, all on one device. They are not
            changed.
        k: number of entries to mark, in [0, number of eligible entries].
        eligible: bool tensors of the same shapes; only entries that are True take part. All by default.

    Returns:
        New contiguous bool tensors of the shapes of ``scores``, with exactly ``k`` True entries in all.

    Raises:
        TypeError: if a score is not of floating-point type or ``eligible`` is not bool.
        ValueError: if ``k`` is out of range, the shapes differ, or the tensors lie on several devices.

    >>> lowest([torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.5])], 2)
    [tensor([False,  True]), tensor([False,  True])]
    """
    return _select(scores, k, eligible, descending=False)


def highest(scores: Sequence[Tensor], k: int, *, eligible: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Mark exactly the ``k`` entries of highest absolute score over all tensors together.

    As :func:`lowest`, with the same arguments, results and errors, from the other end: ties still go to the lowest
    position, and NaN counts as highest.

    >>> highest([torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.5])], 2)
    [tensor([True, True]), tensor([False, False])]
    """
    return _select(scores, k, eligible, descending=True)


def count_true(masks: Sequence[Tensor]) -> list[int]:
    """Count the True entries of each mask, with one read-back for all.

    Args:
        masks: bool tensors on one device.

    Returns:
        The counts, as host integers.

    >>> count_true([torch.tensor([True, False]), torch.tensor([[True], [True]])])
    [1, 2]
    """
    if all(mask.device.type == "cpu" for mask in masks):
        return [int(np.count_nonzero(mask.numpy())) for mask in masks]
    counts: list[int] = torch.stack([mask.count_nonzero() for mask in masks]).tolist()
    return counts


class Ranking:
    """Ranks and counts the entries of tensors by name. Here each tensor is whole; a subclass may know of parts."""

    def shapes(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shape of each whole tensor."""
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def lowest(
        self, scores: Mapping[str, Tensor], k: int, eligible: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """As :func:`lowest`, of named tensors."""
        return lowest(list(scores.values()), k, eligible=_in_order(scores, eligible))

    def highest(
        self, scores: Mapping[str, Tensor], k: int, eligible: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """As :func:`highest`, of named tensors."""
        return highest(list(scores.values()), k, eligible=_in_order(scores, eligible))

    def counts(self, masks: Mapping[str, Tensor]) -> dict[str, int]:
        """As :func:`count_true`, of named masks."""
        return dict(zip(masks, count_true(list(masks.values())), strict=True)) if masks else {}


def _in_order(scores: Mapping[str, Tensor], eligible: Mapping[str, Tensor] | None) -> list[Tensor] | None:
    return None if eligible is None else [eligible[name] for name in scores]


def _select(scores: Sequence[Tensor], k: int, eligible: Sequence[Tensor] | None, *, descending: bool) -> list[Tensor]:
    keys = _checked(scores, k, eligible, descending=descending)
    if k == 0:
        return [_blank(score).zero_() for score in keys.scores]
    if k == keys.count:
        if keys.eligible is None:
            return [_blank(score).fill_(True) for score in keys.scores]
        return [mask.clone(memory_format=torch.contiguous_format) for mask in keys.eligible]
    if keys.scores[0].device.type == "cpu":
        return _select_on_host(keys, k)
    return _select_on_device(keys, k)


def _checked(scores: Sequence[Tensor], k: int, eligible: Sequence[Tensor] | None, *, descending: bool) -> Keys:
    found = [score.detach() for score in scores]
    masks = None if eligible is None else [mask.detach() for mask in eligible]
    for score in found:
        if not score.is_floating_point():
            raise TypeError(f"scores must be floating-point tensors, got {score.dtype}: convert them first")
    devices = {tensor.device for tensor in [*found, *(masks or [])]}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"scores and eligible must lie on one device, got {names}: move them first")
    count = sum(score.numel() for score in found)
    if masks is not None:
        if [mask.shape for mask in masks] != [score.shape for score in found]:
            raise ValueError("eligible must give one tensor of the same shape for each score")
        if any(mask.dtype != torch.bool for mask in masks):
            raise TypeError("eligible must be bool tensors: compare them with zero first")
        count = sum(count_true(masks))
    if not 0 <= k <= count:
        raise ValueError(f"k must lie in [0, {count}], the number of eligible entries, got {k}")
    return Keys(found, masks, descending, count)


def _blank(score: Tensor) -> Tensor:
    return torch.empty(score.shape, dtype=torch.bool, device=score.device)


def _select_on_host(keys: Keys, k: int) -> list[Tensor]:
    """Find the key of rank k−1, then write everything below it and, in order, as many ties as are missing."""
    threshold, below, equal = _order_statistic(keys, k - 1)
    quota = k - below
    masks = [_blank(score) for score in keys.scores]
    # NumPy compares and counts one core's chunk several times faster than the torch kernels do.
    written = [mask.reshape(-1).numpy() for mask in masks]
    compare = np.less_equal if quota == equal else np.less
    quota = 0 if quota == equal else quota
    for number, offset, chunk in keys.pieces(_CHUNK):
        values = chunk.numpy()
        out = written[number][offset : offset + len(values)]
        compare(values, threshold, out=out)
        if quota:
            tied = values == threshold
            count = int(np.count_nonzero(tied))
            if count > quota:
                tied[np.flatnonzero(tied)[quota:]] = False
            out |= tied
            quota -= min(count, quota)
    return masks


def _order_statistic(keys: Keys, rank: int) -> tuple[int, int, int]:
    """Return (key of that 0-based rank, how many keys are lower, how many are equal)."""
    for salt in range(len(_MULTIPLIERS)):  # what misleads one sample seldom misleads another
        sample = _sample(keys, salt)
        middle = rank * len(sample) // keys.count
        # Four standard deviations of a random sample's rank.
        margin = 2 * isqrt(len(sample)) + 1
        low = int(sample[middle - margin]) if middle >= margin else -1
        high = int(sample[middle + margin]) if middle + margin < len(sample) else keys.barred
        found = _inside(keys, rank, low, high) if low < high else _at(keys, rank, low)
        if found:
            return found
    return _radix(keys, rank)


def _sample(keys: Keys, salt: int) -> np.ndarray:
    """The eligible keys at the sampled positions, sorted."""
    only = _sample_positions(sum(score.numel() for score in keys.scores), salt)
    sample = np.concatenate([chunk.numpy().copy() for _, _, chunk in keys.pieces(_CHUNK, only)])
    return np.sort(sample[sample < keys.barred])


def _sample_positions(size: int, salt: int) -> np.ndarray:
    """One scattered position in each of about 64k equal strides: no regular pattern of weights can follow them."""
    stride = max(1, size // _SAMPLE)
    block = np.arange(size // stride, dtype=np.uint64)
    # Multiplicative hashing (Knuth) of the block's number: the same positions on every machine.
    scattered = (block * np.uint64(_MULTIPLIERS[salt])) >> np.uint64(32)
    return (block * np.uint64(stride) + scattered % np.uint64(stride)).astype(np.int64)


def _at(keys: Keys, rank: int, value: int) -> tuple[int, int, int] | None:
    """The order statistic, if it is ``value``; else None."""
    below = at_most = 0
    for _, _, chunk in keys.pieces(_CHUNK):
        values = chunk.numpy()
        below += int(np.count_nonzero(values < value))
        at_most += int(np.count_nonzero(values <= value))
    return (value, below, at_most - below) if below <= rank < at_most else None


def _inside(keys: Keys, rank: int, low: int, high: int) -> tuple[int, int, int] | None:
    """The order statistic, if the bracket (low, high) or one of its ends holds it; else None."""
    limit = max(_SAMPLE, keys.count // 16)
    at_most_low, held, candidates = 0, 0, []
    first, second = np.empty((2, _CHUNK), dtype=bool)
    for _, _, chunk in keys.pieces(_CHUNK):
        values = chunk.numpy()
        if len(values) > len(first):  # a single row of a strided tensor may exceed the chunk
            first, second = np.empty((2, len(values)), dtype=bool)
        under = np.less_equal(values, low, out=first[: len(values)])
        between = np.less(values, high, out=second[: len(values)])
        between ^= under
        at_most_low += int(np.count_nonzero(under))
        candidates.append(values[between])
        held += len(candidates[-1])
        if held > limit:
            return None
    if rank < at_most_low:
        below = _count_below(keys, low)
        return (low, below, at_most_low - below) if rank >= below else None
    if rank >= at_most_low + held:
        equal = _count_below(keys, high + 1) - at_most_low - held
        return (high, at_most_low + held, equal) if rank < at_most_low + held + equal else None
    few = np.concatenate(candidates)
    value = int(np.partition(few, rank - at_most_low)[rank - at_most_low])
    return value, at_most_low + int(np.count_nonzero(few < value)), int(np.count_nonzero(few == value))


def _count_below(keys: Keys, bound: int) -> int:
    if bound <= 0:
        return 0
    return sum(int(np.count_nonzero(chunk.numpy() < bound)) for _, _, chunk in keys.pieces(_CHUNK))


def _radix(keys: Keys, rank: int) -> tuple[int, int, int]:
    """The order statistic from histograms of 16 bits a pass, from the top: exact for any pattern."""
    prefix, below, equal = 0, 0, 0
    for shift in range(64 - _DIGIT if keys.wide else 32 - _DIGIT, -1, -_DIGIT):
        bins = np.zeros(1 << _DIGIT, dtype=np.int64)
        for _, _, chunk in keys.pieces(_CHUNK):
            digits = chunk.numpy() >> shift
            digits = digits[(digits >> _DIGIT) == prefix] & ((1 << _DIGIT) - 1)
            bins += np.bincount(digits, minlength=len(bins))
        cumulative = np.cumsum(bins)
        digit = int(np.searchsorted(cumulative, rank - below, side="right"))
        below += int(cumulative[digit] - bins[digit])
        equal = int(bins[digit])
        prefix = prefix << _DIGIT | digit
    return prefix, below, equal


def _select_on_device(keys: Keys, k: int) -> list[Tensor]:
    """Bisect the bits of the threshold over all keys at once; nothing is read back to the host."""
    device = keys.scores[0].device
    total = sum(score.numel() for score in keys.scores)
    joined = torch.empty(total, dtype=keys.stored, device=device)
    start = 0
    for _, _, piece in keys.pieces(_DEVICE_CHUNK):
        joined[start : start + piece.numel()] = piece
        start += piece.numel()
    chunks = torch.split(joined, _DEVICE_CHUNK)
    low = torch.zeros((), dtype=torch.int64, device=device)
    high = torch.full_like(low, keys.barred)
    for _ in range(63 if keys.wide else 31):
        middle = low + ((high - low) >> 1)
        enough = torch.stack([(chunk <= middle).sum() for chunk in chunks]).sum() >= k
        high = torch.where(enough, middle, high)
        low = torch.where(enough, low, middle + 1)
    quota = k - torch.stack([(chunk < high).sum() for chunk in chunks]).sum()
    flat = torch.empty(total, dtype=torch.bool, device=device)
    for chunk, out in zip(chunks, torch.split(flat, _DEVICE_CHUNK), strict=True):
        tied = chunk == high
        place = tied.cumsum(0)
        torch.logical_or(chunk < high, tied & (place <= quota), out=out)
        quota = quota - place[-1]
    sizes = [score.numel() for score in keys.scores]
    # Separate copies: masks that share memory would be saved, and changed, together.
    return [part.clone().view(score.shape) for part, score in zip(torch.split(flat, sizes), keys.scores, strict=True)]
