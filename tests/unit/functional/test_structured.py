"""Collapse, surge and exchange of tiles: by hand, against oracles, and equal to the unstructured ones for 1 × 1."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgecollapse.functional import collapse_masks, collapse_tiles, highest, nm_mask, parse_pattern, reopen_tiles
from surgecollapse.functional.patterns import spread, tile_counts, tile_scores
from surgecollapse.functional.structured import exchange_tiles, nearest_tiles, open_count


def drawn(shapes, seed=0, scale=(1.0, 2.0, 4.0)):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * scale[i % 3] for i, (n, s) in enumerate(shapes.items())}


def live(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def test_a_block_collapse_by_hand():
    weight = torch.tensor(
        [
            [1.0, 1.0, 9.0, 9.0, 2.0],
            [1.0, 1.0, 9.0, 9.0, 2.0],
            [5.0, 5.0, 0.0, 0.0, 7.0],
        ]
    )
    # Means: 1, 9, 2 above; 5, 0, 7 below. Sizes: 4, 4, 2 above; 2, 2, 1 below.
    masks = collapse_tiles({"w": weight}, 9, parse_pattern("block:2x2"), min_density=0.0)
    # Closing 0 (2 weights), 1 (4): 9 of 15 remain, exactly as wanted.
    assert torch.equal(masks["w"], torch.tensor([[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 1]]).bool())


@pytest.mark.parametrize(
    ("wanted", "reached"),
    [(12, 12), (11, 12), (10, 12), (9, 8), (8, 8), (6, 8), (5, 4), (2, 4), (1, 0), (0, 0)],
)
def test_the_number_of_open_weights_is_the_nearest_that_whole_units_reach(wanted, reached):
    scores = {"w": torch.tensor([[1.0] * 4, [2.0] * 4, [3.0] * 4])}
    masks = collapse_tiles(scores, wanted, parse_pattern("unit"), min_density=0.0)
    assert live(masks) == reached
    assert masks["w"].all(1).tolist() == [reached >= 12, reached >= 8, reached >= 4]


def test_units_of_all_layers_compete_by_their_mean():
    # The rows of the wide layer are longer, not better.
    scores = {"wide": torch.full((2, 100), 0.5), "narrow": torch.full((2, 4), 0.6)}
    masks = collapse_tiles(scores, 108, parse_pattern("unit"), min_density=0.0)
    assert masks["wide"].all(1).tolist() == [False, True]  # of equal ones the first goes
    assert masks["narrow"].all()


def test_no_layer_is_closed_whole():
    scores = {"low": torch.rand(6, 8) * 1e-3, "high": torch.rand(60, 8) + 1.0}
    masks = collapse_tiles(scores, 240, parse_pattern("unit"), min_density=0.005)
    assert masks["low"].all(1).sum() == 1
    best = int(scores["low"].mean(1).argmax())
    assert masks["low"][best].all()
    assert live(masks) == 240


def test_minima_over_the_budget_are_refused_by_name():
    scores = {"a": torch.rand(4, 10), "b": torch.rand(4, 10)}
    with pytest.raises(ValueError, match=r"pattern 'unit'.*needs 20 live weights, but only 19.*a \(10\), b \(10\)"):
        collapse_tiles(scores, 19, parse_pattern("unit"), min_density=0.005)
    with pytest.raises(ValueError, match="live must lie in"):
        collapse_tiles(scores, 81, parse_pattern("unit"))
    with pytest.raises(ValueError, match="unknown allocation"):
        collapse_tiles(scores, 40, parse_pattern("unit"), allocation="even")


@settings(max_examples=40)
@given(
    pattern=st.sampled_from(["block:1x2", "block:2x2", "block:3x2", "unit", "2:4", "1:3"]),
    seed=st.integers(0, 999),
    share=st.floats(0.1, 1.0),
)
def test_a_global_collapse_agrees_with_brute_force(pattern, seed, share):
    """The oracle closes one tile after another, by hand, and stops where the count is nearest."""
    tiles = parse_pattern(pattern)
    shapes = {"a": (3, 5), "b": (2, 3, 2), "c": (4, 4)}
    generator = torch.Generator().manual_seed(seed)
    scores = {n: torch.randint(0, 4, s, generator=generator).float() for n, s in shapes.items()}
    wanted = int(share * 43)
    steps, masks = [], {n: torch.ones(s, dtype=torch.bool) for n, s in shapes.items()}
    for position, (name, weight) in enumerate(scores.items()):
        rows, columns = tiles.grid(weight.shape)
        for i, j in itertools.product(range(rows), range(columns)):
            one = torch.zeros(rows, columns, dtype=torch.bool)
            one[i, j] = True
            where = spread(one, weight.shape, tiles)
            entries = sorted((float(weight[at]), k, at) for k, at in enumerate(map(tuple, where.nonzero().tolist())))
            closing = entries[: len(entries) - tiles.keep]
            score = sum(value for value, _, _ in closing) / len(closing)
            steps.append((score, position, i, j, name, [at for _, _, at in closing]))
    reached = {43: {n: m.clone() for n, m in masks.items()}}
    count = 43
    # Means of whole numbers over few entries: float32 and float64 rank them alike.
    for *_, name, closing in sorted(steps, key=lambda step: (round(step[0], 5), *step[1:4])):
        for at in closing:
            masks[name][at] = False
        count -= len(closing)
        reached[count] = {n: m.clone() for n, m in masks.items()}
    nearest = min(reached, key=lambda found: (abs(found - wanted), -found))
    found = collapse_tiles(scores, wanted, tiles, min_density=0.0)
    assert live(found) == nearest
    assert all(torch.equal(found[n], reached[nearest][n]) for n in shapes)


@pytest.mark.parametrize("distribution", ["global", "layer", "erk"])
@pytest.mark.parametrize("count", [300, 700, 1_100, 1_500])
def test_blocks_of_one_entry_are_an_unstructured_collapse(distribution, count):
    scores = drawn({"a": (20, 30), "b": (40, 10), "c": (8, 7, 3, 3)})
    single = parse_pattern("block:1x1")
    wanted = collapse_masks(scores, count, allocation=distribution)
    found = collapse_tiles(scores, count, single, allocation=distribution)
    assert all(torch.equal(found[name], wanted[name]) for name in scores)


@pytest.mark.parametrize("distribution", ["layer", "erk"])
def test_each_layer_comes_as_near_as_it_can_to_its_own_count(distribution):
    shapes = {"a": (32, 64), "b": (64, 16)}
    masks = collapse_tiles(drawn(shapes), 1_000, parse_pattern("block:4x4"), allocation=distribution)
    wanted = {"layer": {"a": 667, "b": 333}, "erk": {"a": 545, "b": 455}}[distribution]
    for name, mask in masks.items():
        assert abs(int(mask.sum()) - wanted[name]) <= 8
        assert set(tile_counts(mask, parse_pattern("block:4x4")).unique().tolist()) <= {0.0, 16.0}


@pytest.mark.parametrize("distribution", ["global", "layer", "erk"])
def test_the_depth_of_the_pattern_or_more_is_n_of_m_everywhere(distribution):
    scores = drawn({"a": (16, 32), "b": (8, 11)})
    for count in (300, 256 + 8 * 7, 0):
        masks = collapse_tiles(scores, count, parse_pattern("2:4"), allocation=distribution)
        assert all(torch.equal(masks[n], nm_mask(scores[n], 2, 4)) for n in scores)


def test_between_dense_and_n_of_m_some_tiles_are_still_dense():
    scores = drawn({"a": (16, 32), "b": (8, 12)})
    masks = collapse_tiles(scores, 500, parse_pattern("2:4"))
    assert live(masks) == 500
    counts = torch.cat([tile_counts(m, parse_pattern("2:4")).flatten() for m in masks.values()])
    assert set(counts.tolist()) == {2.0, 4.0}
    lost = torch.cat([tile_scores(s, parse_pattern("2:4")).flatten() for s in scores.values()])
    assert lost[counts == 2].max() <= lost[counts == 4].min()


def test_open_count_knows_the_patterns_own_sparsity():
    shapes = {"a": (10, 9)}
    thirds = parse_pattern("1:3")
    assert [open_count(shapes, 0, thirds, s) for s in (2 / 3, 0.667, 0.666, 0.9)] == [30] * 4
    assert open_count(shapes, 60, thirds, 1 / 3) == 60
    assert open_count(shapes, 9, parse_pattern("unit"), 0.9) == 9


def test_surge_reopens_whole_tiles_of_highest_growth():
    closed = torch.ones(4, 4, dtype=torch.bool)
    closed[:2, :2] = False
    growth = torch.zeros(4, 4)
    growth[0, 0], growth[0, 2], growth[2, 0], growth[3, 3] = 9.0, 1.0, 2.0, -3.0
    pattern = parse_pattern("block:2x2")
    (found,) = reopen_tiles([growth], 8, pattern, eligible=[closed])
    assert tile_counts(found, pattern).tolist() == [[0, 0], [4, 4]]
    (fewer,) = reopen_tiles([growth], 6, pattern, eligible=[closed])  # 4 and 8 are equally near
    assert tile_counts(fewer, pattern).tolist() == [[0, 0], [0, 4]]
    assert not reopen_tiles([growth], 2, pattern, eligible=[closed])[0].any()
    assert torch.equal(reopen_tiles([growth], 12, pattern, eligible=[closed])[0], closed)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_single_entries_reopen_as_without_a_pattern(seed, share):
    generator = torch.Generator().manual_seed(seed)
    growth = [torch.randint(-3, 4, s, generator=generator).float() for s in ((4, 5), (3, 2))]
    closed = [torch.rand(s, generator=generator) < 0.6 for s in ((4, 5), (3, 2))]
    count = int(share * sum(int(c.sum()) for c in closed))
    found = reopen_tiles(growth, count, parse_pattern("block:1x1"), eligible=closed)
    assert all(torch.equal(a, b) for a, b in zip(found, highest(growth, count, eligible=closed), strict=True))


def test_an_exchange_of_units_keeps_their_number():
    mask = torch.zeros(6, 3, dtype=torch.bool)
    mask[:4] = True
    saliency = torch.tensor([1.0, 4.0, 2.0, 3.0, 0.0, 0.0]).unsqueeze(1).expand(6, 3)
    growth = torch.tensor([0.0, 0.0, 9.0, 0.0, 1.0, 2.0]).unsqueeze(1).expand(6, 3)
    new = exchange_tiles(saliency, growth, mask, 0.5, parse_pattern("unit"))
    # Rows 0 and 2 go; row 2 comes back as the best to grow, and row 5.
    assert new.all(1).tolist() == [False, True, True, True, False, True]
    assert torch.equal(exchange_tiles(saliency, growth, mask, 0.0, parse_pattern("unit")), mask)


@settings(max_examples=40)
@given(seed=st.integers(0, 999), share=st.floats(0, 1), shape=st.sampled_from([(4, 8), (3, 11), (2, 3, 2, 2)]))
def test_an_exchange_keeps_n_of_m_in_every_tile(seed, share, shape):
    generator = torch.Generator().manual_seed(seed)
    pattern = parse_pattern("2:4")
    saliency, growth = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    mask = nm_mask(saliency, 2, 4)
    new = exchange_tiles(saliency, growth, mask, share, pattern)
    assert torch.equal(tile_counts(new, pattern), tile_counts(mask, pattern))
    grown, closed = new & ~mask, mask & ~new
    assert int(grown.sum()) == int(closed.sum())
    inside = int(pattern.grid(shape)[0] * pattern.grid(shape)[1]) * 2
    assert int(closed.sum()) <= int(share * inside + 0.5)


def test_nearest_tiles_prefers_the_smaller_of_two_equally_near_sums():
    values, sizes = [torch.tensor([1.0, 2.0])], [torch.tensor([2.0, 2.0])]
    assert nearest_tiles(values, sizes, 3)[0].tolist() == [True, False]
    assert nearest_tiles(values, sizes, 1)[0].tolist() == [False, False]
    assert nearest_tiles(values, sizes, 3, descending=True)[0].tolist() == [False, True]


def test_nan_is_kept_and_reopened_first():
    weight = torch.tensor([[1.0, float("nan")], [5.0, 5.0], [float("inf"), 0.0]])
    masks = collapse_tiles({"w": weight}, 2, parse_pattern("unit"), min_density=0.0)
    assert masks["w"].all(1).tolist() == [True, False, False]
    (found,) = reopen_tiles([weight], 2, parse_pattern("unit"), eligible=[torch.ones(3, 2, dtype=torch.bool)])
    assert found.all(1).tolist() == [True, False, False]
