"""Properties of the selection and the masks, for whatever tensors Hypothesis thinks of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgecollapse.functional import allocate, collapse_masks, highest, kept, lowest, pack, selection, unpack

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 3.5, 1e-7, 1e30, float("inf"), float("-inf"), float("nan")])
LAYOUTS = ("plain", "transposed", "sliced", "expanded", "channels_last")


@st.composite
def tensors(draw):
    """One tensor of any shape up to four dimensions, dtype and strides; often with ties and zeros."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    dtype, layout = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(LAYOUTS))
    size = int(np.prod(shape, dtype=int))
    some = draw(st.lists(st.one_of(VALUES, st.floats(width=16)), min_size=1, max_size=8))
    order = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, len(some), size)
    tensor = torch.tensor(some, dtype=torch.float64)[torch.from_numpy(order)].to(dtype).reshape(shape)
    if layout == "transposed" and tensor.ndim > 1:
        return tensor.transpose(0, -1)
    if layout == "sliced" and tensor.ndim > 0:
        return tensor[::2]
    if layout == "expanded" and tensor.ndim > 0 and shape[0] > 0:
        return tensor[:1].expand(shape)
    if layout == "channels_last" and tensor.ndim == 4:
        return tensor.to(memory_format=torch.channels_last)
    return tensor


@st.composite
def problems(draw):
    """Scores, perhaps with eligible entries, and a k that can be met."""
    scores = draw(st.lists(tensors(), min_size=1, max_size=4))
    eligible = None
    if draw(st.booleans()):
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
        eligible = [torch.rand(score.shape, generator=generator) < 0.6 for score in scores]
    allowed = sum(int(mask.sum()) for mask in eligible) if eligible else sum(score.numel() for score in scores)
    return scores, eligible, draw(st.integers(0, allowed))


def by_sorting(scores, eligible, k, descending):
    """Python's stable sort over (is NaN, |value|), in the order of positions."""
    wide = any(score.dtype == torch.float64 for score in scores)
    flat = torch.cat([score.to(torch.float64 if wide else torch.float32).reshape(-1) for score in scores]).abs()
    entries = [(True, 0.0) if value != value else (False, value) for value in flat.tolist()]
    places = range(len(entries))
    if eligible is not None:
        allowed = torch.cat([mask.reshape(-1) for mask in eligible]).tolist()
        places = [place for place in places if allowed[place]]
    # sorted(reverse=True) keeps the order of equal entries.
    chosen = set(sorted(places, key=lambda place: entries[place], reverse=descending)[:k])
    return [place in chosen for place in range(len(entries))]


def flattened(masks):
    return [entry for mask in masks for entry in mask.reshape(-1).tolist()]


@pytest.fixture(params=["host", "host, tiny chunks", "accelerator"], scope="module")
def engine(request):
    """Each way through the code; chunks and samples so small that even toy tensors take the long one."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "host, tiny chunks":
            patch.setattr(selection, "_CHUNK", 3)
            patch.setattr(selection, "_SAMPLE", 4)
        if request.param == "accelerator":
            patch.setattr(selection, "_DEVICE_CHUNK", 7)
            patch.setattr(selection, "_select_on_host", selection._select_on_device)
        yield request.param


@pytest.mark.parametrize("function", [lowest, highest])
@settings(max_examples=80)
@given(problem=problems())
def test_selection_is_a_stable_sort_with_exact_count(engine, function, problem):
    scores, eligible, k = problem
    before = [score.clone() for score in scores]
    masks = function(scores, k, eligible=eligible)
    assert [mask.shape for mask in masks] == [score.shape for score in scores]
    assert sum(int(mask.sum()) for mask in masks) == k
    assert flattened(masks) == by_sorting(scores, eligible, k, descending=function is highest)
    torch.testing.assert_close(scores, before, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=40)
@given(problem=problems())
def test_masks_share_memory_with_nothing(engine, problem):
    scores, eligible, k = problem
    masks = lowest(scores, k, eligible=eligible)
    storages = {tensor.untyped_storage().data_ptr() for tensor in [*scores, *(eligible or [])] if tensor.numel()}
    for mask in masks:
        if mask.numel():
            assert mask.untyped_storage().data_ptr() not in storages
            storages.add(mask.untyped_storage().data_ptr())
            assert mask.untyped_storage().nbytes() == mask.numel()


@settings(max_examples=40)
@given(problem=problems())
def test_lowest_and_highest_share_the_entries_out(engine, problem):
    scores, _, k = problem
    total = sum(score.numel() for score in scores)
    k = min(k, total)
    scores = [torch.where(score.isnan(), 0.0, score) for score in scores]
    low, high = flattened(lowest(scores, k)), flattened(highest(scores, total - k))
    values = torch.cat([score.double().abs().reshape(-1) for score in scores]).tolist()
    least = [value for value, marked in zip(values, low, strict=True) if not marked]
    most = [value for value, marked in zip(values, high, strict=True) if marked]
    assert sorted(least) == sorted(most)


SHAPES = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.integers(0, 12), min_size=1, max_size=3).map(tuple), min_size=1
)


@settings(max_examples=80)
@given(shapes=SHAPES, sparsity=st.floats(0, 0.99), allocation=st.sampled_from(["layer", "erk"]))
def test_allocations_are_exact_and_within_the_layers(shapes, sparsity, allocation):
    counts = allocate(shapes, sparsity, allocation, min_density=0.0)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(counts.values()) == kept(sum(sizes.values()), sparsity)
    assert all(0 <= counts[name] <= size for name, size in sizes.items())


@settings(max_examples=80)
@given(
    shapes=SHAPES,
    share=st.floats(0, 1),
    minimum=st.sampled_from([0.0, 0.1, 0.5]),
    allocation=st.sampled_from(["global", "layer", "erk"]),
    seed=st.integers(0, 99),
)
def test_collapse_is_exact_and_respects_the_minima(shapes, share, minimum, allocation, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {name: (torch.randn(shape, generator=generator) * 2).round() for name, shape in shapes.items()}
    minima = {name: -(-score.numel() * int(minimum * 10) // 10) for name, score in scores.items()}
    least, total = sum(minima.values()), sum(score.numel() for score in scores.values())
    live = least + int(share * (total - least))
    masks = collapse_masks(scores, live, allocation=allocation, min_density=minimum)
    assert sum(int(mask.sum()) for mask in masks.values()) == live
    for name, mask in masks.items():
        assert int(mask.sum()) >= minima[name]
        if mask.any() and not mask.all():
            assert scores[name].abs()[mask].min() >= scores[name].abs()[~mask].max()


@settings(max_examples=40)
@given(shape=st.lists(st.integers(0, 9), max_size=3), seed=st.integers(0, 99))
def test_unpacking_undoes_packing(shape, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(unpack(pack(mask), shape), mask)
