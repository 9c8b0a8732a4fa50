"""Copies, saved models and scripts are plain nets at any time, and another net can take the masks."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import surgecollapse as sc

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def hooks(model):
    names = ("_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names)


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "torch.save": saved, "pickle": lambda m: pickle.loads(pickle.dumps(m))}
STATES = ["attached", "armed", "noisy", "frozen", "detached"]


def at(state):
    """A model in one state of its training, with a hook of somebody else."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    readings = sc.Readings(every=1 if state in ("armed", "noisy") else 5)
    controller = sc.attach(model, optimizer, 0.8, 40, policy="gmp", readings=readings)
    for _ in range({"attached": 0, "armed": 5, "noisy": 5}.get(state, 40)):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    if state == "noisy":
        controller.request(sc.commands.Pump(noise_std=0.1))
        controller.command_loop.boundary(controller.step)
    if state == "detached":
        controller.detach()
    return model, controller


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_has_no_hook_of_ours_and_computes_the_same(how, state):
    model, _ = at(state)
    assert state in ("frozen", "detached") or hooks(model) > 0
    copied = COPIES[how](model)
    assert hooks(copied) == 0
    assert torch.equal(copied(X), model.eval()(X))
    copied.register_forward_pre_hook(lambda module, args: None)  # a stale entry would call it with keyword arguments
    copied(X)


@pytest.mark.parametrize("state", STATES)
def test_a_model_can_be_scripted_at_any_time(state):
    model, _ = at(state)
    with pytest.warns((DeprecationWarning, FutureWarning), match="jit"):  # from torch 2.14 on the second
        scripted = torch.jit.script(model)
    assert torch.equal(scripted(X), model.eval()(X))


def seen(module, args, output):
    return None


@pytest.mark.parametrize("how", COPIES)
def test_hooks_of_others_are_copied_as_ever(how):
    model = net()
    handle = model[0].register_forward_hook(seen)
    controller = sc.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.8, 40, readings=sc.Readings(every=1))
    model(X).sum().backward()
    assert list(COPIES[how](model)[0]._forward_hooks.values()) == [seen]
    controller.detach()
    handle.remove()
    assert hooks(model) == 0
    assert all(not vars(module._forward_hooks) for module in model.modules())


@pytest.mark.conformance("masks held", place="torch AveragedModel, by apply_masks")
@pytest.mark.parametrize("kind", ["copy", "AveragedModel", "DataParallel", "state dict"])
def test_another_net_takes_the_masks(kind):
    _, controller = at("frozen")
    dense = net()
    other = {
        "copy": lambda: dense,
        "AveragedModel": lambda: AveragedModel(dense),
        "DataParallel": lambda: nn.DataParallel(dense),
        "state dict": lambda: dense.state_dict(),
    }[kind]()
    controller.apply_masks(other)
    named = other if kind == "state dict" else {n.removeprefix("module."): p for n, p in other.named_parameters()}
    for name, mask in controller.masks.items():
        assert not named[name][~mask].any()
        assert named[name][mask].all()


def test_a_net_of_another_architecture_is_refused():
    _, controller = at("frozen")
    with pytest.raises(ValueError, match=r"apply_masks needs a net with the same weights: 0\.weight has shape None"):
        controller.apply_masks(nn.ReLU())


AVERAGES = {
    "SWA": AveragedModel,
    "EMA": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "EMA with buffers": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
}


@pytest.mark.conformance("resume bitwise", place="torch AveragedModel, by apply_masks")
@pytest.mark.parametrize("policy", ["cyclic_pruning", "soft_threshold", "rigl"])
@pytest.mark.parametrize("kind", [*AVERAGES, "average_weights"])
def test_a_run_with_averaged_weights_resumes_bitwise(kind, policy):
    def begun():
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        controller = sc.attach(model, optimizer, 0.8, 40, policy=policy, readings=sc.Readings(every=4))
        if kind in AVERAGES:
            average = AVERAGES[kind](model)
        else:
            average = sc.average_weights(model, optimizer, decay=0.9, controller=controller)
        return model, optimizer, average, controller

    def go_on(model, optimizer, average, controller, first, last):
        for _ in range(first, last):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), torch.arange(64) % 3).backward()
            optimizer.step()
            if kind in AVERAGES:
                average.update_parameters(model)
        if last < 40:
            return None
        controller.finalize()
        if kind in AVERAGES:
            controller.apply_masks(average)
            found = dict(average.module.named_parameters())
        else:
            found = average.average
        for name, mask in controller.masks.items():
            assert not found[name][~mask].any()
            assert found[name][mask].any()
        return [*model.parameters(), *found.values(), *controller.masks.values()]

    whole, again = begun(), begun()
    go_on(*whole, 0, 19)  # the reading of step 20 is armed
    states = copy.deepcopy([part.state_dict() for part in whole[:3]])
    for part, state in zip(again, states, strict=False):
        part.load_state_dict(state)
    assert again[3].step == 19
    assert all(map(torch.equal, go_on(*whole, 19, 40), go_on(*again, 19, 40)))
