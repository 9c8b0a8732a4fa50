"""Patterns: weights that open and close together. N of every M, blocks, whole units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from surgecollapse.functional.masks import minimum_live

_FEW = 8
VALID = (
    "'N:M' with 1 <= N < M (as in '2:4', or '2:4:channels'), 'block:RxC' with R, C >= 1 (as in 'block:4x1'), or 'unit'"
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Tiles of a weight that are collapsed and reopened whole.

    The weight is seen as a matrix. Rows are its first dimension (output units, or channels), columns all others,
    flattened in their order (inputs; of a convolution in_channels/groups·kh·kw). From the first entry on, tiles of
    ``rows`` × ``columns`` cover it. A collapsed tile keeps its ``keep`` highest entries open, an open one all.

    What is a row of other layers than linear ones and convolutions, :mod:`surgecollapse.act.layouts` says.

    ``N:M`` is a tile of one row and M columns that keeps N. Where the row's length is not a multiple of M, the rest of
    it stays dense. Formats that store N of M have no place for it. Blocks and units keep none; at the edges of the
    matrix a block is as large as the matrix leaves it.

    Args:
        name: as it was written.
        rows: rows of a tile.
        columns: columns of a tile; ``None``: the whole row.
        keep: entries that a collapsed tile keeps open.
        channels: tiles of a convolution run along its input channels, at one position of the kernel.
    """

    name: str
    rows: int
    columns: int | None
    keep: int = 0
    channels: bool = False

    @property
    def sparsity(self) -> float | None:
        """The one sparsity that every tile has once all are collapsed; ``None`` where whole tiles close."""
        return 1.0 - self.keep / self.columns if self.keep and self.columns else None

    def grid(self, shape: Sequence[int]) -> tuple[int, int]:
        """Number of tiles down and across a weight of this shape; for ``N:M`` the whole ones alone."""
        height, width = _matrix(shape)
        columns = self.columns or max(1, width)
        if self.keep:
            return height, width // columns
        return -(-height // self.rows), -(-width // columns)

    def tile_size(self, shape: Sequence[int]) -> int:
        """Entries of a whole tile."""
        return self.rows * (self.columns or max(1, _matrix(shape)[1]))

    def least(self, shape: Sequence[int], min_density: float = 0.0) -> int:
        """Fewest weights that a collapse leaves open: what the tiles keep, or a minimum share of the tiles.

        Args:
            shape: of the weight.
            min_density: share of the tiles that stay open, rounded up.

        Returns:
            The number, exact where a tile keeps some; otherwise an upper bound, since edge tiles may be smaller.

        >>> parse_pattern("2:4").least((3, 10)), parse_pattern("unit").least((100, 7), 0.005)
        (18, 7)
        """
        tiles, size = prod(self.grid(shape)), prod(shape)
        if self.keep:
            return size - tiles * (self.tile_size(shape) - self.keep)
        return min(size, self.protected(shape, min_density) * self.tile_size(shape))

    def protected(self, shape: Sequence[int], min_density: float) -> int:
        """Number of tiles that no collapse closes; where a tile keeps some, none need be."""
        return 0 if self.keep else minimum_live({"": prod(self.grid(shape))}, min_density)[""]


def parse_pattern(text: str) -> Pattern:
    """Read a pattern.

    Args:
        text: ``N:M`` (N of every M entries along the inputs stay), ``N:M:channels`` (of convolutions, along the input
            channels), ``block:RxC``, or ``unit`` (rows of the weight).

    Returns:
        The pattern.

    Raises:
        ValueError: if it is none of these; names the nearest valid form.

    >>> parse_pattern("2:4")
    Pattern(name='2:4', rows=1, columns=4, keep=2, channels=False)
    >>> parse_pattern("4:2")
    Traceback (most recent call last):
    ...
    ValueError: unknown pattern '4:2': expected 'N:M' with 1 <= N < M (as in '2:4', ... Did you mean '2:4'?
    """
    if text == "unit":
        return Pattern(text, 1, None)
    if found := re.fullmatch(r"(\d+):(\d+)(:channels)?", text):
        n, m = int(found[1]), int(found[2])
        if 1 <= n < m:
            return Pattern(text, 1, m, n, channels=found[3] is not None)
    elif (found := re.fullmatch(r"block:(\d+)x(\d+)", text)) and min(int(found[1]), int(found[2])) >= 1:
        return Pattern(text, int(found[1]), int(found[2]))
    raise ValueError(f"unknown pattern {text!r}: expected {VALID}. Did you mean {_nearest(text)!r}?")


def nm_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep exactly the ``n`` highest of every ``m`` consecutive entries along the inputs.

    Entries are counted along the flattened dimensions from the second on, in tiles that start with the row. Of a
    convolution these are in_channels·kh·kw of each output channel. What is left over at the end of a row whose length
    ``m`` does not divide stays open. Ties are closed lowest index first and NaN ranks highest, as in
    :func:`~surgecollapse.functional.collapse_masks`.

    Mishra et al. 2021 (arXiv 2104.08378, §3) choose 2 of 4 by magnitude in this way.

    Args:
        scores: of a weight, floating point, any shape and sign; compared by magnitude.
        n: entries that stay open, at least 1.
        m: length of a tile, greater than ``n``.

    Returns:
        New bool tensor of that shape, True where open.

    Raises:
        ValueError: if n and m are out of range.

    >>> nm_mask(torch.tensor([[4.0, -3.0, 2.0, 1.0, 5.0, 5.0, 5.0, 6.0, 0.0]]), 2, 4)
    tensor([[ True,  True, False, False, False, False,  True,  True,  True]])
    """
    return collapsed_tiles(scores, parse_pattern(f"{n}:{m}"))


def tile_scores(scores: Tensor, pattern: Pattern) -> Tensor:
    """Score the tiles by what collapsing each would take: the mean |score| of the entries that would close.

    For blocks and units that is the ℓ₁ norm over the number of entries. So smaller tiles (at an edge, or the units of a
    narrower layer) compete fairly for a budget of weights. Li et al. 2017 (arXiv 1608.08710, §3.1) rank the filters of
    one layer by their ℓ₁ norm. For ``N:M`` it is the mean of the M − N lowest.

    Args:
        scores: of a weight, floating point; low precision is averaged in float32.
        pattern: its tiles.

    Returns:
        New tensor of shape ``pattern.grid(scores.shape)``, at least 0; NaN where a tile holds a NaN that would count.

    >>> tile_scores(torch.tensor([[1.0, -3.0, 5.0], [1.0, 1.0, 0.0]]), parse_pattern("block:2x2"))
    tensor([[1.5000, 2.5000]])
    """
    if pattern.keep:
        closing = _ranks(scores, pattern) < pattern.tile_size(scores.shape) - pattern.keep
        values = _tiled(magnitudes(scores), pattern)
        return values.where(closing, values.new_zeros(())).sum(-1) / closing.sum(-1).clamp(min=1)
    return sum_tiles(magnitudes(scores), pattern) / tile_sizes(scores.shape, pattern).to(scores.device)


def tile_sizes(shape: Sequence[int], pattern: Pattern) -> Tensor:
    """Entries of each tile, those at an edge included.

    >>> tile_sizes((3, 5), parse_pattern("block:2x2"))
    tensor([[4., 4., 2.],
            [2., 2., 1.]])
    """
    height, width = _matrix(shape)
    down, across = pattern.grid(shape)
    columns = pattern.columns or max(1, width)
    rows_of = (height - torch.arange(down) * pattern.rows).clamp(max=pattern.rows)
    columns_of = (width - torch.arange(across) * columns).clamp(max=columns)
    return torch.outer(rows_of, columns_of).to(torch.float32)


def tile_counts(chosen: Tensor, pattern: Pattern) -> Tensor:
    """Count the True entries of each tile.

    Args:
        chosen: bool tensor of a weight's shape.
        pattern: its tiles.

    Returns:
        New float32 tensor of shape ``pattern.grid(chosen.shape)``; exact up to 2²⁴ entries a tile.

    >>> tile_counts(torch.tensor([[True, False, True]]), parse_pattern("block:1x2"))
    tensor([[1., 1.]])
    """
    return sum_tiles(chosen.to(torch.float32), pattern)


def spread(tiles: Tensor, shape: Sequence[int], pattern: Pattern) -> Tensor:
    """Write each tile's value into all its entries; what lies in no tile is False.

    Args:
        tiles: bool tensor of shape ``pattern.grid(shape)``.
        shape: of the weight.
        pattern: its tiles.

    Returns:
        New contiguous bool tensor of that shape.

    >>> spread(torch.tensor([[True, False]]), (2, 3), parse_pattern("block:2x2"))
    tensor([[ True,  True, False],
            [ True,  True, False]])
    """
    height, width = _matrix(shape)
    columns = pattern.columns or max(1, width)
    full = tiles.repeat_interleave(pattern.rows, 0).repeat_interleave(columns, 1)
    out = torch.zeros((height, width), dtype=torch.bool, device=tiles.device)
    out[:, : full.shape[1]] = full[:height, :width]
    return out.view(tuple(shape))


def collapsed_tiles(scores: Tensor, pattern: Pattern) -> Tensor:
    """The mask of a weight all of whose tiles are collapsed; what lies in no whole tile of ``N:M`` stays open."""
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    if not pattern.keep:
        return mask
    open_ = _ranks(scores, pattern) >= pattern.tile_size(scores.shape) - pattern.keep
    mask.fill_(True).view(_matrix(scores.shape))[:, : open_.shape[1] * open_.shape[2]] = open_.flatten(1)
    return mask


def highest_in_tiles(scores: Tensor, eligible: Tensor, counts: Tensor, pattern: Pattern) -> Tensor:
    """Mark the highest eligible entries of each tile of an ``N:M`` pattern, a number of its own in each.

    Args:
        scores: of a weight; ties go to the lowest index, NaN ranks highest.
        eligible: bool tensor of that shape.
        counts: how many in each tile, of shape ``pattern.grid(scores.shape)``; no more than are eligible.
        pattern: an ``N:M`` pattern.

    Returns:
        New bool tensor of that shape.

    >>> eligible = torch.tensor([[True, True, False, True]])
    >>> highest_in_tiles(torch.tensor([[1.0, 3.0, 9.0, 2.0]]), eligible, torch.tensor([[2]]), parse_pattern("2:4"))
    tensor([[False,  True, False,  True]])
    """
    barred = magnitudes(scores).masked_fill(~eligible, -1.0)
    order = _tiled(barred, pattern).sort(dim=-1, descending=True, stable=True).indices
    wanted = torch.arange(order.shape[-1], device=scores.device) < counts.unsqueeze(-1)
    tiles = torch.zeros(order.shape, dtype=torch.bool, device=scores.device).scatter_(-1, order, wanted)
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    mask.view(_matrix(scores.shape))[:, : tiles.shape[1] * tiles.shape[2]] = tiles.flatten(1)
    return mask


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the weight seen as a matrix."""
    if len(shape) < 2:
        return prod(shape), 1
    return shape[0], prod(shape[1:])


def magnitudes(scores: Tensor) -> Tensor:
    """Absolute values, at least in float32."""
    return scores.detach().to(torch.promote_types(scores.dtype, torch.float32)).abs()


def _tiled(scores: Tensor, pattern: Pattern) -> Tensor:
    """The whole tiles of an ``N:M`` pattern, of shape (rows, tiles across, M)."""
    matrix = scores.reshape(_matrix(scores.shape))
    down, across = pattern.grid(scores.shape)
    size = pattern.tile_size(scores.shape)
    return matrix[:, : across * size].reshape(down, across, size)


def _keys(values: Tensor) -> Tensor:
    """Integers in the order of non-negative floats, with one key for every NaN, above infinity."""
    if values.dtype == torch.float64:
        return values.view(torch.int64).clamp_(max=0x7FF0_0000_0000_0001)
    return values.view(torch.int32).clamp_(max=0x7F80_0001)


def _ranks(scores: Tensor, pattern: Pattern) -> Tensor:
    """Rank of each entry in its tile, 0 for the lowest magnitude; of equal ones the first is the lower."""
    tiled = _tiled(magnitudes(scores), pattern)
    size = tiled.shape[-1]
    if size > _FEW:
        order = tiled.sort(dim=-1, stable=True).indices
        return torch.empty_like(order).scatter_(-1, order, torch.arange(size, device=scores.device).expand_as(order))
    # Sorting millions of tiles of four costs ten times as much as comparing each entry with the three others.
    columns = _keys(tiled.flatten(0, 1).t().contiguous())
    ranks = torch.zeros(columns.shape, dtype=torch.uint8, device=scores.device)
    for i in range(size):
        for j in range(i):
            first_is_lower = columns[j] <= columns[i]
            ranks[i] += first_is_lower
            ranks[j] += ~first_is_lower
    return ranks.t().reshape(tiled.shape)


def sum_tiles(values: Tensor, pattern: Pattern) -> Tensor:
    """Sum the entries of each tile; the result has the shape ``pattern.grid(values.shape)``."""
    height, width = _matrix(values.shape)
    columns = pattern.columns or max(1, width)
    down, across = pattern.grid(values.shape)
    matrix = values.reshape(height, width)
    if pattern.keep:
        matrix, width = matrix[:, : across * columns], across * columns
    right, below = across * columns - width, down * pattern.rows - height
    if right or below:
        matrix = torch.nn.functional.pad(matrix, (0, right, 0, below))
    return matrix.reshape(down, pattern.rows, across, columns).sum(3).sum(1)


def _nearest(text: str) -> str:
    """The valid form that a mistyped pattern most resembles."""
    numbers = [max(1, int(number)) for number in re.findall(r"\d+", text)[:2]]
    if len(numbers) < 2:
        return "unit" if re.search("unit|neuron|row|channel|filter", text.lower()) else "2:4"
    if "x" in text.lower() or "block" in text.lower():
        return f"block:{numbers[0]}x{numbers[1]}"
    low, high = sorted(numbers)
    along = ":channels" if "channel" in text.lower() else ""
    return f"{low}:{high}{along}" if low < high else f"2:4{along}"
