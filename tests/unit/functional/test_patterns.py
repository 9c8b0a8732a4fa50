"""Patterns by hand, and against a brute-force oracle: what a tile is, what N of M keeps, what is left at the edges."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgecollapse.functional import collapse_masks, nm_mask, parse_pattern
from surgecollapse.functional.patterns import highest_in_tiles, spread, tile_counts, tile_scores, tile_sizes

NAN, INF = math.nan, math.inf


def rows(*texts: str) -> torch.Tensor:
    """Masks as pictures: x open, · closed."""
    return torch.tensor([[mark == "x" for mark in text] for text in texts])


@pytest.mark.parametrize(
    ("n", "m", "scores", "wanted"),
    [
        (2, 4, [[1, 2, 3, 4, 8, 7, 6, 5]], ["··xxxx··"]),
        (2, 4, [[-1, -2, -3, -4, 8, 7, -6, 5]], ["··xxxx··"]),  # magnitudes
        (1, 4, [[1, 9, 2, 3], [4, 0, 0, 0]], ["·x··", "x···"]),
        (3, 4, [[5, 1, 2, 3]], ["x·xx"]),
        (2, 4, [[7, 7, 7, 7]], ["··xx"]),  # of equal ones the lowest index is closed first
        (2, 4, [[7, 9, 7, 7]], ["·x·x"]),
        (2, 4, [[0, 0, 0, 0]], ["··xx"]),
        (2, 4, [[NAN, 1, INF, 2]], ["x·x·"]),  # NaN ranks above infinity
        (1, 2, [[INF, NAN, NAN, NAN]], ["·x·x"]),
        (2, 4, [[1, 2, 3, 4, 0, 0, 0]], ["··xxxxx"]),  # three entries are no tile: they stay open
        (1, 3, [[1, 2]], ["xx"]),  # shorter than a tile
    ],
)
def test_n_of_m_by_hand(n, m, scores, wanted):
    assert torch.equal(nm_mask(torch.tensor(scores, dtype=torch.float32), n, m), rows(*wanted))


def test_a_convolution_is_counted_along_its_flattened_inputs():
    # 2 output channels of 3 inputs × 2 × 2: twelve entries a row, three tiles of four.
    weight = torch.arange(24.0).view(2, 3, 2, 2)
    mask = nm_mask(weight, 2, 4)
    assert mask.shape == weight.shape
    assert torch.equal(mask.flatten(1), rows("··xx··xx··xx", "··xx··xx··xx"))
    # One kernel of 2 × 2 is one tile here: its last row stays.
    assert torch.equal(mask[0, 0], rows("··", "xx"))


def test_strides_do_not_matter():
    weight = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nm_mask(weight.to(memory_format=torch.channels_last), 2, 4), nm_mask(weight, 2, 4))
    assert torch.equal(nm_mask(weight[:, :, 0, 0].t(), 1, 4), nm_mask(weight[:, :, 0, 0].t().contiguous(), 1, 4))


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 13))


@settings(max_examples=60)
@given(shape=SHAPES, m=st.integers(2, 6), n=st.integers(1, 5), seed=st.integers(0, 99), dtype=st.sampled_from("fdh"))
def test_n_of_m_agrees_with_brute_force_over_every_choice(shape, m, n, seed, dtype):
    n = min(n, m - 1)
    kind = {"f": torch.float32, "d": torch.float64, "h": torch.bfloat16}[dtype]
    # Small whole numbers: many ties.
    scores = torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(kind)
    before = scores.clone()
    mask = nm_mask(scores, n, m)
    assert torch.equal(scores, before)
    for row, kept in zip(scores.abs().tolist(), mask.tolist(), strict=True):
        whole = len(row) // m * m
        assert all(kept[whole:])
        for start in range(0, whole, m):
            tile = row[start : start + m]
            # The best sum; among equal sums the choice that closes the lowest indices.
            best = max(itertools.combinations(range(m), n), key=lambda chosen: (sum(tile[i] for i in chosen), chosen))
            assert [i for i in range(m) if kept[start + i]] == list(best)


@settings(max_examples=30)
@given(m=st.integers(2, 8), seed=st.integers(0, 99))
def test_one_tile_is_an_unstructured_collapse_of_it(m, seed):
    scores = torch.randint(0, 4, (1, m), generator=torch.Generator().manual_seed(seed)).float()
    for n in range(1, m):
        assert torch.equal(nm_mask(scores, n, m), collapse_masks({"": scores}, n, min_density=0.0)[""])


def test_tile_scores_by_hand():
    weight = torch.tensor([[1.0, -2.0, 3.0, 4.0, 10.0], [0.0, -1.0, 0.0, 1.0, 20.0], [6.0, 8.0, 1.0, 1.0, 5.0]])
    # Blocks of two by two; the right column and the last row are half blocks, the corner a quarter.
    assert tile_scores(weight, parse_pattern("block:2x2")).tolist() == [[1.0, 2.0, 15.0], [7.0, 1.0, 5.0]]
    assert tile_sizes((3, 5), parse_pattern("block:2x2")).tolist() == [
        [4, 4, 2],
        [2, 2, 1],
    ]
    assert tile_scores(weight, parse_pattern("unit")).tolist() == [[4.0], [pytest.approx(22 / 5)], [pytest.approx(4.2)]]
    # What 2:4 would close: the two lowest of the first four; the fifth column is in no tile.
    assert tile_scores(weight, parse_pattern("2:4")).tolist() == [[1.5], [0.0], [1.0]]


def test_a_unit_of_a_convolution_is_a_whole_channel():
    weight = torch.stack([torch.full((2, 3, 3), 2.0), torch.full((2, 3, 3), -1.0)])
    assert tile_scores(weight, parse_pattern("unit")).tolist() == [[2.0], [1.0]]
    assert spread(torch.tensor([[False], [True]]), weight.shape, parse_pattern("unit")).flatten(1).all(1).tolist() == [
        False,
        True,
    ]


@pytest.mark.parametrize("pattern", ["block:1x1", "block:2x3", "block:4x1", "block:1x16", "block:9x9", "unit"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (8, 6), (4, 3, 2, 2), (7,)])
def test_every_entry_is_in_exactly_one_tile(pattern, shape):
    tiles = parse_pattern(pattern)
    grid, seen = tiles.grid(shape), torch.zeros(shape, dtype=torch.int64)
    for i in range(grid[0] * grid[1]):
        one = torch.zeros(grid, dtype=torch.bool)
        one.view(-1)[i] = True
        entries = spread(one, shape, tiles)
        assert torch.equal(tile_counts(entries, tiles) > 0, one)
        seen += entries
    assert torch.equal(seen, torch.ones_like(seen))


def test_the_least_a_pattern_leaves_by_hand():
    assert parse_pattern("2:4").least((3, 8)) == 12
    assert parse_pattern("2:4").least((3, 11)) == 3 * (4 + 3)
    assert parse_pattern("1:16").least((5, 10)) == 50  # no whole tile: dense
    assert parse_pattern("unit").least((10, 7), 0.25) == 21  # a quarter of ten rows, rounded up
    assert parse_pattern("block:4x4").least((8, 8), 0.005) == 16
    assert parse_pattern("block:4x4").least((8, 8), 0.0) == 0
    assert parse_pattern("2:4").sparsity == 0.5
    assert parse_pattern("unit").sparsity is None


def test_highest_in_tiles_by_hand():
    scores = torch.tensor([[1.0, NAN, -3.0, 2.0, 5.0, 5.0, 5.0, 5.0, 9.0]])
    eligible = rows("xx·xxxxxx")
    found = highest_in_tiles(scores, eligible, torch.tensor([[2, 1]]), parse_pattern("2:4"))
    assert torch.equal(found, rows("·x·xx····"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("4:2", "2:4"),
        ("2/4", "2:4"),
        ("2x4", "block:2x4"),
        ("block:4", "2:4"),
        ("block4x1", "block:4x1"),
        ("block:0x4", "block:1x4"),
        ("0:4", "1:4"),
        ("4:4", "2:4"),
        ("units", "unit"),
        ("neurons", "unit"),
        ("", "2:4"),
    ],
)
def test_a_mistyped_pattern_names_the_nearest_form(text, hint):
    with pytest.raises(ValueError, match=f"expected 'N:M'.*'block:RxC'.*'unit'. Did you mean '{hint}'"):
        parse_pattern(text)
    assert parse_pattern(hint).name == hint


@pytest.mark.parametrize("m", [8, 9])
def test_comparing_and_sorting_give_one_answer(m):
    """Short tiles are ranked by comparison, long ones by sorting: both against Python's own sort."""
    scores = torch.randint(-3, 4, (7, 2 * m), generator=torch.Generator().manual_seed(m)).float()
    scores[0, 0], scores[1, 3], scores[1, 5] = NAN, INF, NAN
    mask = nm_mask(scores, m // 2, m)
    for row, kept in zip(scores.abs().tolist(), mask.tolist(), strict=True):
        for start in (0, m):
            tile = [(1, 0.0) if math.isnan(x) else (0, x) for x in row[start : start + m]]
            order = sorted(range(m), key=lambda i, tile=tile: (tile[i], i))
            assert {i for i in range(m) if kept[start + i]} == set(order[-(m // 2) :])
