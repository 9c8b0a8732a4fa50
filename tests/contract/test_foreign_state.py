"""Foreign states are refused, and states travel inside the optimizer's own state dict."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn

import surgecollapse as sc

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))


def net(width=32, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def step(model, optimizer, times=1):
    for _ in range(times):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()


def run(steps=0, *, model=None, sparsity=0.9, policy="cyclic_pruning", total=100, **options):
    model = net() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    options = {"readings": sc.Readings(every=5), **options}
    controller = sc.attach(model, optimizer, sparsity, total, policy=policy, **options)
    step(model, optimizer, steps)
    return model, optimizer, controller


def written(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_a_state_is_refused_on_a_fresh_net_of_the_same_shapes_and_changes_nothing():
    *_, trained = run(60)
    model, _, controller = run(model=net(seed=1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"closes \d+ weights that have a value here.*load the model's"):
        controller.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert controller.step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": net(48)}, "another model"),
        ({"sparsity": 0.5}, "saved under"),
        ({"policy": "gmp"}, "policy"),
        ({"total": 200}, "saved under"),
    ],
)
def test_a_state_of_another_architecture_target_policy_or_length_is_refused(options, message):
    *_, trained = run(60)
    *_, controller = run(**options)
    with pytest.raises(ValueError, match=message):
        controller.load_state_dict(trained.state_dict())


def test_a_state_of_another_version_is_refused():
    *_, controller = run(10)
    state = controller.state_dict()
    with pytest.raises(ValueError, match="version 99"):
        controller.load_state_dict({**state, "version": 99})


@pytest.mark.parametrize("order", ["model first", "optimizer first"])
@pytest.mark.parametrize(
    "policy", ["cyclic_pruning", "gmp", "rigl", "entropy_cycles", "fixed_interval", "soft_threshold"]
)
def test_the_optimizers_state_alone_resumes_bitwise(policy, order):
    options = {"policy": policy, "transforms": [sc.Grokfast()]}
    model, optimizer, controller = run(43, **options)
    kept = written({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    step(model, optimizer, 57)
    controller.finalize()
    options["transforms"] = [sc.Grokfast()]
    again, other, its = run(model=net(seed=1), **options)
    loads = [lambda: again.load_state_dict(kept["model"]), lambda: other.load_state_dict(kept["optimizer"])]
    for act in loads if order == "model first" else reversed(loads):
        act()
    step(again, other, 57)
    its.finalize()
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert its.step == controller.step == 100
    assert its.events == controller.events


def test_transforms_travel_with_the_optimizer_too():
    def start(seed):
        model = net(seed=seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        handles = [
            sc.transform_gradients(optimizer, [sc.Grokfast()]),
            sc.transform_gradients(optimizer, [sc.OrthoGrad()]),
        ]
        return model, optimizer, handles

    model, optimizer, _ = start(0)
    step(model, optimizer, 20)
    kept = written({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert len(kept["optimizer"]["surgecollapse.transforms"]) == 2
    step(model, optimizer, 20)
    again, other, _ = start(1)
    again.load_state_dict(kept["model"])
    other.load_state_dict(kept["optimizer"])
    step(again, other, 20)
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_an_optimizer_without_us_loads_a_state_with_ours():
    _, optimizer, _ = run(30)
    plain = torch.optim.AdamW(net().parameters(), lr=1e-2)
    plain.load_state_dict(written(optimizer.state_dict()))
    assert set(plain.state_dict()) == {"state", "param_groups"}
    assert len(plain.state_dict()["state"]) == 6


def test_a_state_without_ours_is_loaded_with_a_word_at_the_next_step():
    other = net()
    plain = torch.optim.AdamW(other.parameters(), lr=1e-2)
    step(other, plain, 3)
    model, optimizer, controller = run(10)
    optimizer.load_state_dict(plain.state_dict())
    with pytest.warns(UserWarning, match=r"holds no state of a controller \('surgecollapse.controller'\)"):
        step(model, optimizer)
    optimizer.load_state_dict(plain.state_dict())
    controller.load_state_dict(controller.state_dict())  # given explicitly: nothing is missing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, optimizer)


def test_a_foreign_state_in_an_optimizers_state_says_how_to_load_the_rest():
    _, optimizer, _ = run(30, policy="gmp")
    model, other, _ = run()
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"remove the key 'surgecollapse.controller' from it"):
        other.load_state_dict(state)
    state.pop("surgecollapse.controller")
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match="holds no state"):
        step(model, other)


def test_masks_of_other_weights_in_an_optimizers_state_are_refused_at_the_next_step():
    _, optimizer, _ = run(60)
    model, other, _ = run(model=net(seed=1))
    other.load_state_dict(optimizer.state_dict())  # the model might be loaded next
    with pytest.raises(ValueError, match="weights that have a value here"):
        step(model, other)


def test_a_detached_controller_leaves_the_optimizers_state_alone():
    _, optimizer, controller = run(30)
    controller.detach()
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
