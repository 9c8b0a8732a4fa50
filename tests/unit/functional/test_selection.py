"""Selection against a full stable sort, by both engines, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgecollapse.functional import highest, kept, lowest, selection


def by_sorting(scores, k, eligible=None, descending=False):
    """The oracle: sort everything, stably, in float64, NaN as the highest value."""
    values = np.concatenate([score.detach().double().abs().reshape(-1).numpy() for score in scores])
    missing = np.isnan(values)
    values = np.where(missing, np.inf, values)
    order = np.lexsort((-values, ~missing) if descending else (values, missing))
    if eligible is not None:
        allowed = np.concatenate([mask.reshape(-1).numpy() for mask in eligible])
        order = order[allowed[order]]
    flat = torch.zeros(len(values), dtype=torch.bool)
    flat[torch.from_numpy(order[:k].copy())] = True
    sizes = [score.numel() for score in scores]
    return [part.view(score.shape) for part, score in zip(torch.split(flat, sizes), scores, strict=True)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == torch.bool
        assert torch.equal(mine, theirs)


def on_device(scores, k, descending=False):
    """The engine for accelerators, which runs on any device."""
    return selection._select_on_device(selection._checked(scores, k, None, descending=descending), k)


def patterns(size=300_000):
    """Value patterns that mislead a sample or fill it with ties; larger than the sample."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(size, generator=generator)
    index = torch.arange(size)
    sampled = torch.zeros(size, dtype=torch.bool)
    sampled[torch.from_numpy(selection._sample_positions(size, 0))] = True
    return {
        "normal": normal,
        "nine tenths exact zeros": torch.where(torch.rand(size, generator=generator) < 0.9, 0.0, normal),
        "all equal": torch.full((size,), 2.0),
        "two values": (index % 2).float(),
        "ascending": index.float(),
        "only the sampled entries are small": torch.where(sampled, normal / 1e6, normal + 10),
        "only the sampled entries are large": torch.where(sampled, normal + 10, normal / 1e6),
        "rounded": (normal * 4).round() / 4,
        "tiny and huge": normal.sign() * torch.exp(normal * 20),
        "infinite and not a number": torch.where(
            index % 3 == 0, torch.inf, torch.where(index % 3 == 1, torch.nan, 1.0)
        ),
    }


@pytest.mark.parametrize("name", patterns(10))
@pytest.mark.parametrize("share", [1e-5, 0.1, 0.5, 0.9, 0.99999])
def test_selection_is_a_stable_sort_for_every_pattern(name, share):
    scores = list(torch.split(patterns()[name], [100_000, 150_001, 49_999]))
    k = int(share * 300_000)
    assert_same(lowest(scores, k), by_sorting(scores, k))
    assert_same(highest(scores, k), by_sorting(scores, k, descending=True))


@pytest.mark.parametrize("name", ["normal", "nine tenths exact zeros", "all equal", "infinite and not a number"])
def test_the_accelerator_engine_selects_the_same(name, monkeypatch):
    monkeypatch.setattr(selection, "_DEVICE_CHUNK", 10_000)
    scores = list(torch.split(patterns(30_000)[name], [10_000, 15_001, 4_999]))
    for k in (1, 15_000, 29_999):
        assert_same(on_device(scores, k), by_sorting(scores, k))
        assert_same(on_device(scores, k, descending=True), by_sorting(scores, k, descending=True))


def test_the_radix_finds_what_the_bracket_finds():
    for scores in (patterns()["normal"], patterns()["rounded"].double()):
        keys = selection._checked([scores], 1, None, descending=False)
        for rank in (0, 1234, 150_000, 299_999):
            assert selection._radix(keys, rank) == selection._order_statistic(keys, rank)


def test_where_every_sample_misleads_the_radix_decides(monkeypatch):
    calls = []
    radix = selection._radix
    monkeypatch.setattr(selection, "_radix", lambda *args: calls.append(1) or radix(*args))
    first = selection._sample_positions
    monkeypatch.setattr(selection, "_sample_positions", lambda size, salt: first(size, 0))
    scores = [patterns()["only the sampled entries are large"]]
    assert_same(lowest(scores, 150_000), by_sorting(scores, 150_000))
    assert calls


@pytest.mark.parametrize("name", ["nine tenths exact zeros", "all equal", "only the sampled entries are large"])
def test_common_patterns_need_no_radix(name, monkeypatch):
    def refuse(*args):
        raise AssertionError("the radix ran")

    monkeypatch.setattr(selection, "_radix", refuse)
    scores = [patterns()[name]]
    for k in (1, 150_000, 269_000, 285_000):
        assert_same(lowest(scores, k), by_sorting(scores, k))


def test_float64_is_not_rounded_to_float32():
    close = torch.tensor([1.0 + 2e-12, 1.0 + 1e-12], dtype=torch.float64)
    assert_same(lowest([close, torch.tensor([2.0])], 1), [torch.tensor([False, True]), torch.tensor([False])])


def test_negative_zero_ties_with_zero():
    scores = [torch.tensor([0.0, -0.0, 0.0])]
    assert_same(lowest(scores, 2), [torch.tensor([True, True, False])])


def test_channels_last_ties_follow_the_logical_index():
    scores = torch.zeros(3, 4, 5, 6).to(memory_format=torch.channels_last)
    mask = lowest([scores], 100)[0]
    assert mask.is_contiguous()
    assert torch.equal(mask.reshape(-1), torch.arange(360) < 100)


@pytest.mark.parametrize("function", [lowest, highest])
def test_inputs_stay_and_outputs_are_new(function):
    scores = torch.randn(50, requires_grad=True)
    eligible = torch.ones(50, dtype=torch.bool)
    before = scores.detach().clone()
    for k in (0, 20, 50):
        mask = function([scores], k, eligible=[eligible])[0]
        mask.logical_not_()
        assert not mask.requires_grad
    assert torch.equal(scores, before)
    assert eligible.all()


def test_an_empty_list_selects_nothing():
    assert lowest([], 0) == []
    assert lowest([], 0, eligible=[]) == []


def test_wrong_input_says_what_was_expected():
    scores = [torch.ones(3)]
    with pytest.raises(ValueError, match=r"\[0, 3\].*got 4"):
        lowest(scores, 4)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        lowest(scores, 2, eligible=[torch.tensor([True, False, False])])
    with pytest.raises(ValueError, match="same shape"):
        lowest(scores, 1, eligible=[torch.ones(2, dtype=torch.bool)])
    with pytest.raises(TypeError, match="bool"):
        lowest(scores, 1, eligible=[torch.ones(3)])
    with pytest.raises(TypeError, match=r"floating-point.*int64"):
        lowest([torch.arange(3)], 1)
    with pytest.raises(ValueError, match=r"one device.*cpu, meta"):
        lowest([torch.ones(3), torch.ones(3, device="meta")], 1)


@pytest.mark.parametrize(
    ("size", "sparsity", "live"),
    [
        (10, 0.9, 1),
        (5, 0.9, 1),
        (4, 0.9, 0),
        (5, 0.7, 2),
        (3, 0.0, 3),
        (3, 1.0, 0),
        (0, 0.5, 0),
        (10**12, 0.95, 5 * 10**10),
    ],
)
def test_kept_rounds_half_up_in_decimals(size, sparsity, live):
    assert kept(size, sparsity) == live


def test_kept_refuses_what_is_no_share():
    for sparsity in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="sparsity"):
            kept(10, sparsity)
    with pytest.raises(ValueError, match="size"):
        kept(-1, 0.5)
