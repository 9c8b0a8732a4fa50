"""Straight-through rivals, step by step against their papers' equations in plain torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.events import Freeze, Plan, Prune, Reading, Threshold
from surgecollapse.functional import channel_scale, kept
from surgecollapse.policies import ST3, Feather, StraightThrough, make_policy

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))
STEPS, EVERY, RATE = 60, 10, 0.1
NAMES = ("straight_through", "st3", "feather")


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)
        return nn.Sequential(*layers).double()


def hard(w, t):
    return torch.where(w.abs() > t, w, 0)


def st3(w, t):
    open_ = w.abs() > t
    ratio = ((w.abs() * open_).mean(1, keepdim=True) + 1e-6) / (w.abs().mean(1, keepdim=True) + 1e-6)
    return 1.01 / (ratio + 0.01) * w.sign() * (w.abs() - t).clamp(min=0)


def feather(w, t):
    size = w.abs()  # |w|³ − t³ in factors, which keeps its digits just above the threshold
    return w.sign() * ((size - t).clamp(min=0) * (size**2 + size * t + t**2)) ** (1 / 3)


def cubic(step, start, end, target):
    return target * (1 - (1 - min(1.0, max(0.0, (step - start) / (end - start)))) ** 3)


def reference(forward, start, end, theta, target, steps):
    """The published loop: threshold, forward pass at v, its gradient to w, on the schedule that readings sample."""
    model, t, begin = net(), 0.0, 0.0
    prunable = [model[0].weight, model[2].weight]
    shadows = [w.detach().clone() for w in prunable]
    for step in range(steps):
        sizes = torch.cat([w.abs().flatten() for w in shadows]).sort().values
        before = step - step % EVERY
        if step == before:  # from the sparsity that is reached, in whole weights
            begin = 1 - kept(sizes.numel(), cubic(step, start, end, target)) / sizes.numel()
        coming = cubic(before + EVERY, start, end, target)
        sparsity = begin if step == before else begin + (coming - begin) * (step - before) / EVERY
        closed = sizes.numel() - kept(sizes.numel(), sparsity)
        t = float(sizes[closed - 1]) if closed else 0.0
        with torch.no_grad():
            for p, w in zip(prunable, shadows, strict=True):
                p.copy_(forward(w, t) if closed else w)
        model.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        with torch.no_grad():
            for p in model.parameters():
                at = [w for q, w in zip(prunable, shadows, strict=True) if q is p]
                if at:
                    at[0].sub_(RATE * p.grad * torch.where(at[0].abs() > t, 1.0, theta))
                else:
                    p.sub_(RATE * p.grad)
    return shadows


@pytest.mark.parametrize(
    ("policy", "forward", "start", "end", "theta", "target"),
    [
        (StraightThrough(start_at=1 / 6, end_at=0.5), hard, 10, 30, 1.0, 0.8),
        (ST3(start_at=1 / 6), st3, 10, 30, 1.0, 0.8),
        (Feather(), feather, 0, 30, 1.0, 0.9),
        (Feather(), feather, 0, 30, 0.5, 0.96),
        (Feather(theta=0.25), feather, 0, 30, 0.25, 0.8),
    ],
    ids=["straight_through", "st3", "feather", "feather at 96%", "feather with theta"],
)
def test_the_shadow_weights_are_those_of_the_published_loop(policy, forward, start, end, theta, target):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    target_ = sc.Target(target, min_density=0.0)
    controller = sc.attach(model, optimizer, target_, STEPS, policy=policy, readings=sc.Readings(every=EVERY))
    for _ in range(STEPS - 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    expected = reference(forward, start, end, theta, target, STEPS - 1)
    found = controller._components.actor.shadow.values
    assert list(found) == ["0.weight", "2.weight"]
    for ours, theirs in zip(found.values(), expected, strict=True):
        # Float64: what separates the two is rounding, which SGD of 60 steps at this rate does not amplify.
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [0.8, 0.98])
def test_the_end_is_exact_and_nothing_is_frozen_before(name, target):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = sc.attach(model, optimizer, target, STEPS, policy=name, readings=sc.Readings(every=EVERY))
    masks = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        masks.append(controller.masks)
        assert not controller.frozen or len(masks) == STEPS
    controller.finalize()
    size = sum(mask.numel() for mask in controller.masks.values())
    assert sum(int(mask.sum()) for mask in controller.masks.values()) == kept(size, target)
    opened = sum(int((b[n] & ~a[n]).sum()) for a, b in itertools.pairwise(masks[46:-1]) for n in a)
    assert opened > 0, "closed weights come back in the last quarter of the run, too"


@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_is_the_cubic_of_the_paper(name):
    policy = make_policy(name)
    policy.start(Plan(sparsity=0.9, total_steps=1000, every=50))
    start, end = 1000 * policy.start_at, 1000 * policy.end_at
    coming, made = {}, {}
    for step in [0, *filter(policy.due, range(1, 1001))]:
        made[step] = policy.decide(Reading(step=step))
        action = made[step].find(Threshold)
        if action is not None:
            coming[step + action.over] = action.sparsity
    assert coming == {at: pytest.approx(cubic(at, start, end, 0.9)) for at in coming}
    assert {int(end), 550, 800, 1000} <= set(coming)
    assert made[1000].actions == (Prune(0.9), Freeze())


def test_published_settings():
    policies = {name: make_policy(name) for name in NAMES}
    for policy in policies.values():
        policy.start(Plan(sparsity=0.98, total_steps=1000, every=50))
    first = {name: policy._threshold(0.5, 10) for name, policy in policies.items()}
    assert {(name, a.p, a.theta, a.rescale, a.every) for name, a in first.items()} == {
        ("straight_through", 0.0, 1.0, False, 1),
        ("st3", 1.0, 1.0, "channel", 1),
        ("feather", 3.0, 0.5, False, 1),
    }
    assert [(policies[name].start_at, policies[name].end_at) for name in ("st3", "feather")] == [(0.05, 0.5), (0, 0.5)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_at": 0.6, "end_at": 0.5}, "start_at < end_at"),
        ({"start_at": 1.0}, "start_at must be in"),
        ({"end_at": 1.5}, "end_at must be in"),
        ({"threshold_every": 0}, "threshold_every"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_policy(name, **options)


def test_theta_and_scale_out_of_range_are_refused():
    with pytest.raises(ValueError, match="theta must be in"):
        Feather(theta=1.5)
    with pytest.raises(ValueError, match="rescale = True, False or 'channel', got 'row'"):
        Threshold(0.5, rescale="row")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 5), (2, 3, 3, 3)])
def test_the_scale_of_a_channel_gives_it_its_magnitude_back(shape, dtype):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    mask = w.abs() > 0.7
    scale = channel_scale(w, mask)
    assert scale.dtype is dtype
    assert scale.shape == (shape[0], *[1] * (len(shape) - 1))
    rows = tuple(range(1, len(shape)))
    ratio = (w.double().abs() * mask).sum(rows) / w.double().abs().sum(rows)
    # 1e-6 beside means of about 1 changes the ratio by no more than 2e-6, and so the scale by less than 1e-3 of itself.
    assert torch.allclose(
        scale.double().flatten(), 1.01 / (ratio + 0.01), rtol=1e-3 + 2 * float(torch.finfo(dtype).eps)
    )


def test_a_channel_with_nothing_open_has_a_finite_scale():
    scale = channel_scale(torch.ones(2, 8), torch.tensor([[False] * 8, [True] * 8]))
    assert scale.flatten().tolist() == [pytest.approx(101.0, rel=1e-3), pytest.approx(1.0)]


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(name):
    def run(cut):
        model = net().float()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        options = {"policy": name, "readings": sc.Readings(every=EVERY)}
        sc.attach(model, optimizer, 0.8, STEPS, **options)
        for step in range(STEPS):
            if step == cut:
                saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                saved = {part: {**state} for part, state in saved.items()}
                weights = {key: value.clone() for key, value in saved["model"].items()}
                model = net().float()
                model.load_state_dict(weights)
                optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
                sc.attach(model, optimizer, 0.8, STEPS, **options)
                optimizer.load_state_dict(saved["optimizer"])
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X.float()), Y).backward()
            optimizer.step()
        return model.state_dict()

    whole, resumed = run(None), run(33)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
