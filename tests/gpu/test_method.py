"""On a GPU: the method does what it does on a CPU, and between readings the host waits for nothing."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgecollapse
from surgecollapse import MemoryRecorder, Monitoring, Readings, Target, attach, average_weights, watch_training
from surgecollapse.functional import (
    ENTROPY,
    effective_rank,
    highest,
    linear_cka,
    lowest,
    singular_values,
    weight_energy,
)
from surgecollapse.observe.monitors import MONITORS
from surgecollapse.policies import POLICIES, make_policy

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")

GPU = torch.device("cuda")
STEPS = 160
EVERY = 8


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4))


X = normal(256, 12, seed=1)
Y = (X[:, :4] + 0.5 * X[:, 4:8]).argmax(1)


@contextmanager
def no_waiting():
    """Any call that makes the host wait for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def loop(model, optimizer, steps=STEPS, *, after=lambda step: None, around=None):
    x, y = X.to(GPU), Y.to(GPU)
    for step in range(1, steps + 1):
        with around(step) if around else torch.enable_grad():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        after(step)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_trains_and_ends_at_its_sparsity(policy):
    options = {"redo": {"interval": 20}, "fixed_interval": {"collapse_every": 20, "surge_every": 40}}.get(policy, {})
    model = net().to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    rule = make_policy(policy, **options)
    ends_dense = policy in ("no_op", "redo")
    with attach(
        model,
        optimizer,
        sparsity=0.0 if ends_dense else 0.8,
        total_steps=STEPS,
        policy=rule,
        readings=Readings(every=EVERY),
    ) as controller:
        loop(model, optimizer)
        controller.finalize()
        masks = controller.masks
        assert controller.sparsity == pytest.approx(0.0 if ends_dense else 0.8, abs=1e-3)
        for name, mask in masks.items():
            weight = model.get_parameter(name)
            assert mask.device.type == weight.device.type == "cuda"
            assert not weight[~mask].any()
        loop(model, optimizer, 3)
        assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    accuracy = (model(X.to(GPU)).argmax(1).cpu() == Y).double().mean()
    assert accuracy > 0.7


@pytest.mark.parametrize("grads_to_none", [True, False])
def test_between_readings_the_host_waits_for_nothing(grads_to_none):
    model = net().to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    transforms = [surgecollapse.Grokfast(), surgecollapse.OrthoGrad(), surgecollapse.ClipNorm(1.0)]
    controller = attach(
        model,
        optimizer,
        sparsity=0.8,
        total_steps=STEPS,
        policy="acdc",
        transforms=transforms,
        readings=Readings(every=EVERY),
        monitors=Monitoring("default", budget=None),
    )
    x, y = X.to(GPU), Y.to(GPU)
    for step in range(1, STEPS + 1):
        # After an event the host looks once whether the optimizer leaves closed weights at zero.
        quiet = step > EVERY and step % EVERY > 1
        with no_waiting() if quiet else torch.enable_grad():
            optimizer.zero_grad(set_to_none=grads_to_none)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            controller.note(loss=loss.detach(), targets=y)
            optimizer.step()
    controller.finalize()
    controller.detach()
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)


def test_a_saved_state_goes_on_bit_for_bit():
    def begun():
        model = net().to(GPU)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        transforms = [surgecollapse.Grokfast(), surgecollapse.GrokfastMA(window=5, warmup=False)]
        handle = attach(
            model,
            optimizer,
            sparsity=0.8,
            total_steps=STEPS,
            policy="acdc",
            readings=Readings(every=EVERY),
            transforms=transforms,
        )
        return model, optimizer, handle

    model, optimizer, controller = begun()
    saved = {}

    def keep(step):
        if step == 77:
            saved.update(
                copy.deepcopy(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "controller": controller.state_dict(),
                    }
                )
            )

    loop(model, optimizer, after=keep)
    on_host = torch.load(_written(saved), map_location="cpu", weights_only=True)
    again, other, second = begun()
    again.load_state_dict(on_host["model"])
    other.load_state_dict(on_host["optimizer"])
    second.load_state_dict(on_host["controller"])
    loop(again, other, STEPS - 77)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def _written(state):
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_with_a_scaler(dtype):
    model = net().to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # The first steps overflow.
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16, init_scale=2.0**24)
    controller = attach(
        model,
        optimizer,
        sparsity=0.8,
        total_steps=STEPS,
        policy="acdc",
        readings=Readings(every=EVERY),
        transforms=[surgecollapse.Grokfast(alpha=0.9, lamb=0.5), surgecollapse.OrthoGrad()],
    )
    x, y = X.to(GPU), Y.to(GPU)
    for _ in range(STEPS + 20):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if controller.step == STEPS:
            break
    assert controller.step == STEPS
    controller.finalize()
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert (model(x).argmax(1) == y).double().mean() > 0.7


def test_compiled_masking_agrees_with_the_plain_one():
    ended = []
    for compiled in (False, True):
        model = net().to(GPU)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with attach(
            model,
            optimizer,
            sparsity=0.8,
            total_steps=STEPS,
            policy="gmp",
            readings=Readings(every=EVERY),
            compile=compiled,
        ) as controller:
            loop(model, optimizer)
            controller.finalize()
        ended.append([parameter.detach().clone() for parameter in model.parameters()])
    for one, other in zip(*ended, strict=True):
        torch.testing.assert_close(one, other)


def test_monitors_measure_what_they_measure_on_the_host():
    found = []
    for device in ("cpu", "cuda"):
        model = net().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        recorder = MemoryRecorder()
        x, y = X.to(device), Y.to(device)
        with watch_training(
            model,
            optimizer,
            monitors=list(MONITORS),
            recorders=[recorder],
            every=3,
            budget=None,
            criterion=F.cross_entropy,
        ) as watched:
            for _ in range(6):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                watched.note(loss=loss, targets=y, validation_loss=1.0)
                optimizer.step()
        found.append(
            {(e.step, e.name, e.layer): e.value for e in recorder.events if not e.name.startswith(("budget", "time"))}
        )
    host, device = found
    assert host.keys() == device.keys()
    assert len(host) > 60
    for key, value in host.items():
        assert device[key] == pytest.approx(value, rel=2e-3, abs=1e-5, nan_ok=True), key


@pytest.mark.parametrize("name", sorted(ENTROPY))
def test_entropies_agree_with_the_host(name):
    x = normal(200, 24).relu()
    assert ENTROPY[name](x.to(GPU)).item() == pytest.approx(ENTROPY[name](x).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [0, 1, 777, 5_000, 20_000])
def test_selection_takes_the_very_weights_that_it_takes_on_the_host(dtype, k):
    scores = [normal(100, 120).to(dtype), normal(80, 100, seed=1).to(dtype).round(decimals=1)]
    scores[0][3] = 0.5
    moved = [score.to(GPU) for score in scores]
    for select in (lowest, highest):
        for one, other in zip(select(scores, k), select(moved, k), strict=True):
            assert other.device.type == "cuda"
            assert torch.equal(one, other.cpu())


def test_ranks_similarities_and_energies_agree_with_the_host():
    x, y = normal(64, 20, dtype=torch.float64), normal(64, 12, seed=1, dtype=torch.float64)
    assert effective_rank(singular_values(x.to(GPU))).item() == pytest.approx(effective_rank(singular_values(x)).item())
    assert linear_cka(x.to(GPU), y.to(GPU)).item() == pytest.approx(linear_cka(x, y).item())
    assert weight_energy(x.to(GPU)).item() == pytest.approx(weight_energy(x).item())


def test_averaged_weights_on_a_pruned_net():
    model = net().to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(
        model, optimizer, sparsity=0.8, total_steps=STEPS, policy="acdc", readings=Readings(every=EVERY)
    )
    averaged = average_weights(model, optimizer, decay=0.9, controller=controller)
    loop(model, optimizer)
    state = averaged.state_dict()
    averaged.load_state_dict({**state, "average": {name: x.cpu() for name, x in state["average"].items()}})
    controller.finalize()
    averaged.apply()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in controller.masks.items())


def test_convolutions_attention_and_recurrence_are_pruned_too():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv1d(1, 16, 3, padding=1)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.recurrent = nn.LSTM(16, 16, batch_first=True)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            stream = self.convolution(x.unsqueeze(1)).relu().mT
            stream, _ = self.attention(stream, stream, stream, need_weights=False)
            stream, _ = self.recurrent(stream)
            return self.head(stream[:, -1])

    torch.manual_seed(0)
    model = Mixed().to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with attach(
        model, optimizer, sparsity=Target(0.7, exclude=["head"]), total_steps=STEPS, readings=Readings(every=EVERY)
    ) as controller:
        loop(model, optimizer)
        controller.finalize()
        assert {name.partition(".")[0] for name in controller.masks} == {"convolution", "attention", "recurrent"}
        assert controller.sparsity == pytest.approx(0.7, abs=1e-2)
