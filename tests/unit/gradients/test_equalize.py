"""EqualizeSpectrum: the polar factor against its closed forms, what is left alone, resume and aliasing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import surgecollapse
from rounding import unit
from surgecollapse import EqualizeSpectrum


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def equalized(gradient, **options):
    result = gradient.clone()
    EqualizeSpectrum(**options)([torch.ones_like(gradient)], [result])
    return result


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (1, 6)], ids=str)
def test_all_singular_values_become_one_and_the_singular_vectors_stay(shape):
    left = torch.linalg.qr(normal(shape[0], min(shape), seed=1)).Q
    right = torch.linalg.qr(normal(shape[1], min(shape), seed=2)).Q
    singular = torch.logspace(0, -4, min(shape), dtype=torch.float64)
    found = equalized((left * singular) @ right.T)
    # A perturbation εσ₁ of the matrix turns the factor by up to ε σ₁/σ_min.
    bound = 100 * max(shape) * unit(torch.float64) * (singular[0] / singular[-1]).item()
    torch.testing.assert_close(found, left @ right.T, rtol=0, atol=bound)


def test_it_is_the_gradient_times_the_inverse_root_of_its_gram_matrix():
    gradient = normal(4, 7)
    values, vectors = torch.linalg.eigh(gradient @ gradient.T)
    wanted = vectors @ torch.diag(values**-0.5) @ vectors.T @ gradient
    bound = 1e3 * unit(torch.float64) * (values[-1] / values[0]).item()
    torch.testing.assert_close(equalized(gradient), wanted, rtol=0, atol=bound)


def test_a_rotation_turns_by_its_angle_alone():
    cosine, sine = math.cos(0.4), math.sin(0.4)
    rotation = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    torch.testing.assert_close(equalized(7.0 * rotation), rotation, rtol=0, atol=1e-14)


def test_directions_of_pure_rounding_get_nothing():
    outer = normal(6, 1, seed=3) @ normal(1, 5, seed=4)
    found = torch.linalg.svdvals(equalized(outer))
    assert found[0].item() == pytest.approx(1.0, abs=1e-12)
    assert found[1:].max() < 1e-12


@pytest.mark.parametrize(
    "gradient", [torch.zeros(3, 2), torch.tensor([[1.0, math.nan]]), torch.tensor([[math.inf, 1.0]])]
)
def test_zero_and_non_finite_gradients_stay_as_they_are(gradient):
    torch.testing.assert_close(equalized(gradient), gradient, rtol=0, atol=0, equal_nan=True)


def test_vectors_and_unnamed_parameters_stay_and_filters_are_rows():
    chosen, other, bias = normal(4, 3, 2, 2), normal(3, 3), normal(5)
    weights = [torch.ones_like(g) for g in (chosen, other, bias)]
    grads = [g.clone() for g in (chosen, other, bias)]
    EqualizeSpectrum(parameters=[weights[0], weights[2]])(weights, grads)
    assert torch.equal(grads[1], other)
    assert torch.equal(grads[2], bias)
    torch.testing.assert_close(torch.linalg.svdvals(grads[0].flatten(1)), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    gradient = normal(6, 4, dtype=dtype)
    assert torch.equal(equalized(gradient), equalized(gradient.float()).to(dtype))


def test_a_sparse_gradient_is_refused():
    with pytest.raises(TypeError, match="dense gradients"):
        EqualizeSpectrum()([torch.ones(2, 2)], [torch.eye(2).to_sparse()])


@pytest.mark.parametrize("floor", [-0.1, 1.0])
def test_a_floor_out_of_range_is_refused(floor):
    with pytest.raises(ValueError, match=r"floor must lie in \[0, 1\)"):
        EqualizeSpectrum(floor=floor)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_step_of_sgd_moves_every_direction_by_the_rate(set_to_none):
    model = nn.Linear(4, 3, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    surgecollapse.transform_gradients(optimizer, [EqualizeSpectrum()])
    x = normal(8, 4, dtype=torch.float32)
    for _ in range(3):
        before = model.weight.detach().clone()
        optimizer.zero_grad(set_to_none=set_to_none)
        model(x).square().mean().backward()
        optimizer.step()
        moved = torch.linalg.svdvals((model.weight.detach() - before).double())
        torch.testing.assert_close(moved, torch.full_like(moved, 0.25), rtol=0, atol=1e-5)


def test_what_it_did_is_recorded_under_its_own_name():
    store, model = surgecollapse.MemoryRecorder(), nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surgecollapse.transform_gradients(optimizer, [EqualizeSpectrum()], recorders=[store], every=1)
    model.weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    optimizer.step()
    # ⟨G, UVᵀ⟩/(‖G‖‖UVᵀ‖) = (3 + 4)/(5·√2)
    assert {m.name: m.value for m in store.events} == {"spectrum/cosine": pytest.approx(7 / (5 * 2**0.5))}
