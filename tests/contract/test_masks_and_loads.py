"""Masks and weights never disagree unnoticed: after loads, foreign optimizers, replaced layers, moves, late ends."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import surgecollapse as sc

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))
OPTIMIZERS = {
    "SGD, momentum, decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam, L2": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p, weight_decay=0.01),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def step(model, optimizer, times=1):
    for _ in range(times):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()


def disobedient(model, controller):
    params = dict(model.named_parameters())
    return sum(int((params[name][~mask] != 0).sum()) for name, mask in controller.masks.items())


def load(model, optimizer, controller, dense):
    model.load_state_dict(dense)


def off_for_a_step(model, optimizer, controller, dense):
    controller.detach()
    step(model, optimizer)
    controller.reattach()


def through_data(model, optimizer, controller, dense):
    for name, p in model.named_parameters():
        p.data = dense[name].clone()


def another_optimizer(model, optimizer, controller, dense):
    with pytest.warns(UserWarning, match="SGD steps parameters that this controller prunes"):
        step(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


@pytest.mark.parametrize("write", [load, off_for_a_step, through_data, another_optimizer])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_closed_weights_are_zero_after_every_step_that_follows_a_write(make, write):
    model = net()
    dense, optimizer = copy.deepcopy(model.state_dict()), make(model.parameters())
    controller = sc.attach(model, optimizer, 0.9, 200, policy="static")
    step(model, optimizer, 5)
    write(model, optimizer, controller, dense)
    for _ in range(4):
        step(model, optimizer)
        if write is not through_data or controller.step % 50 == 0:  # torch does not count writes to .data
            assert disobedient(model, controller) == 0
    controller.finalize()
    assert disobedient(model, controller) == 0
    assert controller.sparsity == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("policy", ["gmp", "cyclic_pruning", "entropy_cycles", "set", "soft_threshold"])
def test_finalize_applies_the_mask_to_weights_that_were_loaded(policy, frozen):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = sc.attach(model, optimizer, 0.8, 100, policy=policy, readings=sc.Readings(every=5))
    step(model, optimizer, 3)
    dense = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    step(model, optimizer, 97 if frozen else 40)
    model.load_state_dict(dense)
    assert controller.sparsity < 0.01, "sparsity counts the weights"
    controller.finalize()
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)
    model.load_state_dict(dense)
    controller.finalize()
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)
    assert disobedient(model, controller) == 0


def test_a_new_optimizer_after_the_end_keeps_the_zeros_and_is_named_once():
    model = net()
    first = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = sc.attach(model, first, 0.9, 20, policy="one_shot", readings=sc.Readings(every=5))
    step(model, first, 20)
    controller.finalize()
    second = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.warns(UserWarning, match="SGD steps parameters") as caught:
        step(model, second, 20)
    assert len(caught) == 1
    assert controller.sparsity == pytest.approx(0.9, abs=1e-3)


def test_an_optimizer_of_other_parameters_is_no_concern(recwarn):
    model, other = net(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sc.attach(model, optimizer, 0.9, 20, policy="static")
    step(model, optimizer)
    step(other, torch.optim.SGD(other.parameters(), lr=0.1))
    assert not recwarn.list


@pytest.mark.parametrize("how", ["layer", "assign"])
def test_what_is_replaced_takes_over_the_mask_and_is_named(how):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.9, 40, policy="static", readings=sc.Readings(every=5))
    step(model, optimizer, 5)
    if how == "layer":
        model[2] = nn.Linear(32, 32)
    else:
        model.load_state_dict(copy.deepcopy(net().state_dict()), assign=True)
    with pytest.warns(UserWarning, match=r"weights were replaced.*2\.weight"):
        step(model, optimizer, 5)
    assert disobedient(model, controller) == 0
    controller.finalize()
    assert controller.sparsity == pytest.approx(0.9, abs=1e-3)


def test_a_layer_of_another_shape_has_no_mask_and_is_named():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.9, 40, policy="static", readings=sc.Readings(every=5))
    step(model, optimizer, 5)
    model[2], model[4] = nn.Linear(32, 8), nn.Linear(8, 3)
    with pytest.warns(UserWarning, match=r"weights were replaced.*2\.weight"):
        step(model, optimizer, 5)
    assert controller.masks["2.weight"].all()


def test_an_early_end_in_a_phase_that_is_deeper_than_the_target_opens_weights_with_a_value():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    policy = sc.CyclicPruning(floor=0.0)
    controller = sc.attach(model, optimizer, 0.8, 200, policy=policy, readings=sc.Readings(every=5))
    while not (events := [e for e in controller.events if e.sparsity_after > 0.85]):
        step(model, optimizer)
    assert events
    assert controller.step < 200
    controller.finalize()
    live = sum(int(mask.sum()) for mask in controller.masks.values())
    params = dict(model.named_parameters())
    valued = sum(int((params[name][mask] != 0).sum()) for name, mask in controller.masks.items())
    assert live == valued == round(0.2 * sum(mask.numel() for mask in controller.masks.values()))


@pytest.mark.parametrize("policy", ["set", "rigl", "static"])
def test_a_person_who_changed_a_final_mask_still_gets_the_target(policy):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.5, 100, policy=policy, readings=sc.Readings(every=5))
    step(model, optimizer, 10)
    controller.carry_out(sc.Decision(phase="sparse", reason="by hand", actions=(sc.events.Prune(0.75),)))
    step(model, optimizer, 90)
    controller.finalize()
    assert controller.sparsity == pytest.approx(0.5, abs=1e-3)


def test_an_early_end_without_a_gradient_prunes_by_magnitude_and_says_so():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"policy": "gmp", "updates": sc.Updates(saliency="taylor"), "readings": sc.Readings(every=50)}
    controller = sc.attach(model, optimizer, 0.8, 400, **options)
    step(model, optimizer, 7)
    optimizer.zero_grad()
    controller.finalize()
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)
    assert "by magnitude, since no gradient is at hand" in controller.events[0].reason


# ---- zeros that are there already -----------------------------------------------------------------------------------


def sparse_net(share):
    model = net()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[layer.weight.abs() < layer.weight.abs().quantile(share)] = 0
    return model


@pytest.mark.parametrize("probe", [None, X])
@pytest.mark.parametrize("policy", ["cyclic_pruning", "gmp", "rigl", "entropy_cycles", "one_shot", "soft_threshold"])
def test_zeros_that_make_up_the_target_stay_as_they_are(policy, probe):
    model = sparse_net(0.8)
    before = [(p == 0).clone() for p in (model[0].weight, model[2].weight)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    readings = sc.Readings(every=5, probe=probe)
    controller = sc.attach(model, optimizer, 0.8, 100, policy=policy, readings=readings, masks="zeros")
    step(model, optimizer, 100)
    controller.finalize()
    after = [p == 0 for p in (model[0].weight, model[2].weight)]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("policy", ["cyclic_pruning", "gmp", "rigl", "one_shot", "soft_threshold"])
def test_a_sparse_net_is_pruned_further_and_keeps_its_zeros(policy):
    model = sparse_net(0.7)
    before = [(p == 0).clone() for p in (model[0].weight, model[2].weight)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = sc.attach(model, optimizer, 0.9, 100, policy=policy, readings=sc.Readings(every=5), masks="zeros")
    for _ in range(100):
        step(model, optimizer)
        assert not any(
            bool(p.detach()[zero].any()) for p, zero in zip((model[0].weight, model[2].weight), before, strict=True)
        )
    controller.finalize()
    assert controller.sparsity == pytest.approx(0.9, abs=1e-3)


def test_a_two_four_mask_of_another_program_is_kept():
    model = net()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.view(layer.weight.shape[0], -1, 4)[..., 2:] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, sc.Target(0.5, pattern="2:4"), 20, policy="gmp", masks="zeros",
                           readings=sc.Readings(every=4))  # fmt: skip
    step(model, optimizer, 20)
    controller.finalize()
    assert not model[0].weight.view(32, -1, 4)[..., 2:].any()
    assert model[0].weight.view(32, -1, 4)[..., :2].all()


def test_weights_that_are_sparser_than_the_target_are_refused():
    model = sparse_net(0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"masks='zeros': the prunable weights are .* zero already.*got 0\.5"):
        sc.attach(model, optimizer, 0.5, 100, readings=sc.Readings(every=5, probe=X), masks="zeros")


# ---- moves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_that_is_cast_after_attach_goes_on(dtype):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    controller = sc.attach(model, optimizer, 0.8, 100, policy="rigl", readings=sc.Readings(every=5, probe=X))
    x = X
    for start in (0, 50):
        for _ in range(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), Y).backward()
            optimizer.step()
            assert disobedient(model, controller) == 0
        if start == 0:
            model.to(dtype)
            for state in optimizer.state.values():
                state["momentum_buffer"] = state["momentum_buffer"].to(dtype)
            x = X.to(dtype)
    controller.finalize()
    assert model[0].weight.dtype is dtype
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)
