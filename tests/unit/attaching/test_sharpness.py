"""Single-step sharpness-aware training: its closed form, what sees which weights, masks, checkpoints."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse import Target, attach, single_step_sam


def net(seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    return made


def batch(i: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + i)
    return torch.randn(32, 6, generator=generator), torch.randint(3, (32,), generator=generator)


def steps(model, optimizer, count: int, first: int = 0, between=lambda: None, to_none: bool = True) -> None:
    for i in range(first, first + count):
        x, y = batch(i)
        optimizer.zero_grad(set_to_none=to_none)
        loss = nn.functional.cross_entropy(model(x), y)
        between()
        loss.backward()
        optimizer.step()


def by_hand(model, optimizer, count: int, rho: float) -> None:
    """The equation, with weights that are written twice."""
    last = None
    for i in range(count):
        x, y = batch(i)
        kept = [p.detach().clone() for p in model.parameters()]
        if last is not None:
            norm = torch.sqrt(sum((g.double() ** 2).sum() for g in last)).float()
            with torch.no_grad():
                for p, g in zip(model.parameters(), last, strict=True):
                    p.add_(torch.where(p == 0, 0, rho * g / norm))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        last = [p.grad.clone() for p in model.parameters()]
        with torch.no_grad():
            for p, old in zip(model.parameters(), kept, strict=True):
                p.copy_(old)
        optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_it_is_the_equation(kind, to_none):
    one, other = net(), net()
    optimizer = kind(one.parameters(), lr=0.05)
    single_step_sam(one, optimizer, rho=0.3)
    steps(one, optimizer, 25, to_none=to_none)
    by_hand(other, kind(other.parameters(), lr=0.05), 25, 0.3)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    plain = net()
    steps(plain, kind(plain.parameters(), lr=0.05), 25)
    far = max((a - b).abs().max().item() for a, b in zip(one.parameters(), plain.parameters(), strict=True))
    assert far > 1e-3


def test_the_first_step_is_the_plain_one():
    one, other = net(), net()
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    single_step_sam(one, optimizer, rho=10.0)
    steps(one, optimizer, 1)
    steps(other, torch.optim.SGD(other.parameters(), lr=0.1), 1)
    assert same(one, other)


def test_evaluation_between_and_within_steps_sees_the_weights_and_changes_nothing():
    one, other = net(), net()
    first, second = (torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (one, other))
    handle = single_step_sam(one, first, rho=0.5)
    single_step_sam(other, second, rho=0.5)
    seen = []

    def look():
        assert handle.perturbed == (len(seen) > 0)
        with torch.no_grad():
            in_training = one(torch.ones(2, 6))
        one.eval()
        seen.append((in_training, one(torch.ones(2, 6)).detach(), one[0].weight.detach().clone()))
        one.train()

    steps(one, first, 20, between=look)
    steps(other, second, 20)
    assert same(one, other)
    assert not handle.perturbed
    clean = net()
    optimizer = torch.optim.AdamW(clean.parameters(), lr=1e-2)
    single_step_sam(clean, optimizer, rho=0.5)
    for i, (in_training, evaluated, _) in enumerate(seen):
        with torch.no_grad():
            want = copy.deepcopy(clean).eval()(torch.ones(2, 6))
        assert torch.equal(in_training, want), i
        assert torch.equal(evaluated, want), i
        steps(clean, optimizer, 1, first=i)


def test_accumulated_passes_share_one_perturbation():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = single_step_sam(model, optimizer, rho=0.5)
    steps(model, optimizer, 3)
    x, y = batch(50)
    optimizer.zero_grad()
    for rows in (slice(0, 16), slice(16, 32)):
        (nn.functional.cross_entropy(model(x[rows]), y[rows]) / 2).backward()
        where = model[0].weight.detach().clone()
    assert torch.equal(where, model[0].weight)
    assert handle.perturbed
    optimizer.step()
    whole = net()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    single_step_sam(whole, optimizer, rho=0.5)
    steps(whole, optimizer, 3)
    steps(whole, optimizer, 1, first=50)
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("policy", ["cyclic_pruning", "gmp", "rigl", "soft_threshold"])
def test_pruned_weights_stay_zero_in_every_pass_and_the_target_is_exact(policy):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    single_step_sam(model, optimizer, rho=0.2)
    controller = attach(
        model, optimizer, Target(0.75), 120, policy=policy, readings=surgecollapse.Readings(every=10), seed=0
    )
    zeros = []

    def look():
        counted = sum(int((model.get_parameter(name) == 0).sum()) for name in controller.masks)
        zeros.append(counted / sum(mask.numel() for mask in controller.masks.values()) >= controller.sparsity - 1e-9)

    steps(model, optimizer, 120, between=look)
    controller.finalize()
    counted = sum(int((model.get_parameter(name) == 0).sum()) for name in controller.masks)
    assert counted == round(0.75 * sum(mask.numel() for mask in controller.masks.values()))
    assert all(zeros)


def test_a_run_resumes_bitwise_from_model_and_optimizer_alone():
    whole = net()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-2)
    single_step_sam(whole, optimizer, rho=0.3)
    steps(whole, optimizer, 10)
    file = io.BytesIO()
    torch.save([whole.state_dict(), optimizer.state_dict()], file)
    steps(whole, optimizer, 10, first=10)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    again = net(seed=7)
    optimizer = torch.optim.AdamW(again.parameters(), lr=1e-2)
    single_step_sam(again, optimizer, rho=0.3)
    again.load_state_dict(weights)
    optimizer.load_state_dict(state)
    steps(again, optimizer, 10, first=10)
    assert same(whole, again)


def test_the_state_is_a_snapshot_and_that_of_another_model_is_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = single_step_sam(model, optimizer, rho=0.3)
    steps(model, optimizer, 2)
    state = handle.state_dict()
    before = copy.deepcopy(state)
    steps(model, optimizer, 2)
    assert all(torch.equal(state["change"][i], before["change"][i]) for i in before["change"])
    other = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="the saved perturbation is of another model"):
        single_step_sam(other, torch.optim.SGD(other.parameters(), lr=0.1)).load_state_dict(state)


def test_saving_the_optimizer_between_pass_and_step_gives_the_weights_back():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    single_step_sam(model, optimizer, rho=1.0)
    steps(model, optimizer, 2)
    weights = model[0].weight.detach().clone()
    model(torch.ones(2, 6))
    assert not torch.equal(model[0].weight, weights)
    optimizer.state_dict()
    assert torch.equal(model[0].weight, weights)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0])
def test_a_gradient_without_a_direction_perturbs_nothing(value):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = single_step_sam(model, optimizer, rho=1.0)
    for p in model.parameters():
        p.grad = torch.full_like(p, value)
    kept = copy.deepcopy(model.state_dict())
    optimizer.step()
    model.load_state_dict(kept)
    model(torch.ones(2, 6))
    assert all(torch.equal(x, kept[name]) for name, x in model.state_dict().items())
    assert handle.perturbed


def test_an_exception_in_an_evaluation_leaves_the_next_step_right():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.fail = net(), False

        def forward(self, x):
            if self.fail:
                raise RuntimeError("no")
            return self.inner(x)

    one, other = Fails(), Fails()
    first, second = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, other))
    single_step_sam(one, first, rho=0.5)
    single_step_sam(other, second, rho=0.5)

    def fail():
        one.fail = True
        with torch.no_grad(), pytest.raises(RuntimeError, match="no"):
            one(torch.ones(2, 6))
        one.fail = False

    steps(one, first, 6, between=fail)
    steps(other, second, 6)
    assert same(one, other)


def test_copies_are_plain_networks():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    single_step_sam(model, optimizer, rho=0.5)
    steps(model, optimizer, 2)
    twin = copy.deepcopy(model)
    assert not twin._forward_pre_hooks
    file = io.BytesIO()
    torch.save(model, file)


def test_removing_it_gives_plain_training():
    one, other = net(), net()
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    with single_step_sam(one, optimizer, rho=0.5):
        one(torch.ones(2, 6))
    steps(one, optimizer, 5)
    steps(other, torch.optim.SGD(other.parameters(), lr=0.1), 5)
    assert same(one, other)


def test_what_it_cannot_do_is_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for rho in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="rho must be positive and finite"):
            single_step_sam(model, optimizer, rho=rho)
    with pytest.raises(TypeError, match="optimizer"):
        single_step_sam(model, model)
    attach(model, optimizer, Target(0.5), 100, policy="gmp", readings=surgecollapse.Readings(every=5))
    with pytest.raises(ValueError, match="call single_step_sam before attach"):
        single_step_sam(model, optimizer)


def test_a_model_that_the_loop_does_not_call_is_warned_of():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    single_step_sam(nn.Sequential(model), optimizer)
    with pytest.warns(UserWarning, match="has seen no forward pass of the model"):
        steps(model, optimizer, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(model, optimizer, 2)


def test_a_compiled_model_trains_the_same_net_with_evaluations_between_steps():
    one, other = net(), net()
    first, second = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, other))
    compiled = torch.compile(one, backend="eager")
    single_step_sam(compiled, first, rho=0.5)
    single_step_sam(other, second, rho=0.5)
    for i in range(6):
        steps(compiled, first, 1, first=i)
        with torch.no_grad():
            assert torch.equal(compiled(torch.ones(2, 6)), copy.deepcopy(one)(torch.ones(2, 6)))
    steps(other, second, 6)
    assert same(one, other)
