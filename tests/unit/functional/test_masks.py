"""Allocation by hand, exact collapse, packed masks."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.functional import allocate, collapse_masks, kept, pack, unpack

SHAPES = {"embed": (784, 300), "hidden": (300, 100), "out": (100, 10)}


def scores_of(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * (1 + i) for i, (name, shape) in enumerate(shapes.items())}


def live_counts(masks):
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_uniform_allocation_by_hand():
    # 7 + 7 + 7 weights at one third: 7 live, 2⅓ each; the one left over goes to the first.
    assert allocate({"a": 7, "b": 7, "c": 7}, 2 / 3, min_density=0.0) == {"a": 3, "b": 2, "c": 2}


def test_erk_density_is_proportional_to_dims_over_size():
    counts = allocate({"a": (100, 200), "b": (400, 400), "c": (64, 32, 3, 3)}, 0.95, "erk")
    total = 20_000 + 160_000 + 18_432
    scale = kept(total, 0.95) / (300 + 800 + 102)
    assert counts == pytest.approx({"a": 300 * scale, "b": 800 * scale, "c": 102 * scale}, abs=1)
    assert sum(counts.values()) == kept(total, 0.95)


def test_erk_caps_dense_layers_and_redistributes():
    counts = allocate({"wide": (1000, 1000), "narrow": (10, 10)}, 0.9, "erk")
    assert counts == {"wide": kept(1_000_100, 0.9) - 100, "narrow": 100}


@pytest.mark.parametrize("distribution", ["layer", "erk"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.98, 0.995])
def test_allocations_sum_exactly_within_their_bounds(distribution, sparsity):
    counts = allocate({**SHAPES, "none": (0, 3), "one": (1, 1)}, sparsity, distribution, 0.004)
    sizes = {"embed": 235_200, "hidden": 30_000, "out": 1_000, "none": 0, "one": 1}
    assert sum(counts.values()) == kept(sum(sizes.values()), sparsity)
    for name, size in sizes.items():
        assert 0.004 * size <= counts[name] <= size


def test_a_minimum_lifts_the_thinnest_layer():
    counts = allocate({"wide": (1000, 1000), "narrow": (10, 10)}, 0.99, "erk", min_density=0.00995)
    assert counts == {"wide": 9_950, "narrow": 51}  # uncapped, the dims 2000 and 20 would give 9902 and 99


@pytest.mark.parametrize("distribution", ["global", "layer", "erk"])
@pytest.mark.parametrize("live", [1_332, 2_000, 26_620, 266_200])
def test_collapse_leaves_exactly_the_live_count(distribution, live):
    masks = collapse_masks(scores_of(SHAPES), live, allocation=distribution)
    counts = live_counts(masks)
    assert sum(counts.values()) == live
    assert all(counts[name] >= 0.005 * mask.numel() for name, mask in masks.items())


def test_global_collapse_keeps_the_highest_scores():
    scores = scores_of(SHAPES)
    masks = collapse_masks(scores, 30_000, min_density=0.0)
    kept_lowest = min(scores[name].abs()[mask].min() for name, mask in masks.items())
    pruned_highest = max(scores[name].abs()[~mask].max() for name, mask in masks.items())
    assert kept_lowest >= pruned_highest


def test_a_starved_layer_keeps_its_own_best_and_the_rest_is_ranked_again():
    scores = {"big": torch.arange(100.0) + 10, "small": torch.arange(10.0), "mid": torch.arange(10.0) + 8}
    masks = collapse_masks(scores, 30, min_density=0.2)
    assert live_counts(masks) == {"big": 26, "small": 2, "mid": 2}
    assert masks["small"].tolist() == [False] * 8 + [True] * 2
    assert masks["big"].tolist() == [False] * 74 + [True] * 26


def test_the_starved_layers_can_starve_another():
    # First ranking: a 4, b 2, c 0. Lifting c to 2 takes two from b, which then falls under its own minimum.
    scores = {
        "a": torch.tensor([9.0, 9, 9, 9]),
        "b": torch.tensor([5.0, 5, 1, 1]),
        "c": torch.tensor([0.1, 0.2, 0.1, 0.2]),
    }
    masks = collapse_masks(scores, 6, min_density=0.5)
    assert live_counts(masks) == {"a": 2, "b": 2, "c": 2}
    assert masks["c"].tolist() == [False, True, False, True]


def test_equal_scores_are_pruned_from_the_front():
    masks = collapse_masks({"a": torch.ones(4), "b": torch.ones(4)}, 3, min_density=0.0)
    assert masks["a"].tolist() == [False] * 4
    assert masks["b"].tolist() == [False, True, True, True]


def test_minima_above_the_live_count_name_the_layers():
    with pytest.raises(ValueError, match=r"needs 6 live weights.*only 5.*a \(4\), b \(2\)"):
        collapse_masks({"a": torch.ones(8), "b": torch.ones(4)}, 5, min_density=0.5)


def test_wrong_arguments_are_refused():
    scores = {"a": torch.ones(4)}
    with pytest.raises(ValueError, match=r"unknown allocation 'unifrom'.*global, layer, erk"):
        collapse_masks(scores, 2, allocation="unifrom")
    with pytest.raises(ValueError, match=r"\[0, 4\].*got 5"):
        collapse_masks(scores, 5)
    with pytest.raises(ValueError, match="min_density"):
        collapse_masks(scores, 2, min_density=-0.1)
    with pytest.raises(ValueError, match="sparsity"):
        allocate({"a": 4}, 1.0)
    with pytest.raises(ValueError, match="layer, erk"):
        allocate({"a": 4}, 0.5, "global")
    with pytest.raises(ValueError, match="shape of 'a'"):
        allocate({"a": 4}, 0.5, "erk")


@pytest.mark.parametrize("shape", [(0,), (), (1,), (8,), (3, 5), (2, 3, 4, 5)])
def test_packing_is_undone_by_unpacking(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.3
    packed = pack(mask)
    assert packed.numel() == (mask.numel() + 7) // 8
    assert torch.equal(unpack(packed, shape), mask)
    transposed = mask.permute(tuple(reversed(range(mask.ndim))))
    assert torch.equal(unpack(pack(transposed), transposed.shape), transposed)


def test_packing_leaves_the_mask_alone():
    mask = torch.ones(8, dtype=torch.bool)
    pack(mask).zero_()
    assert mask.all()


def test_packing_matches_numpy():
    numpy = pytest.importorskip("numpy")
    mask = torch.rand(1001, generator=torch.Generator().manual_seed(2)) < 0.5
    assert pack(mask).tolist() == numpy.packbits(mask.numpy(), bitorder="little").tolist()


def test_foreign_bytes_are_refused():
    with pytest.raises(ValueError, match=r"takes 2 bytes.*\(1,\)"):
        unpack(torch.zeros(1, dtype=torch.uint8), (3, 3))
    with pytest.raises(TypeError, match="uint8"):
        unpack(torch.zeros(1), (3,))
    with pytest.raises(TypeError, match="bool"):
        pack(torch.zeros(3))
