"""The losses beside cross-entropy, and the diagnoses of softmax collapse and naive loss minimization."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surgecollapse import StableMaxCrossEntropy, stablemax_cross_entropy
from surgecollapse.cli import main
from surgecollapse.functional import (
    naive_loss_minimization,
    orthogonal_gradient,
    softmax_collapse,
    softmax_cross_entropy_float64,
    temperature_cross_entropy,
    zero_loss_share,
)
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import balanced_weights, make_loss
from surgecollapse.record import RunStore


def test_the_module_is_the_function_with_all_its_arguments():
    x, target, weight = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, -1, 1]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    options = {"ignore_index": -1, "reduction": "sum", "label_smoothing": 0.2}
    module = StableMaxCrossEntropy(weight, **options)
    assert torch.equal(module(x, target), stablemax_cross_entropy(x, target, weight, **options))
    assert torch.equal(copy.deepcopy(module)(x, target), module(x, target))


def test_the_modules_weight_moves_with_it():
    module = StableMaxCrossEntropy(torch.ones(3)).double()
    assert module.weight.dtype == torch.float64
    assert module(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0, 1])).item() == pytest.approx(math.log(3))


def test_the_module_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="reduction must be 'none', 'mean' or 'sum', got 'avg'"):
        StableMaxCrossEntropy(reduction="avg")
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\], got 2"):
        StableMaxCrossEntropy(label_smoothing=2)


@pytest.mark.parametrize("name", ["stablemax", "cross_entropy_float64"])
def test_a_run_trains_on_the_loss_that_its_configuration_names(name, tmp_path):
    out = tmp_path / "run"
    options = ["--loss", name, "--steps", "20", "--modulus", "7", "--policy", "none"]
    assert main(["run", "modular", *options, "--out", str(out)]) == 0
    with RunStore(out / "run.db") as store:
        losses = store.measurements("loss/train").values.tolist()
    assert losses
    assert all(math.isfinite(value) for value in losses)


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_the_configured_loss_is_the_function_of_that_name(weights):
    functions = {"stablemax": stablemax_cross_entropy, "cross_entropy_float64": softmax_cross_entropy_float64}
    for name, function in functions.items():
        config = make_config(task="parity", loss=name, class_weights=weights)
        data = load_data(config)
        x = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
        given = balanced_weights(data.y_train, 2) if weights == "balanced" else None
        assert torch.equal(make_loss(config, data)(x, data.y_train[:10]), function(x, data.y_train[:10], given))


def test_float64_softmax_sees_what_float32_has_absorbed():
    x, target = torch.tensor([[30.0, 0.0]], requires_grad=True), torch.tensor([0])
    assert F.cross_entropy(x, target) == 0
    loss = softmax_cross_entropy_float64(x, target)
    (grad,) = torch.autograd.grad(loss, x)
    assert loss.item() == pytest.approx(math.exp(-30))
    assert grad.dtype == torch.float32
    assert grad[0, 0].item() == pytest.approx(-math.exp(-30))


def test_float64_softmax_takes_every_argument():
    x, weight = torch.randn(5, 3), torch.tensor([1.0, 2.0, 3.0])
    for target in (torch.tensor([0, 1, 2, 0, 1]), torch.full((5, 3), 1 / 3)):
        for options in ({}, {"reduction": "none"}, {"label_smoothing": 0.1}):
            found = softmax_cross_entropy_float64(x, target, weight, **options)
            assert found.dtype == torch.float64
            assert torch.allclose(found.float(), F.cross_entropy(x, target, weight, **options), rtol=1e-5)


def test_temperature_divides_the_logits():
    x, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(temperature_cross_entropy(x, target, temperature=1.0), F.cross_entropy(x, target))
    found = temperature_cross_entropy(x, target, temperature=4.0, label_smoothing=0.1)
    assert torch.equal(found, F.cross_entropy(x / 4, target, label_smoothing=0.1))
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            temperature_cross_entropy(x, target, temperature=wrong)


@pytest.mark.parametrize(
    ("dtype", "last"),
    # The largest k for which 1 + 2⁻ᵏ > 1 as a sum of two terms, rounded to even: the digits after the point.
    [(torch.float16, 10), (torch.bfloat16, 7), (torch.float32, 23), (torch.float64, 52)],
    ids=str,
)
def test_softmax_collapses_where_the_other_term_falls_below_the_last_digit(dtype, last):
    margins = torch.tensor([last - 0.5, last + 1.5], dtype=torch.float64) * math.log(2)
    logits = torch.stack([margins, torch.zeros(2, dtype=torch.float64)], 1).to(dtype)
    assert softmax_collapse(logits[:1]) == 0
    assert softmax_collapse(logits[1:]) == 1
    assert softmax_collapse(logits) == 0.5


def test_softmax_collapse_is_unmoved_by_a_shift_and_takes_any_dimension():
    logits = torch.zeros(4, 3, 5)
    logits[:, 1, 2] = 100.0
    assert softmax_collapse(logits, dim=1).item() == pytest.approx(0.2)
    assert softmax_collapse(logits - 64.0, dim=1).item() == pytest.approx(0.2)
    assert softmax_collapse(logits, dim=-1).item() == pytest.approx(1 / 3)
    assert torch.isnan(softmax_collapse(torch.zeros(0, 3)))


def test_zero_terms_are_the_collapsed_and_right_ones():
    logits = torch.zeros(8, 4)
    logits[:6, 0] = 30.0  # e⁻³⁰ is less than 2⁻²⁴, and more than 2⁻⁵³
    target = torch.tensor([0, 0, 0, 1, 2, -100, 0, -100])  # three zero terms of six that count
    assert zero_loss_share(logits, target).item() == 0.5
    assert softmax_collapse(logits).item() == 0.75
    x = logits.clone().requires_grad_()
    F.cross_entropy(x, target).backward()
    right = x.grad.gather(1, target.clamp(min=0)[:, None])[:, 0]
    assert (right == 0).tolist() == [True, True, True, False, False, True, False, True]
    assert zero_loss_share(logits.double(), target).item() == 0
    assert zero_loss_share(logits.reshape(2, 4, 4).transpose(1, 2), target.reshape(2, 4)).item() == 0.5


def test_descent_along_the_weights_has_cosine_one():
    w = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    found = naive_loss_minimization(w, {name: -2.0 * value for name, value in w.items()})
    assert found.overall.item() == pytest.approx(1.0)
    assert [cosine.item() for cosine in found.per_tensor.values()] == pytest.approx([1.0, 1.0])
    assert naive_loss_minimization(w, w).overall.item() == pytest.approx(-1.0)


def test_cosines_by_hand_per_tensor_and_together():
    weights = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[2.0]]), "alone": torch.ones(2)}
    gradients = {"a": torch.tensor([-4.0, 3.0]), "b": torch.tensor([[-12.0]])}
    found = naive_loss_minimization(weights, gradients)
    assert {name: value.item() for name, value in found.per_tensor.items()} == {"a": 0.0, "b": 1.0}
    # −g·w = 24, ‖w‖² = 29, ‖g‖² = 169
    assert found.overall.item() == pytest.approx(24 / (math.sqrt(29) * 13))


def test_cosines_of_tiny_gradients_and_of_nothing():
    w = torch.tensor([1.0, 1.0])
    assert naive_loss_minimization({"a": w}, {"a": -1e-30 * w}).overall.item() == pytest.approx(1.0)
    assert naive_loss_minimization({"a": w}, {"a": 0 * w}).overall.item() == 0
    assert naive_loss_minimization({"a": 0 * w}, {"a": w}).overall.item() == 0
    with pytest.raises(ValueError, match="no weight has a gradient"):
        naive_loss_minimization({"a": w}, {"b": w})
    with pytest.raises(ValueError, match="differ in shape"):
        naive_loss_minimization({"a": w}, {"a": torch.ones(3)})


def test_projected_gradients_have_cosine_zero():
    weight, gradient = torch.randn(20, 30), torch.randn(20, 30)
    projected = orthogonal_gradient(weight, gradient, rescale=True)
    assert abs(naive_loss_minimization({"a": weight}, {"a": projected}).overall.item()) < 1e-7


def test_a_fitted_homogeneous_net_is_driven_along_its_weights():
    # Σ w·∂L/∂w = Σ z·∂L/∂z for a linear net: once each sample is right, −∇L·W > 0.
    model = nn.Linear(5, 3, bias=False)
    x = torch.randn(12, 5)
    target = model(x).argmax(1)
    F.cross_entropy(model(x), target).backward()
    found = naive_loss_minimization({"weight": model.weight.detach()}, {"weight": model.weight.grad})
    assert found.overall > 0
