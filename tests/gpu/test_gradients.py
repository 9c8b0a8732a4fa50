"""On a GPU: filters, ⊥Grad and StableMax compute what they compute on a CPU, without waiting."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgecollapse
from surgecollapse import ClipNorm, GradientFilter, Grokfast, GrokfastMA, OrthoGrad, stablemax_cross_entropy

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")

GPU = torch.device("cuda")
TRANSFORMS = {
    "Grokfast": lambda: Grokfast(alpha=0.9, lamb=0.3),
    "Grokfast from zero": lambda: Grokfast(alpha=0.9, lamb=2.0, start="zero"),
    "GrokfastMA": lambda: GrokfastMA(window=7, lamb=3.0),
    "GrokfastMA without warm-up": lambda: GrokfastMA(window=7, lamb=3.0, warmup=False),
    "GrokfastMA, sum": lambda: GrokfastMA(window=7, lamb=0.2, filter="sum"),
    "GradientFilter": lambda: GradientFilter([0.1, 0.1], [1.0, -0.8], lamb=2.0),
    "OrthoGrad": lambda: OrthoGrad(),
    "OrthoGrad, eq. 12": lambda: OrthoGrad(rescale=False),
    "ClipNorm": lambda: ClipNorm(0.5),
}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def filtered(transform, device, steps=40, dtype=torch.float64, *, quiet=False, bad=()):
    params = [normal(30, 20, dtype=dtype).to(device), normal(20, seed=1, dtype=dtype).to(device)]
    given = []
    for step in range(steps):
        grads = [normal(*p.shape, seed=7 * step + i, dtype=dtype) for i, p in enumerate(params)]
        if step in bad:
            grads[0][2, 3] = float("nan")
        grads = [grad.to(device) for grad in grads]
        torch.cuda.set_sync_debug_mode("error" if quiet and step else "default")
        try:
            transform(params, grads)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        given.append([grad.cpu() for grad in grads])
    return given


@pytest.mark.parametrize("bad", [(), (5, 6)], ids=["finite", "with NaN"])
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_transform_gives_what_it_gives_on_the_host(name, bad):
    host = filtered(TRANSFORMS[name](), "cpu", bad=bad)
    device = filtered(TRANSFORMS[name](), GPU, quiet=True, bad=bad)
    for step, (one, other) in enumerate(zip(host, device, strict=True)):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12, equal_nan=True, msg=f"step {step}")


@pytest.mark.parametrize("name", ["Grokfast", "GrokfastMA without warm-up", "GradientFilter", "OrthoGrad"])
def test_parameters_of_two_precisions_come_in_any_order(name):
    shapes = [(30, 20), (20,), (700, 3), (5, 4)]
    dtypes = [torch.float64, torch.float32, torch.float64, torch.float32]
    orders = [[0, 1], [1, 2, 3], [0, 1, 2, 3], [3, 0, 2, 1], [2, 3]]
    found = []
    for device in ("cpu", "cuda"):
        transform = TRANSFORMS[name]()
        params = [normal(*s, seed=i, dtype=d).to(device) for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))]
        given = []
        for step in range(30):
            chosen = orders[step % len(orders)]
            grads = [normal(*shapes[i], seed=10 * step + i, dtype=dtypes[i]) for i in chosen]
            if step % 3 == 2:
                grads[step % len(grads)].view(-1)[1] = float("nan")
            grads = [grad.to(device) for grad in grads]
            transform([params[i] for i in chosen], grads)
            given += [grad.cpu() for grad in grads]
        found.append(given)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize(
    "make", [lambda c: Grokfast(compile=c), lambda c: GrokfastMA(window=7, warmup=False, compile=c)]
)
def test_the_compiled_pass_agrees_with_the_plain_one(make):
    plain = filtered(make(False), GPU, dtype=torch.float32)
    compiled = filtered(make(True), GPU, dtype=torch.float32)
    for one, other in zip(plain, compiled, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


def test_a_window_in_half_precision_is_near_the_full_one():
    full = filtered(GrokfastMA(window=9, warmup=False), GPU, dtype=torch.float32)
    half = filtered(GrokfastMA(window=9, warmup=False, buffer_dtype=torch.bfloat16), GPU, dtype=torch.float32)
    for one, other in zip(full, half, strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_state_moves_between_host_and_device(name):
    model = nn.Linear(20, 30, dtype=torch.float64)
    weights = normal(30, 20), normal(30, seed=1)
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        parameter.data.copy_(weight)

    def trained(device, steps, state=None, start=0):
        here = nn.Linear(20, 30, dtype=torch.float64).to(device)
        here.load_state_dict(model.state_dict() if state is None else state["model"])
        optimizer = torch.optim.SGD(here.parameters(), lr=0.1)
        handle = surgecollapse.transform_gradients(optimizer, [TRANSFORMS[name]()])
        if state is not None:
            handle.load_state_dict(state["handle"])
        for step in range(start, start + steps):
            optimizer.zero_grad()
            here(normal(8, 20, seed=step).to(device)).square().mean().backward()
            optimizer.step()
        return {"model": here.state_dict(), "handle": handle.state_dict()}

    whole = trained("cpu", 24)
    moved = trained("cpu", 12, trained(GPU, 12), start=12)
    for key, weight in whole["model"].items():
        torch.testing.assert_close(moved["model"][key].cpu(), weight, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stablemax_agrees_with_the_host_and_stays_finite(dtype):
    logits = (3 * normal(64, 50)).to(dtype)
    logits[0] = 0
    logits[1] = torch.finfo(dtype).max / 4
    logits[2] = -torch.finfo(dtype).max / 4
    labels = torch.arange(64) % 50
    labels[5] = -100
    found = []
    for device in ("cpu", "cuda"):
        x = logits.to(device, copy=True).requires_grad_()
        loss = stablemax_cross_entropy(x, labels.to(device), label_smoothing=0.1, ignore_index=-100)
        loss.backward()
        assert x.grad.isfinite().all()
        found.append((loss.detach().cpu().double(), x.grad.cpu().double()))
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=tolerance, atol=tolerance)


def test_stablemax_passes_gradcheck():
    x = normal(5, 7).to(GPU).requires_grad_()
    labels = torch.arange(5, device=GPU)
    assert torch.autograd.gradcheck(lambda x: stablemax_cross_entropy(x, labels), (x,))
    assert torch.autograd.gradgradcheck(lambda x: stablemax_cross_entropy(x, labels), (x,))


@pytest.mark.parametrize("optimizer", ["foreach", "fused", "capturable"])
def test_transforms_go_with_every_form_of_adam(optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)).to(GPU)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2, **{optimizer: True})
    surgecollapse.transform_gradients(adam, [Grokfast(alpha=0.9, lamb=1.0), OrthoGrad()])
    x = normal(128, 8, dtype=torch.float32).to(GPU)
    y = x[:, :3].argmax(1)
    for _ in range(150):
        adam.zero_grad()
        F.cross_entropy(model(x), y).backward()
        adam.step()
    assert (model(x).argmax(1) == y).double().mean() > 0.9
