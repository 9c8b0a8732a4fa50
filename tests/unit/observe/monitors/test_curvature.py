"""Tier-2 monitors: against dense Hessians and linear nets, passive, resumed bitwise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse import MemoryRecorder, Monitoring, Readings, attach, watch_training
from surgecollapse.functional import batch_loss
from surgecollapse.observe.monitors.criticality import Criticality
from surgecollapse.observe.monitors.curvature import Curvature
from surgecollapse.protocols import MonitorContext


def net(dtype=torch.float32, width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)).to(
        dtype
    )


def data(dtype=torch.float32):
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    return x, (x[:, 0] > 0).long()


def dense_hessian(model, x, y):
    shapes = {n: p.shape for n, p in model.named_parameters()}
    loss = batch_loss(model, F.cross_entropy, x, y)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def of(flat):
        parts = flat.split([s.numel() for s in shapes.values()])
        return loss({n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)})

    return torch.autograd.functional.hessian(of, flat)


def context(model, optimizer, x, y, **parts):
    weights = {n: p.detach() for n, p in model.named_parameters()}
    return MonitorContext(
        step=1,
        model=model,
        weights=weights,
        inputs=((x,), {}),
        targets=y,
        optimizers=[optimizer],
        **parts,
    )


def train(model, optimizer, x, y, steps, **options):
    recorder = MemoryRecorder()
    with watch_training(model, optimizer, every=2, budget=None, recorders=[recorder], **options) as watched:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            watched.note(loss=loss, targets=y)
            optimizer.step()
        state = watched.state_dict()
    return {(e.step, e.name, e.layer): e.value for e in recorder.events if "budget" not in e.name}, state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [5, 8])
def test_sharpness_and_trace_are_those_of_the_dense_hessian(dtype, width):
    model, (x, y) = net(dtype, width), data(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    found = Curvature(first=300, trace_samples=2000).measure(context(model, optimizer, x, y))
    exact = dense_hessian(model, x, y)
    assert float(found["curvature/sharpness"]) == pytest.approx(
        0.3 * torch.linalg.eigvalsh(exact)[-1].item() / 2, rel=1e-3
    )
    assert found["curvature/threshold"] == 1.5
    error = float(found["curvature/trace_error"])
    assert abs(float(found["curvature/trace"]) - exact.trace().item()) < 4 * error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [5, 8])
def test_adam_is_seen_through_its_preconditioner(width, dtype):
    model, (x, y) = net(dtype, width), data(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    found = Curvature(first=400).measure(context(model, optimizer, x, y))
    steps = torch.cat(
        [
            (0.01 / ((optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**3)).sqrt() + 1e-8)).flatten()
            for p in model.parameters()
        ]
    )
    scaled = steps.sqrt()[:, None] * dense_hessian(model, x, y) * steps.sqrt()
    assert float(found["curvature/sharpness"]) == pytest.approx(torch.linalg.eigvalsh(scaled)[-1].item() / 2, rel=1e-3)
    assert found["curvature/threshold"] == pytest.approx(19.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [5, 8])
def test_masked_weights_have_no_curvature(width, dtype):
    model, (x, y) = net(dtype, width), data(dtype)
    with torch.no_grad():
        model[2].weight[:, ::2] = 0.0
        model[2].weight[:, 1] = 0.0  # open weights that are zero, as growth leaves them, can move
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    mask = torch.ones(width, width)
    mask[:, ::2] = 0.0
    found = Curvature(first=400).measure(
        context(model, optimizer, x, y, live={"2.weight": 0.5}, masks={"2.weight": mask})
    )
    keep = torch.cat([mask.bool().flatten() if n == "2.weight" else torch.ones(p.numel(), dtype=torch.bool)
                      for n, p in model.named_parameters()])  # fmt: skip
    live = dense_hessian(model, x, y)[keep][:, keep]
    assert float(found["curvature/sharpness"]) == pytest.approx(torch.linalg.eigvalsh(live)[-1].item() / 2, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gain", "width"), [(0.5, 16), (2.0, 16), (2.0, 9)])
def test_orthogonal_linear_layers_multiply_disturbances_by_their_gain(dtype, gain, width):
    layers = [nn.Linear(width, width, bias=False) for _ in range(4)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain=gain)
    model, x = nn.Sequential(*layers).to(dtype), torch.randn(32, width, dtype=dtype)
    found = Criticality().measure(
        MonitorContext(step=1, model=model, weights={}, inputs=((x,), {}), activations={str(i): x for i in range(3)})
    )
    for value in found["criticality/chi"].values():
        assert float(value) == pytest.approx(gain**2, rel=1e-2)
    assert float(found["criticality/lyapunov"]) == pytest.approx(math.log(gain), abs=1e-2)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_training_with_them_is_bitwise_the_training_without(make):
    x, y = data()
    results = []
    for monitors in ((), ("curvature", "criticality")):
        model = nn.Sequential(*list(net())[:4], nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
        found, _ = train(model, make(model.parameters(), lr=0.05), x, y, 9, monitors=monitors)
        results.append((model.state_dict(), torch.rand(1)))
    assert {name for _, name, _ in found} == {
        "curvature/sharpness",
        "curvature/threshold",
        "curvature/trace",
        "criticality/chi",
        "criticality/lyapunov",
        "criticality/branching",
    }
    (plain, drawn), (watched, drawn_too) = results
    assert all(torch.equal(plain[key], watched[key]) for key in plain)
    assert torch.equal(drawn, drawn_too)


def test_the_warm_vector_is_checkpointed():
    model, (x, y) = net(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    whole = Curvature()
    whole.measure(context(model, optimizer, x, y))
    other = Curvature()
    other.load_state_dict(whole.state_dict())
    first, second = (float(m.measure(context(model, optimizer, x, y))["curvature/sharpness"]) for m in (whole, other))
    assert first == second


def test_nothing_is_said_without_a_loss_or_for_unknown_optimizers():
    model, (x, y) = net(), data()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    assert Curvature().measure(context(model, sgd, x, y.float())) == {}
    assert Curvature().measure(context(model, sgd, x, None)) == {}
    assert Curvature().measure(context(model, torch.optim.Rprop(model.parameters()), x, y)) == {}


def test_the_masks_that_a_controller_holds_reach_the_monitor():
    seen = []

    class Spy:
        name, needs = "spy", ()

        def measure(self, context):
            seen.append({name: mask.clone() for name, mask in context.masks.items()})
            return {}

    model, (x, y) = net(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, sparsity=0.5, total_steps=6, policy="one_shot", readings=Readings(every=1),
                monitors=Monitoring([Spy()], budget=None)) as controller:  # fmt: skip
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        held = controller.masks
    assert seen[0] == {}
    assert {name: mask.bool().tolist() for name, mask in seen[-1].items()} == {
        name: mask.tolist() for name, mask in held.items() if not mask.all()
    }
    assert any(not mask.all() for mask in held.values())
