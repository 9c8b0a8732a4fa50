"""Masks: how many weights of each layer stay live, which ones, and a packed form for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, prod

import torch
from torch import Tensor

from surgecollapse.errors import one_of
from surgecollapse.events.switches import ALLOCATIONS
from surgecollapse.functional.apportion import apportion
from surgecollapse.functional.selection import Ranking, kept

WHOLE = Ranking()


def allocate(
    sizes: Mapping[str, int | Sequence[int]],
    sparsity: float,
    allocation: str = "layer",
    min_density: float = 0.005,
) -> dict[str, int]:
    """Share the live weights of a target sparsity among layers, exactly.

    ``layer`` keeps the same density everywhere. ``erk`` keeps a density proportional to Σdims/Πdims, the
    Erdős–Rényi-kernel rule of Evci et al. 2020 (arXiv 1911.11134, §3): small layers stay denser. Densities
    are capped at 1 from above and at ``min_density`` from below, and what the capped layers give or
    take is redistributed among the others. Fractions are settled by largest remainder, ties by the order of
    ``sizes``.

    Args:
        sizes: number of weights, or shape, of each layer; ``erk`` needs shapes.
        sparsity: share of all these weights that is zero, in [0, 1).
        allocation: ``layer`` or ``erk``.
        min_density: least share of live weights in each layer, in [0, 1].

    Returns:
        Live count by layer; the counts sum to exactly ``kept(N, sparsity)``.

    Raises:
        ValueError: if an argument is out of range, or the minima together exceed the live count.

    >>> allocate({"a": (10, 10), "b": (300,)}, 0.9)
    {'a': 10, 'b': 30}
    >>> allocate({"wide": (90, 10), "narrow": (10, 10)}, 0.8, "erk")  # dims sum to 100 and 20
    {'wide': 167, 'narrow': 33}
    """
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}: give the share of weights that are zero")
    total = sum(_size(value) for value in sizes.values())
    return _share(sizes, kept(total, sparsity), allocation, min_density)


def collapse_masks(
    scores: Mapping[str, Tensor],
    live: int,
    *,
    allocation: str = "global",
    min_density: float = 0.005,
    ranking: Ranking = WHOLE,
) -> dict[str, Tensor]:
    """Choose which weights stay live: those of highest score, exactly ``live`` of them in all.

    ``global`` ranks all layers together. A layer that would fall under the minimum keeps exactly its minimum of its own
    best. The others are ranked again for the rest until no layer falls short. That is the choice of highest total score
    under the minima. ``layer`` and ``erk`` rank within each layer, to the counts of :func:`allocate`. Ties are pruned
    lowest position first (see :func:`~surgecollapse.functional.lowest`).

    Args:
        scores: absolute scores by layer name, floating point, any shapes and strides, on one device.
        live: number of weights that stay live, in [0, total size].
        allocation: ``global``, ``layer`` or ``erk``.
        min_density: least share of live weights in each layer, in [0, 1].
        ranking: how entries are ranked; one of its own where processes hold parts of the tensors.

    Returns:
        Bool masks by name, True where the weight is live; new tensors.

    Raises:
        ValueError: if an argument is out of range, or the minima together exceed ``live``, with the layers' names.

    >>> scores = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([0.1, 0.2])}
    >>> collapse_masks(scores, 3)
    {'a': tensor([False,  True,  True]), 'b': tensor([False,  True])}
    >>> collapse_masks(scores, 3, min_density=0.0)
    {'a': tensor([True, True, True]), 'b': tensor([False, False])}
    """
    one_of("allocation", allocation, ALLOCATIONS)
    shapes = ranking.shapes(scores)
    if allocation == "global":
        return _collapse_globally(scores, live, _minima(shapes, live, min_density), ranking)
    counts = _share(shapes, live, allocation, min_density)
    return {name: _keep({name: score}, counts[name], ranking)[name] for name, score in scores.items()}


def minimum_live(sizes: Mapping[str, int | Sequence[int]], min_density: float) -> dict[str, int]:
    """Count the weights that each layer keeps at least: its size times the minimum density, rounded up.

    Args:
        sizes: number of weights, or shape, of each layer.
        min_density: least share of live weights in each layer, in [0, 1].

    Returns:
        Least live count by layer.

    Raises:
        ValueError: if ``min_density`` is out of range.

    >>> minimum_live({"a": 1000, "b": (3, 10)}, 0.005)
    {'a': 5, 'b': 1}
    """
    if not 0.0 <= min_density <= 1.0:
        raise ValueError(f"min_density must lie in [0, 1], got {min_density}")
    # The decimal as printed: ceil of the binary product would ask for one weight too many.
    share = Fraction(repr(float(min_density)))
    return {name: ceil(share * _size(value)) for name, value in sizes.items()}


def share_live(
    sizes: Mapping[str, int | Sequence[int]], live: int, allocation: str, minima: Mapping[str, int]
) -> dict[str, int]:
    """Share a number of live weights among layers, each between its minimum and its size.

    Args:
        sizes: number of weights, or shape, of each layer; ``erk`` needs shapes.
        live: number of live weights in all.
        allocation: ``layer`` or ``erk``, as in :func:`allocate`.
        minima: least live count of each layer.

    Returns:
        Live count by layer.

    >>> share_live({"a": (10, 10), "b": (300,)}, 40, "layer", {"a": 20, "b": 0})
    {'a': 20, 'b': 20}
    """
    weights = {name: _weight(name, value, allocation) for name, value in sizes.items()}
    return apportion(weights, minima, {name: _size(value) for name, value in sizes.items()}, live)


def pack(mask: Tensor) -> Tensor:
    """Pack a bool mask into bytes, eight entries each, first entry in the lowest bit.

    Args:
        mask: bool tensor of any shape; read in logical order.

    Returns:
        uint8 tensor of ``ceil(mask.numel() / 8)`` bytes; the spare bits of the last one are zero.

    Raises:
        TypeError: if ``mask`` is not bool.

    >>> pack(torch.tensor([[True, False], [True, True]]))
    tensor([13], dtype=torch.uint8)
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"pack expects a bool mask, got {mask.dtype}: compare it with zero first")
    flat = mask.reshape(-1).view(torch.uint8)
    packed = flat.new_zeros((flat.numel() + 7) // 8)
    for bit in range(8):
        part = flat[bit::8]
        packed[: part.numel()] |= part << bit
    return packed


def packed_bytes(size: int, nonzeros: int, width: int) -> int:
    """Bytes of a tensor as its non-zero values and one bit for each entry, or dense where that is smaller.

    Args:
        size: entries.
        nonzeros: entries that are not zero.
        width: bytes of an entry.

    >>> packed_bytes(9, nonzeros=2, width=4), packed_bytes(8, nonzeros=8, width=4)
    (10, 32)
    """
    return min(nonzeros * width + (size + 7) // 8, size * width)


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Restore the bool mask that :func:`pack` packed.

    Args:
        packed: uint8 tensor of one dimension.
        shape: shape of the mask.

    Returns:
        New bool tensor of that shape.

    Raises:
        TypeError: if ``packed`` is not uint8.
        ValueError: if its length does not fit ``shape``.

    >>> unpack(torch.tensor([13], dtype=torch.uint8), (2, 2))
    tensor([[ True, False],
            [ True,  True]])
    """
    if packed.dtype != torch.uint8:
        raise TypeError(f"unpack expects uint8 bytes, got {packed.dtype}: pass what pack returned")
    size = prod(shape)
    if packed.shape != ((size + 7) // 8,):
        raise ValueError(
            f"a mask of shape {tuple(shape)} takes {(size + 7) // 8} bytes, got a tensor of shape "
            f"{tuple(packed.shape)}: the mask belongs to another parameter"
        )
    flat = torch.empty(size, dtype=torch.bool, device=packed.device)
    for bit in range(8):
        part = flat[bit::8]
        part.copy_((packed[: part.numel()] >> bit) & 1)
    return flat.view(tuple(shape))


def _size(value: int | Sequence[int]) -> int:
    return value if isinstance(value, int) else prod(value)


def _keep(scores: Mapping[str, Tensor], live: int, ranking: Ranking) -> dict[str, Tensor]:
    """Mark all but the lowest; inverted in place, so that only one set of masks is held."""
    masks = ranking.lowest(scores, sum(map(prod, ranking.shapes(scores).values())) - live)
    return {name: mask.logical_not_() for name, mask in zip(scores, masks, strict=True)}


def _collapse_globally(
    scores: Mapping[str, Tensor], live: int, minima: Mapping[str, int], ranking: Ranking
) -> dict[str, Tensor]:
    masks: dict[str, Tensor] = {}
    free, remaining = list(scores), live
    while free:
        found = _keep({name: scores[name] for name in free}, remaining, ranking)
        # A kept count at or above the minimum needs no look; one read-back serves all layers.
        short = [name for name, count in ranking.counts(found).items() if count < minima[name]]
        for name in short:
            masks[name] = _keep({name: scores[name]}, minima[name], ranking)[name]
            remaining -= minima[name]
        if not short:
            masks.update(found)
            break
        free = [name for name in free if name not in masks]
    return {name: masks[name] for name in scores}


def _minima(sizes: Mapping[str, int | Sequence[int]], live: int, min_density: float) -> dict[str, int]:
    """Least live count of each layer, checked against the live count of all."""
    minima = minimum_live(sizes, min_density)
    total = sum(_size(value) for value in sizes.values())
    if not 0 <= live <= total:
        raise ValueError(f"live must lie in [0, {total}], the number of weights, got {live}")
    if sum(minima.values()) > live:
        wanted = ", ".join(f"{name} ({count})" for name, count in minima.items() if count)
        raise ValueError(
            f"a minimum density of {min_density} needs {sum(minima.values())} live weights, but only "
            f"{live} may stay live: {wanted}. Lower min_density or the sparsity, or exclude layers"
        )
    return minima


def _share(sizes: Mapping[str, int | Sequence[int]], live: int, allocation: str, min_density: float) -> dict[str, int]:
    return share_live(sizes, live, allocation, _minima(sizes, live, min_density))


def _weight(name: str, value: int | Sequence[int], allocation: str) -> int:
    """What a layer's uncapped live count is proportional to: its size, or the sum of its dimensions."""
    if allocation == "layer" or _size(value) == 0:
        return _size(value)
    if allocation != "erk":
        raise ValueError(f"unknown allocation {allocation!r}: expected one of layer, erk")
    if isinstance(value, int):
        raise ValueError(f"erk needs the shape of {name!r}, got only its size {value}: pass a tuple")
    return sum(value)
