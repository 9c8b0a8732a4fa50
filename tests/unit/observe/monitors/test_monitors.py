"""Monitors: each number against its oracle, the right layers, one sync an event, and what a checkpoint holds."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import surgecollapse.plugins
from surgecollapse import Measurement, MemoryRecorder, Monitoring, Readings, attach, watch_training
from surgecollapse.functional import (
    effective_rank,
    gram_spectra,
    sample_participation_ratio,
    sign_covariance_entropy,
    singular_values,
    spectral_entropy,
    stable_rank,
)
from surgecollapse.observe.monitors import DEFAULT, MONITORS, make_monitors
from surgecollapse.observe.monitors.weight_rank import WeightRank
from surgecollapse.protocols import Monitor, MonitorContext


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mlp(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).to(dtype)


def context(**parts):
    return MonitorContext(**({"step": 1, "model": nn.Identity(), "weights": {}} | parts))


def train(model, x, y, *, steps=6, optimizer=None, watch=None, **options):
    """Train and return what was measured, as (step, name, layer) → value."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = MemoryRecorder()
    options = {"every": 3, "budget": None, "recorders": [recorder]} | options
    with watch_training(model, optimizer, **options) as watched:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            watched.note(loss=loss, targets=y, validation_loss=2.0)
            if watch is not None:
                watch(model)
            optimizer.step()
    return {(e.step, e.name, e.layer): e.value for e in recorder.events}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(64, 10), (20, 48)])
def test_representation_agrees_with_the_functions_it_stands_for(shape, dtype):
    x = normal(*shape, dtype=dtype) * torch.linspace(0.1, 2, shape[1], dtype=dtype) + 1
    found = MONITORS["representation"]().measure(context(activations={"a": x, "b": 3 * x[:, :5]}))
    sigma = singular_values(x)
    assert found["rank/rankme"]["a"].item() == pytest.approx(effective_rank(sigma).item(), rel=1e-5)
    assert found["rank/activation_stable"]["a"].item() == pytest.approx(stable_rank(sigma).item(), rel=1e-5)
    assert found["rank/activation_numerical"]["b"].item() == 5
    assert found["entropy/spectral"]["a"].item() == pytest.approx(spectral_entropy(x).item(), rel=1e-5)
    assert found["dimension/participation_ratio"]["a"].item() == sample_participation_ratio(x).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spectra_by_gram_matrices_are_numpys_and_know_what_is_not_finite(dtype):
    matrices = [normal(7, 4), normal(3, 9, seed=1), torch.zeros(2, 2), torch.full((2, 3), math.nan)]
    sigma = gram_spectra([matrix.to(dtype) for matrix in matrices])
    for row, matrix in zip(sigma[:3], matrices, strict=False):
        oracle = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
        assert row[: len(oracle)].numpy() == pytest.approx(oracle, rel=1e-6)
        assert not row[len(oracle) :].any()
    assert sigma[3].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(12, 20), (300, 40), (8, 3, 3, 3)])
def test_weight_ranks_of_a_planted_rank(shape, dtype):
    rows, columns = shape[0], math.prod(shape[1:])
    planted = (normal(rows, 3, dtype=dtype) @ normal(3, columns, seed=1, dtype=dtype)).reshape(shape)
    found = MONITORS["weight_rank"]().measure(context(weights={"w": planted, "bias": normal(5)}))
    assert set(found["rank/effective"]) == {"w"}
    assert found["rank/numerical"]["w"].item() == 3
    sigma = singular_values(planted.flatten(1))
    assert found["rank/effective"]["w"].item() == pytest.approx(effective_rank(sigma).item(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [300, 700])
def test_large_weights_are_measured_on_a_block_that_keeps_a_low_rank(rows, dtype):
    big = normal(rows, 2, dtype=dtype) @ normal(2, 3000, seed=1, dtype=dtype)
    monitor = WeightRank(short=32, long=64)
    assert monitor.measure(context(weights={"w": big}))["rank/numerical"]["w"].item() == 2
    full = normal(rows, 3000, seed=2, dtype=dtype)
    assert monitor.measure(context(weights={"w": full}))["rank/numerical"]["w"].item() == 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("copies", [1, 9])
def test_dead_and_dormant_units_are_counted(copies, dtype):
    x = torch.tensor([[0.0, 1.0, 2.0, 0.001], [0.0, 3.0, 1.0, 0.002]], dtype=dtype).repeat(copies, copies)
    found = MONITORS["units"]().measure(context(activations={"a": x}))
    assert found["units/dead"]["a"].item() == 0.25
    assert found["units/dormant"]["a"].item() == 0.5
    broken = MONITORS["units"]().measure(context(activations={"a": torch.full((2, 2), math.nan)}))
    assert broken["units/dormant"]["a"].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "classes"), [(5, 4), (64, 97)])
def test_predictions_of_uniform_and_of_collapsed_logits(rows, classes, dtype):
    measure = MONITORS["predictions"]().measure
    flat = measure(context(scores=torch.zeros(rows, classes, dtype=dtype)))
    assert [flat[k].item() for k in flat] == pytest.approx([0.0, 0.0, 1.0])
    sharp = measure(context(scores=torch.tensor([[40.0, -40.0]], dtype=dtype).repeat(rows, 1)))
    assert [sharp[k].item() for k in sharp] == pytest.approx([40.0, 1.0, 0.0])
    assert measure(context(scores=torch.zeros(5, 1))) == {}
    assert measure(context()) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4), (50, 7)])
def test_alignment_is_one_where_the_gradient_only_scales_the_weights_up(shape, dtype):
    w, other = normal(*shape, dtype=dtype), normal(*shape, seed=1, dtype=dtype)
    found = MONITORS["alignment"]().measure(context(weights={"w": w}, gradients={"w": -2 * w}))
    assert found["alignment/naive_loss"]["w"].item() == pytest.approx(1.0)
    assert found["alignment/naive_loss"][None].item() == pytest.approx(1.0)
    across = other - (other * w).sum() / w.square().sum() * w
    mixed = MONITORS["alignment"]().measure(
        context(weights={"w": w}, gradients={"w": 3 * across / across.norm() * w.norm() - 4 * w})
    )
    assert mixed["alignment/naive_loss"]["w"].item() == pytest.approx(0.8, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("copies", [1, 8])
def test_masks_and_live_energy(copies, dtype):
    w = torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=dtype).repeat(copies, copies)
    found = MONITORS["masks"]().measure(context(weights={"w": w, "v": w}, live={"w": 0.5}))
    assert found["mask/sparsity"] == {"w": 0.5}
    assert found["energy/live"]["w"].item() == pytest.approx(10.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("big", [False, True])
def test_norms_are_those_of_the_loop(big, dtype):
    torch.manual_seed(0)
    model = (nn.Sequential(nn.Linear(6, 4000), nn.ReLU(), nn.Linear(4000, 3)) if big else mlp()).to(dtype)
    x, y = normal(32, 6, dtype=dtype), torch.arange(32) % 3
    seen = []

    def keep(net):
        seen.append({n: (p.detach().clone(), p.grad.clone()) for n, p in net.named_parameters()})

    found = train(model, x, y, watch=keep, monitors=["norms"])
    for step in (3, 6):
        before, now = seen[step - 2], seen[step - 1]
        for name in ("0.weight", "2.weight"):
            change = now[name][0] - before[name][0]
            assert found[step, "norm/weight", name] == pytest.approx(now[name][0].norm().item(), rel=1e-5)
            assert found[step, "norm/gradient", name] == pytest.approx(now[name][1].norm().item(), rel=1e-5)
            assert found[step, "norm/update", name] == pytest.approx(change.norm().item(), rel=0.03 if big else 1e-5)
        whole = torch.cat([(now[n][0] - before[n][0]).flatten() for n in now]).norm().item()
        assert found[step, "norm/update", None] == pytest.approx(whole, rel=0.03 if big else 1e-5)
        assert (step, "norm/weight", "0.bias") not in found


@pytest.mark.parametrize(("size", "dtype"), [(4000, torch.float32), (4000, torch.float64), (12_000, torch.float32)])
def test_the_noise_scale_of_gradients_with_known_noise(size, dtype):
    mean, sigma, batch = normal(size, seed=1, dtype=dtype), 3.0, 16
    expected = size * sigma**2 / mean.square().sum().item()
    monitor = MONITORS["noise_scale"]()
    g = torch.Generator().manual_seed(2)
    for step in range(1, 41, 2):
        for at, method in ((step, monitor.prepare), (step + 1, monitor.measure)):
            noisy = mean + sigma / batch**0.5 * torch.randn(size, generator=g, dtype=dtype)
            found = method(context(step=at, gradients={"w": noisy}, batch_size=batch))
    assert found["noise/scale"].item() == pytest.approx(expected, rel=0.1)


def test_the_noise_scale_wants_two_gradients_in_a_row():
    monitor = MONITORS["noise_scale"]()
    monitor.prepare(context(step=1, gradients={"w": torch.ones(3)}, batch_size=4))
    assert monitor.measure(context(step=3, gradients={"w": torch.ones(3)}, batch_size=4)) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [32, 48])
def test_entropies_are_taken_after_the_activation_of_hidden_layers_on_the_probe(rows, dtype):
    model, x, y = mlp(dtype=dtype), normal(rows, 6, dtype=dtype), torch.arange(rows) % 3
    hidden = {}

    def look(net):
        hidden["2"] = F.relu(net[2](F.relu(net[0](x)))).detach()

    found = train(model, x, y, steps=3, watch=look, monitors=["entropy", "gap"], probe=x)
    assert {layer for _, name, layer in found if name == "entropy/activation"} == {"0", "2"}
    # Rows are drawn in another order there, and the entropy pairs them as they come: one more of such draws.
    orders = [torch.randperm(rows, generator=torch.Generator().manual_seed(seed)) for seed in range(100)]
    draws = torch.stack([sign_covariance_entropy(hidden["2"][order]) for order in orders])
    assert found[3, "entropy/activation", "2"] == pytest.approx(draws.mean().item(), abs=5 * draws.std().item())
    assert draws.std() < 0.1
    assert found[3, "gap/loss", None] == pytest.approx(2.0 - F.cross_entropy(model(x), y).item(), abs=0.05)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(7, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        h = self.token(tokens)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.head(self.norm(h + self.mlp(h)))[:, -1]


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(6, 8, 3), nn.ReLU()
        )
        self.head = nn.Linear(8 * 4 * 4, 3)

    def forward(self, x):
        return self.head(self.net(x).flatten(1))


def cases():
    return {
        "tied sequence": (Tied, torch.randint(0, 7, (16, 5), generator=torch.Generator().manual_seed(0))),
        "convolutions": (Convolutional, normal(16, 1, 8, 8)),
    }


def test_sequence_convolution_and_tied_layers_have_their_canonical_names():
    sites = {"tied sequence": {"attention", "mlp.0", "mlp.2"}, "convolutions": {"net.0", "net.4"}}
    for name, (kind, x) in cases().items():
        torch.manual_seed(0)
        model = kind()
        found = train(model, x, torch.arange(16) % 3, steps=3)
        assert {layer for _, series, layer in found if series == "entropy/activation"} == sites[name]
        weights = {layer for _, series, layer in found if series == "norm/weight"} - {None}
        assert weights == {n for n, p in model.named_parameters() if p.ndim >= 2}
        units = {"net.0": 6, "net.4": 8, "mlp.0": 16}
        for site, count in units.items():
            assert found.get((3, "dimension/participation_ratio", site), 1.0) <= count


@pytest.mark.parametrize("wrapped", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", ["tied sequence", "convolutions"])
def test_training_with_monitors_is_bitwise_the_training_without(case, wrapped):
    kind, x = cases()[case]
    y = torch.arange(16) % 3
    results = []
    for watched in (False, True):
        torch.manual_seed(1)
        model = kind()
        called = torch.compile(model, backend="eager") if wrapped else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        if watched:
            found = train(called, x, y, steps=8, optimizer=optimizer, every=2)
            assert len({series for _, series, _ in found}) > 15
            assert any(series == "entropy/activation" for _, series, _ in found)
        else:
            for _ in range(8):
                optimizer.zero_grad()
                F.cross_entropy(called(x), y).backward()
                optimizer.step()
        results.append((model.state_dict(), torch.get_rng_state(), [m.training for m in model.modules()]))
    (plain, rng, modes), (seen, rng_seen, modes_seen) = results
    assert all(torch.equal(plain[key], seen[key]) for key in plain)
    assert torch.equal(rng, rng_seen)
    assert modes == modes_seen


def test_a_controller_with_monitors_decides_bitwise_as_without():
    results = []
    for monitors in ((), "default"):
        model, x, y = mlp(), normal(32, 6), torch.arange(32) % 3
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        recorder = MemoryRecorder()
        with attach(
            model,
            optimizer,
            sparsity=0.5,
            total_steps=60,
            policy="acdc",
            readings=Readings(every=5),
            monitors=Monitoring(monitors, budget=None),
            recorders=[recorder],
        ) as controller:
            for _ in range(60):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        results.append((model.state_dict(), controller.events, list(controller.readings)))
        state = controller.state_dict()
    assert all(torch.equal(results[0][0][key], results[1][0][key]) for key in results[0][0])
    assert results[0][1:] == results[1][1:]
    sparsity = [e for e in recorder.of(Measurement) if e.name == "mask/sparsity"]
    assert {e.layer for e in sparsity} == {"0.weight", "2.weight"}
    assert sparsity[-1].value > 0.3
    assert controller.watch.report().every == 5
    del state["watch"]  # a checkpoint from a run without monitors goes on with them
    controller.load_state_dict(state)


@pytest.mark.parametrize("at", [3, 5, 6])
def test_a_resumed_watch_goes_on_where_it_stopped(at):
    x, y = normal(90, 6), torch.arange(90) % 3

    def run(steps, saved=None):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        recorder = MemoryRecorder()
        with watch_training(model, optimizer, recorders=[recorder], every=3, budget=None) as watched:
            if saved is not None:
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
                watched.load_state_dict(saved[2])
            while watched.step < steps:
                rows = slice(8 * watched.step, 8 * watched.step + 8)
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[rows]), y[rows])
                loss.backward()
                watched.note(loss=loss, targets=y[rows])
                optimizer.step()
            return recorder.events, (model.state_dict(), optimizer.state_dict(), watched.state_dict())

    whole, _ = run(10)
    first, saved = run(at)
    rest, _ = run(10, saved)
    timed = "budget/share"
    assert [e for e in first + rest if e.name != timed] == [e for e in whole if e.name != timed]


class CountSyncs(TorchFunctionMode):
    """Counts what makes the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        names = ("item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "numpy")
        self.count += getattr(func, "__name__", "") in names
        return func(*args, **(kwargs or {}))


def test_all_numbers_of_an_event_come_back_in_one_sync():
    model, x, y = mlp(), normal(32, 6), torch.arange(32) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch_training(model, optimizer, every=4, budget=None) as watched:
        counts = []
        for _ in range(9):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            watched.note(loss=loss, targets=y)
            with CountSyncs() as syncs:
                watched.watch.before_step(watched.step + 1, watched.optimizers, dict)
            counts.append(syncs.count)
            watched.step += 1
    assert counts == [0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_gradients_that_a_fused_optimizer_would_unscale_are_seen_unscaled():
    model, x, y = mlp(), normal(32, 6), torch.arange(32) % 3
    plain = train(model, x, y, steps=3, monitors=["norms"])
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = MemoryRecorder()
    with watch_training(model, optimizer, monitors=["norms"], every=3, budget=None, recorders=[recorder]) as watched:
        for step in range(1, 4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if step == 3:
                for p in model.parameters():
                    p.grad.mul_(1024)
                optimizer.grad_scale = torch.tensor(1024.0)
                watched.watch.before_step(3, watched.optimizers, dict)
                assert optimizer.grad_scale is not None
                break
            optimizer.step()
    found = {(e.name, e.layer): e.value for e in recorder.events}
    assert found["norm/gradient", None] == pytest.approx(plain[3, "norm/gradient", None], rel=1e-5)


def test_names_objects_and_registered_monitors_are_found(monkeypatch):
    class Mine:
        name, needs = "mine", ()

        def measure(self, context):
            return {"mine/steps": float(context.step)}

    entry = SimpleNamespace(name="theirs", load=lambda: Mine)
    monkeypatch.setattr(
        surgecollapse.plugins, "entry_points", lambda group: [entry] if group == "surgecollapse.monitors" else []
    )
    assert [m.name for m in make_monitors("theirs")] == ["mine"]
    assert [m.name for m in make_monitors([Mine(), "norms"])] == ["mine", "norms"]
    assert [m.name for m in make_monitors("default")] == list(DEFAULT)
    assert make_monitors(()) == []
    with pytest.raises(ValueError, match="Did you mean 'entropy'"):
        make_monitors("entropi")
    with pytest.raises(ValueError, match="two monitors are called norms"):
        make_monitors(["default", "norms"])
    with pytest.raises(TypeError, match="name, needs and measure"):
        make_monitors([3])


@pytest.mark.parametrize("name", MONITORS)
def test_every_named_monitor_keeps_the_protocol_and_stands_a_bare_context(name):
    monitor = MONITORS[name]()
    assert isinstance(monitor, Monitor)
    assert monitor.name == name
    assert set(monitor.needs) <= {"gradients", "activations", "outputs"}
    found = monitor.measure(context(weights={"bias": torch.ones(3)}))
    assert all("/" in series for series in found)


class Turns:
    """Says which weights it was shown."""

    name, needs, rotates, period = "turns", (), True, 2

    def __init__(self):
        self.shown = []

    def measure(self, context):
        self.shown.append((context.step, sorted(context.weights)))
        return {}


def test_rotating_monitors_are_shown_every_layer_in_turn_and_the_large_ones_apart():
    model, x, y, monitor = mlp(), normal(32, 6), torch.arange(32) % 3, Turns()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch_training(model, optimizer, monitors=[monitor], every=1, budget=None) as watched:
        for _ in range(8):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            watched.watch._keeper.turns = 2
            optimizer.step()
    assert [step for step, _ in monitor.shown] == [1, 3, 5, 7]
    first, second, third, _ = [names for _, names in monitor.shown]
    assert sorted(first + second) == sorted(name for name, _ in model.named_parameters())
    assert third == first
    assert "2.weight" in first  # 192 entries, the largest
    assert "0.weight" in second  # 96, the next
