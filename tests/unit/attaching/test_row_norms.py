"""Bounded rows: the closed form, what stays bit for bit, masks, gradient scaling, the average that comes after."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgecollapse
from rounding import any_order, unit
from surgecollapse.attaching.row_norms import bound_rows


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def step(model, optimizer, seed=1, set_to_none=True):
    optimizer.zero_grad(set_to_none=set_to_none)
    nn.functional.cross_entropy(model(normal(16, 4, seed=seed)), torch.arange(16) % 2).backward()
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(7, 5), (6, 3, 2, 2), (9,)], ids=str)
def test_each_row_is_scaled_to_the_norm_or_left_bit_for_bit(shape, dtype):
    weight = normal(*shape, dtype=dtype)
    wide = weight.double().reshape(1 if len(shape) == 1 else shape[0], -1)
    norms = wide.norm(dim=1)
    bound = norms.median().item() if len(norms) > 1 else norms.item() / 2
    wanted = wide * (bound / norms).clamp(max=1)[:, None]
    found = weight.clone()
    bound_rows(found, bound)
    rows = found.double().reshape_as(wide)
    # A norm of n terms, its quotient, the cast of the factor and the product.
    errors = any_order(wide.shape[1], torch.promote_types(dtype, torch.float32)) + 4 * unit(dtype)
    assert ((rows - wanted).abs() <= errors * wanted.abs()).all()
    kept = norms <= bound * (1 - errors)
    assert torch.equal(rows[kept], wide[kept])


def test_rows_of_zeros_and_of_infinities_stay_as_they_are():
    weight = torch.tensor([[0.0, 0.0], [float("inf"), 1.0], [3.0, 4.0]])
    bound_rows(weight, 1.0)
    assert torch.equal(weight[:2], torch.tensor([[0.0, 0.0], [float("inf"), 1.0]]))


def test_rows_of_complex_weights_are_bounded_by_their_absolute_values():
    weight = torch.tensor([[3.0 + 4.0j, 0.0], [0.3j, 0.4]])
    bound_rows(weight, 1.0)
    torch.testing.assert_close(weight, torch.tensor([[0.6 + 0.8j, 0.0], [0.3j, 0.4]]))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_it_is_a_plain_step_and_then_the_bound(kind, set_to_none):
    clipped, by_hand = net(), net()
    first, second = kind(clipped.parameters(), lr=0.5), kind(by_hand.parameters(), lr=0.5)
    surgecollapse.clip_rows(first, 0.3)
    for seed in range(5):
        step(clipped, first, seed, set_to_none)
        step(by_hand, second, seed, set_to_none)
        for p in by_hand.parameters():
            bound_rows(p, 0.3)
    for a, b in zip(clipped.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(a, b)
    assert max(p.norm(dim=-1).max().item() for p in clipped.parameters()) == pytest.approx(0.3, rel=1e-5)


def test_a_bound_that_nothing_reaches_changes_nothing():
    clipped, plain = net(), net()
    first, second = (torch.optim.AdamW(model.parameters(), lr=0.1) for model in (clipped, plain))
    surgecollapse.clip_rows(first, 1e6)
    for seed in range(5):
        step(clipped, first, seed)
        step(plain, second, seed)
    for a, b in zip(clipped.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_the_named_parameters_are_bounded_and_removed_hooks_bound_nothing():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surgecollapse.clip_rows(optimizer, 0.01, parameters=[model[0].weight]):
        step(model, optimizer)
    assert model[0].weight.norm(dim=1).max() <= 0.01 * (1 + 1e-5)
    assert model[2].weight.norm(dim=1).min() > 0.01
    step(model, optimizer)
    assert model[0].weight.norm(dim=1).max() > 0.01 * (1 + 1e-3)


def test_training_goes_on_bitwise_from_a_checkpoint_of_model_and_optimizer():
    whole, first = net(), net()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.1)
    surgecollapse.clip_rows(optimizer, 0.5)
    for seed in range(6):
        step(whole, optimizer, seed)
    before = torch.optim.AdamW(first.parameters(), lr=0.1)
    surgecollapse.clip_rows(before, 0.5)
    for seed in range(3):
        step(first, before, seed)
    second = net()
    second.load_state_dict(first.state_dict())
    after = torch.optim.AdamW(second.parameters(), lr=0.1)
    surgecollapse.clip_rows(after, 0.5)
    after.load_state_dict(before.state_dict())
    for seed in range(3, 6):
        step(second, after, seed)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_average_that_was_attached_later_is_one_of_bounded_weights():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    surgecollapse.clip_rows(optimizer, 0.3)
    averaged = surgecollapse.average_weights(model, optimizer, decay=0.5)
    step(model, optimizer)
    assert torch.equal(averaged.average["0.weight"], model[0].weight)
    assert model[0].weight.norm(dim=1).max() <= 0.3 * (1 + 1e-5)


def test_pruned_weights_stay_zero_and_rows_bounded_beside_a_controller():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=12, policy="one_shot")
    surgecollapse.clip_rows(optimizer, 0.2)
    for seed in range(12):
        step(model, optimizer, seed)
    for name, mask in controller.masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask.bool()].any()
        assert weight.norm(dim=1).max() <= 0.2 * (1 + 1e-5)
    controller.detach()


@pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_norm_that_is_not_positive_and_finite_is_refused(norm):
    with pytest.raises(ValueError, match="max_norm must be positive and finite"):
        surgecollapse.clip_rows(torch.optim.SGD(net().parameters(), lr=0.1), norm)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="optimizer"):
        surgecollapse.clip_rows(net(), 1.0)
