"""Masks: the invariant, exact counts, and states that are refused."""

from __future__ import annotations

import io
import shutil

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.act import masked_weights
from surgecollapse.act.masked_weights import MaskedWeights, mask_pass
from surgecollapse.torch_utils import compiled


def layouts(dtype):
    """One parameter of each kind that a mask must fit."""
    transposed = nn.Parameter(torch.randn(5, 4).to(dtype).t())
    channels_last = nn.Parameter(torch.randn(4, 3, 2, 2).to(dtype).to(memory_format=torch.channels_last))
    assert not transposed.is_contiguous()
    assert not channels_last.is_contiguous()
    return {
        "plain": nn.Parameter(torch.randn(6, 5).to(dtype)),
        "transposed": transposed,
        "channels_last": channels_last,
        "empty": nn.Parameter(torch.randn(0, 3).to(dtype)),
        "equal": nn.Parameter(torch.ones(3, 3, dtype=dtype)),
    }


def half(params):
    masks = {n: torch.rand(p.shape, generator=torch.Generator().manual_seed(1)) > 0.5 for n, p in params.items()}
    return masks, {n: int(m.sum()) for n, m in masks.items()}


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_and_gradients_are_masked_in_every_precision_and_layout(dtype):
    params = layouts(dtype)
    before = {n: p.detach().clone() for n, p in params.items()}
    weights = MaskedWeights(params)
    masks, live = half(params)
    weights.set(masks, live)
    for n, p in params.items():
        assert torch.equal(p, before[n] * masks[n])
        assert torch.equal(weights.mask(n), masks[n])
        if weights.held(n) is not None and p.numel():
            assert weights.held(n).stride() == p.stride()
            assert weights.held(n).dtype == dtype
        p.grad = torch.ones_like(p)
    weights.mask_gradients()
    assert all(torch.equal(p.grad, masks[n].to(dtype)) for n, p in params.items())
    with torch.no_grad():
        for p in params.values():
            p.add_(1)
    weights.apply()
    assert all(not p[~masks[n]].any() for n, p in params.items())
    assert all(p[masks[n]].all() for n, p in params.items() if n == "equal")
    assert weights.live == sum(live.values())
    assert weights.size == sum(p.numel() for p in params.values())
    assert weights.sparsity == pytest.approx(1 - weights.live / weights.size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_pass_leaves_the_same_bits_as_plain_operations(dtype, monkeypatch):
    passes = []
    monkeypatch.setattr(masked_weights, "SMALLEST", 9)
    monkeypatch.setattr(compiled, "_compiled", lambda function: passes.append(function) or function)
    results = []
    for compile in (False, True):
        params = layouts(dtype)
        weights = MaskedWeights(params, compile=compile)
        weights.set(*half(params))
        for p in params.values():
            generator = torch.Generator().manual_seed(2)
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)  # contiguous, whatever the weight is
            if p.numel():
                p.grad.view(-1)[:3] = torch.tensor([float("nan"), float("inf"), -0.0])
            with torch.no_grad():
                p.copy_(torch.randn(p.shape, generator=generator).to(dtype))
        weights.apply()
        weights.mask_gradients()
        assert compile == any(weights.held(n).dtype is torch.uint8 for n in params if weights.held(n) is not None)
        results.append([p for n in params for p in (params[n].detach(), params[n].grad)])
        state = weights.state_dict()
    assert passes == [mask_pass] * len(passes)
    assert len(passes) >= 4
    for plain, passed in zip(*results, strict=True):
        assert torch.equal(plain.isnan(), passed.isnan())
        assert torch.equal(torch.signbit(plain.nan_to_num()), torch.signbit(passed.nan_to_num()))
        assert torch.equal(plain.nan_to_num(), passed.nan_to_num())
    other = MaskedWeights(layouts(dtype))
    other.load_state_dict(state)
    assert all(torch.equal(other.mask(n), weights.mask(n)) for n in other.params)


def test_without_a_compiler_masks_are_floats_again(monkeypatch):
    def missing(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(masked_weights, "SMALLEST", 9)
    monkeypatch.setattr(compiled, "_compiled", missing)
    monkeypatch.setattr(compiled, "_refused", set())
    monkeypatch.setattr(compiled, "_proven", set())
    params = layouts(torch.float32)
    weights = MaskedWeights(params, compile=True)
    weights.set(*half(params))
    with torch.no_grad():
        params["plain"].fill_(1.0)
    with pytest.warns(RuntimeWarning, match="install a C\\+\\+ compiler"):
        weights.apply()
    assert torch.equal(params["plain"].detach(), weights.mask("plain").float())
    assert {weights.held(n).dtype for n in params if weights.held(n) is not None} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_masks_train_the_same_net():
    def trained(compile):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        controller = surgecollapse.attach(
            model,
            optimizer,
            sparsity=0.9,
            total_steps=40,
            policy="acdc",
            readings=surgecollapse.Readings(every=4),
            compile=compile,
        )
        for step in range(40):
            x = torch.randn(16, 512, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        controller.finalize()
        return model[0].weight.detach()

    assert torch.equal(trained(compile=True), trained(compile=False))
    assert mask_pass in compiled._proven


def test_only_the_named_weights_are_touched():
    params = {"a": nn.Parameter(torch.ones(4)), "b": nn.Parameter(torch.ones(4))}
    weights = MaskedWeights(params)
    weights.set({n: torch.tensor([True, False, False, True]) for n in params}, {"a": 2, "b": 2})
    with torch.no_grad():
        for p in params.values():
            p.fill_(1)
            p.grad = torch.ones_like(p)
    weights.apply(["a"])
    weights.mask_gradients(["b"])
    assert [int(p.sum()) for p in params.values()] == [2, 4]
    assert [int(p.grad.sum()) for p in params.values()] == [4, 2]


def test_a_missing_gradient_is_no_error():
    params = layouts(torch.float32)
    weights = MaskedWeights(params)
    weights.set(*half(params))
    params["plain"].grad = torch.ones_like(params["plain"])
    weights.mask_gradients()
    assert int(params["plain"].grad.sum()) == weights.live_in("plain")
    assert params["equal"].grad is None


def test_a_fully_open_parameter_costs_nothing_and_reads_as_true():
    p = nn.Parameter(torch.randn(3, 3))
    weights = MaskedWeights({"p": p})
    assert weights.dense
    assert weights.mask("p").all()
    weights.set({"p": torch.eye(3).bool()}, {"p": 3})
    assert not weights.dense
    weights.set({"p": torch.ones(3, 3, dtype=torch.bool)}, {"p": 9})
    assert weights.dense
    assert weights.held("p") is None


def test_masks_are_handed_out_and_taken_in_as_copies():
    p = nn.Parameter(torch.ones(4))
    weights = MaskedWeights({"p": p})
    mask = torch.tensor([True, True, False, False])
    weights.set({"p": mask}, {"p": 2})
    mask.fill_(True)
    weights.mask("p").fill_(True)
    p.grad = torch.ones(4)
    grad = p.grad
    weights.mask_gradients()
    assert p.grad is grad
    assert grad.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert weights.mask("p").tolist() == [True, True, False, False]


def test_a_parameter_that_joins_is_open():
    weights = MaskedWeights({"p": nn.Parameter(torch.ones(4))})
    weights.add("q", nn.Parameter(torch.ones(6)))
    assert (weights.live, weights.size, weights.live_in("q")) == (10, 10, 6)


def test_a_mask_of_another_shape_is_refused():
    weights = MaskedWeights({"p": nn.Parameter(torch.ones(4))})
    with pytest.raises(ValueError, match=r"mask of p has shape \(2,\), expected \(4,\)"):
        weights.set({"p": torch.ones(2, dtype=torch.bool)}, {"p": 2})


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_saved_state_restores_every_mask(dtype):
    params = layouts(dtype)
    weights = MaskedWeights(params)
    masks, live = half(params)
    weights.set(masks, live)
    buffer = io.BytesIO()
    torch.save(weights.state_dict(), buffer)
    buffer.seek(0)
    twin = MaskedWeights({n: nn.Parameter(torch.ones_like(p)) for n, p in params.items()})
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    for n in params:
        assert torch.equal(twin.mask(n), masks[n])
        assert twin.live_in(n) == live[n]
        assert torch.equal(twin.params[n], torch.ones_like(params[n]) * masks[n])
    dense = MaskedWeights(params)
    twin.load_state_dict(dense.state_dict())
    assert twin.dense


def test_a_corrupt_or_foreign_state_is_refused_and_changes_nothing():
    p = nn.Parameter(torch.ones(4, 4))
    weights = MaskedWeights({"p": p})
    mask = torch.eye(4).bool()
    weights.set({"p": mask}, {"p": 4})
    state = weights.state_dict()
    for change, message in [
        ({"live": {"p": 5}}, "corrupt"),
        ({"masks": {"p": state["masks"]["p"] | 2}}, "corrupt"),
        ({"masks": {"p": state["masks"]["p"][:1]}}, "takes 2 bytes"),
        ({"shapes": {"p": [2, 8]}}, r"another model.*p \(\[2, 8\] saved, \[4, 4\] here\)"),
        ({"shapes": {}}, r"another model.*p \(None saved"),
    ]:
        with pytest.raises(ValueError, match=message):
            weights.load_state_dict({**state, **change})
        assert torch.equal(weights.mask("p"), mask)
        assert (weights.live, weights.dense) == (4, False)


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_closed_weights_are_positive_zeros_and_stay_so(make):
    p = nn.Parameter(torch.tensor([-3.0, 0.5, -0.2, 2.0]))
    optimizer, weights = make([p]), MaskedWeights({"a": p})
    weights.set({"a": torch.tensor([True, False, False, True])}, {"a": 2})
    for sign in (1.0, -1.0, 1.0):
        p.grad = torch.full((4,), sign)
        weights.mask_gradients()
        optimizer.step()
        weights.apply()
        assert p[1:3].detach().view(torch.int32).tolist() == [0, 0]
