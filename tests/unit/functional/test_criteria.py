"""Saliency, growth and apportionment by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from surgecollapse.functional import GROWTH, SALIENCY, growth, lamp, magnitude, taylor
from surgecollapse.functional.apportion import apportion
from surgecollapse.functional.growth import share_by_means, sum_of_open

WEIGHT = torch.tensor([[-2.0, 0.5], [0.0, 3.0]])
SIGNAL = torch.tensor([[1.0, -8.0], [5.0, 0.0]])


def test_saliencies_by_hand():
    assert magnitude(WEIGHT).tolist() == [[2.0, 0.5], [0.0, 3.0]]
    assert taylor(WEIGHT, SIGNAL).tolist() == [[2.0, 4.0], [0.0, 0.0]]


def test_lamp_is_the_share_of_the_energy_that_is_left_by_hand():
    weight = torch.tensor([[3.0, -1.0], [2.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 1 / 14], [4 / 13, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(lamp(weight), expected, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (5, 6), (3, 2, 4)])
def test_lamp_agrees_with_the_double_sum_keeps_the_order_of_magnitude_and_forgets_scale(dtype, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)
    energy = weight.double().square().flatten()
    direct = torch.stack([e / energy[energy >= e].sum() for e in energy])
    if dtype == torch.bfloat16:  # among equals the one of higher index has the higher score
        direct = torch.stack([e / energy[(energy > e) | ((energy == e) & (torch.arange(len(energy)) >= i))].sum()
                              for i, e in enumerate(energy)])  # fmt: skip
    torch.testing.assert_close(lamp(weight).double().flatten(), direct, rtol=1e-6, atol=0.0)
    assert torch.equal(lamp(weight).flatten().argsort(stable=True), weight.abs().flatten().argsort(stable=True))
    assert torch.equal(lamp(4 * weight), lamp(weight))


def test_lamp_leaves_every_tensor_its_largest_weight_whatever_the_scales():
    small, large = 1e-3 * torch.tensor([1.0, 5.0]), 1e3 * torch.tensor([1.0, 2.0, 4.0])
    assert lamp(small).tolist()[1] == lamp(large).tolist()[2] == 1.0
    assert max(lamp(small)[0], lamp(large)[:2].max()) < 0.25


def test_the_gradient_alone_ranks_closed_weights():
    assert growth.gradient(WEIGHT, SIGNAL).tolist() == [[1.0, 8.0], [5.0, 0.0]]


@pytest.mark.parametrize("criterion", [*SALIENCY.values(), growth.gradient])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_criteria_give_new_scores_without_gradient(criterion, dtype):
    weight = WEIGHT.to(dtype).requires_grad_()
    signal = SIGNAL.to(dtype)
    scores = criterion(weight, signal)
    assert scores.shape == weight.shape
    assert not scores.requires_grad
    assert (scores >= 0).all()
    scores.zero_()
    assert torch.equal(weight.detach(), WEIGHT.to(dtype))
    assert torch.equal(signal, SIGNAL.to(dtype))


def test_the_taylor_product_of_small_half_precision_numbers_does_not_underflow():
    small = torch.full((2,), 1e-5, dtype=torch.float16)
    assert (taylor(small, small) > 0).all()


@pytest.mark.parametrize("criterion", [taylor, growth.gradient])
def test_a_missing_or_foreign_signal_is_refused(criterion):
    with pytest.raises(ValueError, match="got none"):
        criterion(WEIGHT, None)
    with pytest.raises(ValueError, match=r"\(2, 2\), got \(3,\)"):
        criterion(WEIGHT, torch.ones(3))


def test_random_growth_follows_its_generator_only():
    torch.manual_seed(0)
    first = growth.random((4, 5), torch.Generator().manual_seed(7))
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(growth.random((4, 5), generator), first)
    assert not torch.equal(growth.random((4, 5), generator), first)
    assert GROWTH[0] == "random"


def layers(momentum, live, size=100):
    """Layers whose first ``live`` weights are live, all with the same momentum."""
    masks = {name: torch.arange(size) < count for name, count in live.items()}
    return {name: torch.full((size,), value) for name, value in momentum.items()}, masks


def shared(momentum, live, count):
    """The count for each layer, from the sums and counts that growth by momentum takes of it."""
    sums = {name: float(sum_of_open(value, live[name])) for name, value in momentum.items()}
    opened = {name: int(mask.sum()) for name, mask in live.items()}
    closed = {name: int((~mask).sum()) for name, mask in live.items()}
    return share_by_means(sums, opened, closed, count)


def test_regrowth_follows_the_mean_momentum_of_live_weights():
    momentum, live = layers({"a": 3.0, "b": -1.0, "c": 0.0}, {"a": 10, "b": 40, "c": 50})
    momentum["c"][50:] = 9.0  # closed weights do not count
    assert shared(momentum, live, 40) == {"a": 30, "b": 10, "c": 0}


def test_regrowth_beyond_the_room_goes_to_the_others():
    momentum, live = layers({"a": 98.0, "b": 1.0, "c": 1.0}, {"a": 95, "b": 10, "c": 10})
    assert shared(momentum, live, 25) == {"a": 5, "b": 10, "c": 10}


def test_regrowth_without_momentum_follows_the_room():
    momentum, live = layers({"a": 0.0, "b": 0.0}, {"a": 70, "b": 10})
    assert shared(momentum, live, 40) == {"a": 10, "b": 30}
    assert shared(momentum, live, 120) == {"a": 30, "b": 90}


def test_regrowth_reaches_layers_with_no_live_weight_last():
    momentum, live = layers({"a": 1.0, "b": 1.0}, {"a": 90, "b": 0})
    assert shared(momentum, live, 10) == {"a": 10, "b": 0}
    assert shared(momentum, live, 15) == {"a": 10, "b": 5}
    assert shared({}, {}, 0) == {}


def test_regrowth_refuses_what_cannot_be_shared():
    momentum, live = layers({"a": 1.0}, {"a": 90})
    with pytest.raises(ValueError, match=r"\[0, 10\].*got 11"):
        shared(momentum, live, 11)
    momentum["a"][3] = torch.nan
    with pytest.raises(ValueError, match="'a' is not finite"):
        shared(momentum, live, 1)


@pytest.mark.parametrize("seed", range(30))
def test_apportionment_sums_exactly_within_bounds_and_in_proportion(seed):
    generator = torch.Generator().manual_seed(seed)
    names = [str(i) for i in range(8)]
    numbers = torch.randint(0, 50, (3, 8), generator=generator).tolist()
    weights = dict(zip(names, numbers[0], strict=True))
    lower = dict(zip(names, numbers[1], strict=True))
    upper = {name: lower[name] + extra for name, extra in zip(names, numbers[2], strict=True)}
    least, most = sum(lower.values()), sum(upper.values())
    for total in {least, most, (least + most) // 2}:
        parts = apportion(weights, lower, upper, total)
        assert sum(parts.values()) == total
        assert all(lower[name] <= parts[name] <= upper[name] for name in names)
        free = [name for name in names if lower[name] < parts[name] < upper[name] and weights[name]]
        if free and any(upper[n] > parts[n] for n in names if weights[n]):
            scales = [Fraction(parts[name], weights[name]) for name in free]
            slack = max(Fraction(1, weights[name]) for name in free)
            assert max(scales) - min(scales) <= 2 * slack


def test_apportionment_refuses_an_impossible_total():
    with pytest.raises(ValueError, match=r"\[1, 3\], got 4"):
        apportion({"a": 1}, {"a": 1}, {"a": 3}, 4)
