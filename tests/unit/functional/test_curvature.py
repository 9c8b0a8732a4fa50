"""Curvature and criticality against autograd, simulated optimizers and mean-field theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse.functional import (
    Hessian,
    batch_loss,
    branching_ratio,
    chi,
    hutchinson_trace,
    largest_eigenvalue,
    lyapunov_exponent,
    stability_threshold,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(values, dtype=torch.float64, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator(seed), dtype=torch.float64)).Q
    return (basis * torch.tensor(values, dtype=torch.float64) @ basis.T).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(3, 5, 2), (4, 3, 3)])
def test_products_equal_the_dense_hessian_of_autograd(sizes, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(*sizes[:2]), nn.BatchNorm1d(sizes[1]), nn.Tanh(), nn.Linear(*sizes[1:])).to(dtype)
    x = torch.randn(16, sizes[0], dtype=dtype)
    y = torch.randint(0, sizes[2], (16,))
    weights = dict(model.named_parameters())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loss = batch_loss(model, F.cross_entropy, x, y)  # in training mode: batch norm would move its statistics
    hessian = Hessian(loss, weights)
    shapes = [w.shape for w in weights.values()]

    def flat_loss(flat):
        parts = flat.split([s.numel() for s in shapes])
        return loss({n: p.view(s) for n, p, s in zip(weights, parts, shapes, strict=True)})

    flat = torch.cat([w.detach().flatten() for w in weights.values()])
    dense = torch.autograd.functional.hessian(flat_loss, flat)
    vector = torch.randn(hessian.size, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(hessian @ vector, dense @ vector, atol=tolerance)
    assert torch.allclose(hessian.gradient, torch.autograd.functional.jacobian(flat_loss, flat), atol=tolerance)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "units"), [(20, 4), (9, 7)])
def test_linear_least_squares_has_the_hessian_of_its_inputs(rows, units, dtype):
    x, y = torch.randn(rows, units, generator=generator(), dtype=dtype), torch.zeros(rows, 1, dtype=dtype)
    model = nn.Linear(units, 1, bias=False).to(dtype)
    hessian = Hessian(batch_loss(model, F.mse_loss, x, y), dict(model.named_parameters()))
    dense = torch.stack([hessian @ e for e in torch.eye(units, dtype=dtype)])
    assert torch.allclose(dense, 2 * x.T @ x / rows, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [8, 12])
def test_attention_can_be_differentiated_twice(width, dtype):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True).to(dtype)
    x = torch.randn(2, 3, width, dtype=dtype)
    loss = batch_loss(model, F.mse_loss, x, torch.zeros_like(x))
    hessian = Hessian(loss, dict(model.named_parameters()))
    u, v = torch.randn(2, hessian.size, dtype=dtype)
    rel = 1e-3 if dtype == torch.float32 else 1e-9
    assert (u @ (hessian @ v)).item() == pytest.approx((v @ (hessian @ u)).item(), rel=rel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [[7.0, 3.0, 1.0, -2.0], [2.0, 1.0, 0.5, -9.0, -1.0, 0.0]])
def test_power_iteration_finds_the_largest_even_below_a_large_negative_one(values, dtype):
    matrix = planted(values, dtype)
    found = largest_eigenvalue(matrix, torch.ones(len(values), dtype=dtype), iterations=300)
    assert found.value.item() == pytest.approx(values[0], rel=1e-4)
    assert found.residual.item() < 1e-2


def test_power_iteration_goes_on_where_it_was():
    matrix, start = planted([5.0, 4.0, 1.0]), torch.ones(3, dtype=torch.float64)
    whole = largest_eigenvalue(matrix, start, iterations=10)
    part = largest_eigenvalue(matrix, start, iterations=4)
    again = largest_eigenvalue(matrix, part.vector, iterations=6, shift=part.shift)
    assert torch.allclose(whole.vector, again.vector, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [6, 15])
def test_hutchinson_is_within_its_standard_error(size, dtype):
    matrix = planted([float(i) for i in range(size)], dtype)
    found = hutchinson_trace(matrix, matrix[0], 2000, generator(1))
    exact = size * (size - 1) / 2
    assert abs(found.value.item() - exact) < 4 * found.standard_error.item()
    off = matrix - matrix.diag().diag()
    assert found.standard_error.item() == pytest.approx(math.sqrt(2 * off.square().sum().item() / 2000), rel=0.15)


@pytest.mark.parametrize(
    ("make", "threshold"),
    [
        (lambda p, lr: torch.optim.SGD(p, lr), {}),
        (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8), {"momentum": 0.8}),
        (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, dampening=0.5), {"momentum": 0.8, "dampening": 0.5}),
        (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, nesterov=True), {"momentum": 0.8, "nesterov": True}),
        (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, dampening=0.9), {"momentum": 0.9, "adaptive": True}),
    ],
)
@pytest.mark.parametrize("share", [0.98, 1.02])
def test_optimizers_diverge_exactly_above_the_threshold(make, threshold, share):
    curvature = 3.0
    w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = make([w], share * stability_threshold(**threshold) * 2 / curvature)
    for _ in range(2000):
        w.grad = curvature * w.detach()
        optimizer.step()
    assert (abs(w.item()) > 1) == (share > 1)


def test_adam_threshold_is_38_over_the_step():
    assert 2 * stability_threshold(momentum=0.9, adaptive=True) == pytest.approx(38.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variance", [0.5, 1.0, 2.25])
def test_random_tanh_nets_grow_disturbances_as_mean_field_says(variance, dtype):
    width, depth, g = 600, 8, generator(3)
    h = torch.randn(20, width, generator=g, dtype=dtype)
    d = torch.randn(20, width, generator=g, dtype=dtype)
    disturbances, z = [d], torch.linspace(-8, 8, 2001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    predicted = []
    for _ in range(depth):
        weight = torch.randn(width, width, generator=g, dtype=dtype) * math.sqrt(variance / width)
        q = h.square().mean().item() * variance  # variance of the preactivation, of which φ' is taken
        predicted.append(variance * float((density * (1 - torch.tanh(math.sqrt(q) * z).square()).square()).sum()))
        h = torch.tanh(h @ weight.T)
        disturbances.append(disturbances[-1] @ weight.T * (1 - h.square()))
    for l in range(depth):
        assert chi(disturbances[l], disturbances[l + 1]).item() == pytest.approx(predicted[l], rel=0.05)
    expected = sum(math.log(p) for p in predicted) / 2 / depth
    assert lyapunov_exponent(disturbances).item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 7), (5, 2, 6)])
def test_growth_and_branching_are_numpys(shape, dtype):
    layers = [torch.randn(*shape, generator=generator(seed), dtype=dtype) * 2**seed for seed in range(3)]
    first, second, last = (layer.double().numpy().reshape(shape[0], -1) for layer in layers)
    rel = 1e-6 if dtype == torch.float32 else 1e-12
    assert chi(*layers[:2]).item() == pytest.approx((second**2).mean() / (first**2).mean(), rel=rel)
    growth = np.log(np.linalg.norm(last, axis=1) / np.linalg.norm(first, axis=1)).mean() / 2
    assert lyapunov_exponent(layers).item() == pytest.approx(growth, rel=rel)
    ratio = ((last > 0).mean(1) / (first > 0).mean(1)).mean()
    assert branching_ratio(layers[0], layers[2]).item() == pytest.approx(ratio, rel=rel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [4, 10])
def test_branching_is_the_ratio_of_active_shares(width, dtype):
    before = torch.ones(3, width, dtype=dtype)
    before[0] = -1.0  # has no ancestors
    after = -torch.ones(3, 2 * width, dtype=dtype)
    after[1:, :width] = 1.0
    assert branching_ratio(before, after).item() == pytest.approx(0.5)
    assert branching_ratio(before[:1], after[:1]).isnan()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="scalar loss"):
        Hessian(lambda w: w["a"], {"a": torch.ones(2)})
    with pytest.raises(ValueError, match="iterations"):
        largest_eigenvalue(torch.eye(2), torch.ones(2), iterations=0)
    with pytest.raises(ValueError, match="samples"):
        hutchinson_trace(torch.eye(2), torch.ones(2), 0, generator())
    with pytest.raises(ValueError, match="momentum"):
        stability_threshold(momentum=1.0)
    with pytest.raises(ValueError, match="two layers"):
        lyapunov_exponent([torch.ones(2)])
