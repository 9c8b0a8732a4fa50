"""Masks under a pattern: which tiles collapse, which reopen, and which change places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from surgecollapse.errors import one_of
from surgecollapse.events.switches import ALLOCATIONS
from surgecollapse.functional.masks import share_live
from surgecollapse.functional.patterns import (
    Pattern,
    collapsed_tiles,
    highest_in_tiles,
    magnitudes,
    parse_pattern,
    spread,
    sum_tiles,
    tile_counts,
    tile_scores,
    tile_sizes,
)
from surgecollapse.functional.selection import lowest

TOLERANCE = 1e-3
"""How far a sparsity may lie from that of an ``N:M`` pattern and still mean it (2/3 may be written 0.667)."""


def collapse_tiles(
    scores: Mapping[str, Tensor],
    live: int,
    pattern: Pattern,
    *,
    allocation: str = "global",
    min_density: float = 0.005,
) -> dict[str, Tensor]:
    """Choose which tiles stay open, as :func:`~surgecollapse.functional.collapse_masks` chooses weights.

    Tiles are collapsed from the lowest score (:func:`~surgecollapse.functional.patterns.tile_scores`) up, those of
    equal score lowest position first. The number of open weights comes as near to ``live`` as whole tiles allow. Of two
    numbers equally near, the one with more open is taken. ``global`` ranks the tiles of all layers together, ``layer``
    and ``erk`` come as near as they can to the layer's own count. ``N:M``: fewer open weights than the pattern leaves
    are out of reach. Asking for as few or fewer collapses every tile, whatever the allocation.

    Args:
        scores: scores by layer name, floating point, on one device.
        live: number of weights that are to stay open, in [0, total size].
        pattern: the tiles.
        allocation: ``global``, ``layer`` or ``erk``.
        min_density: least share of the tiles of each layer that stay open whole; of no concern to ``N:M``.

    Returns:
        Bool masks by name, True where the weight is open; new tensors.

    Raises:
        ValueError: if an argument is out of range, or the minima together exceed ``live`` (the layers are named).

    >>> from surgecollapse.functional.patterns import parse_pattern
    >>> scores = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[0.1, 0.2]])}
    >>> collapse_tiles(scores, 4, parse_pattern("unit"))
    {'a': tensor([[False, False],
            [ True,  True]]), 'b': tensor([[True, True]])}
    """
    one_of("allocation", allocation, ALLOCATIONS)
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    least = {name: pattern.least(shape, min_density) for name, shape in shapes.items()}
    _check(live, shapes, least, pattern, min_density)
    if pattern.keep and live <= sum(least.values()):
        return {name: collapsed_tiles(score, pattern) for name, score in scores.items()}
    values = {name: tile_scores(score, pattern) for name, score in scores.items()}
    freed = {name: _freed(values[name], shapes[name], pattern, min_density) for name in scores}
    if allocation == "global":
        excess = sum(map(prod, shapes.values())) - live
        chosen = dict(zip(scores, nearest_tiles(list(values.values()), list(freed.values()), excess), strict=True))
    else:
        counts = share_live(shapes, live, allocation, least)
        chosen = {
            name: nearest_tiles([values[name]], [freed[name]], prod(shapes[name]) - counts[name])[0] for name in scores
        }
    return {
        name: collapsed_tiles(score, pattern).logical_or_(~spread(chosen[name], shapes[name], pattern))
        for name, score in scores.items()
    }


def reopen_tiles(scores: Sequence[Tensor], count: int, pattern: Pattern, *, eligible: Sequence[Tensor]) -> list[Tensor]:
    """Choose which tiles to reopen: of highest mean |score| over their eligible entries.

    The number of reopened weights comes as near to ``count`` as whole tiles allow, from below where two are equally
    near. Ties go to the lowest position, NaN ranks highest.

    Args:
        scores: growth scores, floating point, on one device.
        count: number of weights to reopen, in all.
        pattern: the tiles.
        eligible: bool tensors of the same shapes, True where an entry is closed and may be reopened.

    Returns:
        New bool tensors, True for every eligible entry of a chosen tile.

    >>> from surgecollapse.functional.patterns import parse_pattern
    >>> closed = torch.tensor([[True, False, True, False], [True, False, True, False]])
    >>> growth = torch.tensor([[1.0, 9.0, 2.0, 9.0], [4.0, 0.0, 0.0, 0.0]])
    >>> reopen_tiles([growth], 2, parse_pattern("2:4"), eligible=[closed])
    [tensor([[False, False, False, False],
            [ True, False,  True, False]])]
    """
    sizes = [tile_counts(closed, pattern) for closed in eligible]
    values = [
        sum_tiles(magnitudes(score).where(closed, torch.zeros((), device=score.device)), pattern) / size.clamp(min=1)
        for score, closed, size in zip(scores, eligible, sizes, strict=True)
    ]
    chosen = nearest_tiles(values, sizes, count, descending=True)
    return [spread(tiles, closed.shape, pattern) & closed for tiles, closed in zip(chosen, eligible, strict=True)]


def exchange_tiles(saliency: Tensor, growth: Tensor, mask: Tensor, share: float, pattern: Pattern) -> Tensor:
    """Exchange ``share`` of what is open in one weight for as much that is closed.

    Blocks and units: the open tiles of lowest saliency are closed and as many reopened by growth. Their number stays
    exactly what it is, and the number of weights too, where all tiles are whole. ``N:M``: the open entries of lowest
    saliency are closed, and every tile reopens as many of its own as it lost. What would be closed may be the very one
    that is reopened: it then stays.

    Args:
        saliency: scores of the weight; the lowest go.
        growth: scores of the weight; the highest come.
        mask: bool, True where open; whole tiles.
        share: in [0, 1], of the open tiles, or of the open entries.
        pattern: the tiles.

    Returns:
        The new mask.

    >>> from surgecollapse.functional.patterns import parse_pattern
    >>> mask = torch.tensor([[True, True, False, False]])
    >>> saliency, growth = torch.tensor([[3.0, 1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 5.0, 6.0]])
    >>> exchange_tiles(saliency, growth, mask, 0.5, parse_pattern("2:4"))
    tensor([[ True, False, False,  True]])
    """
    if pattern.keep:
        return _exchange_inside(saliency, growth, mask, share, pattern)
    ones = (tile_counts(mask, pattern) > 0).to(torch.float32)
    count = int(share * float(ones.sum()) + 0.5)
    (dropped,) = nearest_tiles([tile_scores(saliency, pattern)], [ones], count)
    free = 1.0 - ones * ~dropped
    (grown,) = nearest_tiles([tile_scores(growth, pattern)], [free], count, descending=True)
    return spread((ones.bool() & ~dropped) | grown, mask.shape, pattern)


def _exchange_inside(saliency: Tensor, growth: Tensor, mask: Tensor, share: float, pattern: Pattern) -> Tensor:
    # What lies in no tile has no others to change places with.
    inside = spread(torch.ones(pattern.grid(mask.shape), dtype=torch.bool, device=mask.device), mask.shape, pattern)
    movable = mask & inside
    (dropped,) = lowest([saliency], int(share * float(movable.sum()) + 0.5), eligible=[movable])
    stays = mask & ~dropped
    return stays | highest_in_tiles(growth, ~stays & inside, tile_counts(dropped, pattern), pattern)


def nearest_tiles(
    values: Sequence[Tensor], sizes: Sequence[Tensor], count: int, *, descending: bool = False
) -> list[Tensor]:
    """Choose tiles in the order of their values until their sizes sum as near to ``count`` as they can.

    Args:
        values: one tensor for each weight; NaN counts as highest.
        sizes: float tensors of the same shapes, whole numbers; a tile of size 0 takes no part.
        count: the sum to come near to; of two sums equally near, the smaller is taken.
        descending: highest values first.

    Returns:
        Bool tensors of the same shapes; equal values are taken lowest position first.

    >>> nearest_tiles([torch.tensor([3.0, 1.0, 2.0])], [torch.tensor([4.0, 4.0, 4.0])], 6)
    [tensor([False,  True, False])]
    """
    flat = torch.cat([value.reshape(-1) for value in values])
    size = torch.cat([part.reshape(-1) for part in sizes]).to(torch.int64)
    order = flat.sort(descending=descending, stable=True).indices
    sums = torch.cat([size.new_zeros(1), size[order].cumsum(0)])
    last = int((sums - count).abs().argmin())  # the first of equal ones: the smaller sum
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[order[:last]] = True
    chosen &= size > 0
    parts = torch.split(chosen, [value.numel() for value in values])
    return [part.view(value.shape).clone() for part, value in zip(parts, values, strict=True)]


def fitting_pattern(text: str, sparsity: float) -> Pattern:
    """Read a pattern and check that it can have the target sparsity.

    Raises:
        ValueError: if it is unknown, or if ``N:M`` and the sparsity is not 1 − N/M (to three decimals).

    >>> fitting_pattern("1:3", 0.667).keep
    1
    """
    pattern = parse_pattern(text)
    exact = pattern.sparsity
    if exact is not None and abs(sparsity - exact) > TOLERANCE:
        raise ValueError(
            f"pattern {text!r} keeps {pattern.keep} of every {pattern.columns} weights, which is sparsity {exact:.4g}, "
            f"got sparsity={sparsity:g}: give sparsity={exact:.4g}, or another pattern"
        )
    return pattern


def open_count(shapes: Mapping[str, Sequence[int]], live: int, pattern: Pattern, sparsity: float) -> int:
    """Turn a wanted number of open weights into that of an ``N:M`` pattern where the sparsity means the pattern's.

    >>> from surgecollapse.functional.patterns import parse_pattern
    >>> open_count({"a": (2, 10)}, 10, parse_pattern("2:4"), 0.5)  # two entries of each row lie in no tile
    12
    """
    exact = pattern.sparsity
    if exact is None:
        return live
    least = sum(pattern.least(shape) for shape in shapes.values())
    return least if sparsity >= exact - TOLERANCE else max(live, least)


def _freed(values: Tensor, shape: Sequence[int], pattern: Pattern, min_density: float) -> Tensor:
    """How many weights the collapse of each tile closes; 0 for the best ones, which the minimum density protects."""
    if pattern.keep:
        return torch.full_like(values, pattern.tile_size(shape) - pattern.keep)
    sizes = tile_sizes(shape, pattern).to(values.device)
    if best := pattern.protected(shape, min_density):
        order = values.reshape(-1).sort(stable=True).indices
        sizes.view(-1)[order[-best:]] = 0
    return sizes


def _check(
    live: int,
    shapes: Mapping[str, Sequence[int]],
    least: Mapping[str, int],
    pattern: Pattern,
    min_density: float,
) -> None:
    total = sum(map(prod, shapes.values()))
    if not 0 <= live <= total:
        raise ValueError(f"live must lie in [0, {total}], the number of weights, got {live}")
    if not pattern.keep and sum(least.values()) > live:
        wanted = ", ".join(f"{name} ({count})" for name, count in least.items() if count)
        raise ValueError(
            f"pattern {pattern.name!r} with a minimum density of {min_density} needs {sum(least.values())} live "
            f"weights, but only {live} may stay live: {wanted}. Lower min_density or the sparsity, exclude layers, "
            "or take smaller tiles"
        )
