"""Soft thresholds against closed forms in float64, in every dtype, at zeros and at ties."""

from __future__ import annotations

import math

import pytest
import torch

from surgecollapse.functional import magnitude_restoring_scale, soft_threshold, soft_threshold_inverse

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EXPONENTS = [0, 1, 1.5, 2, 3, 8]


def weights(dtype, size=4001):
    return torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def by_definition(w: float, t: float, p: float) -> float:
    """In Python numbers: sign(w)·(|w|^p − t^p)₊^(1/p)."""
    if abs(w) <= t:
        return 0.0
    return math.copysign(abs(w) if p == 0 else (abs(w) ** p - t**p) ** (1 / p), w)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_closed_form_in_float64_rounded(dtype, p):
    w = weights(dtype)
    t = float(torch.tensor(0.7, dtype=dtype))
    found = soft_threshold(w, t, p)
    wanted = torch.tensor([by_definition(v, t, p) for v in w.double().tolist()], dtype=torch.float64)
    assert found.dtype == dtype
    # One rounding of the result; in float64 the oracle itself cancels: |w|^p − t^p loses w^p/(w^p − t^p) of eps.
    size = w.double().abs().clamp(min=t)
    lost = torch.ones_like(size) if p == 0 else size**p / (size**p - t**p).clamp(min=1e-300)
    bound = 8 * torch.finfo(dtype).eps * wanted.abs() + 64 * torch.finfo(torch.float64).eps * wanted.abs() * lost
    if dtype in (torch.float32, torch.float64):
        bound += 16 * torch.finfo(dtype).eps * wanted.abs()  # log1p, expm1 and the root
    assert bool(((found.double() - wanted).abs() <= bound).all())


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_are_exactly_the_weights_up_to_the_threshold(dtype, p):
    w = weights(dtype)
    t = w[7].abs()  # a weight lies on it
    found = soft_threshold(w, t, p)
    assert torch.equal(found == 0, w.abs() <= t)
    assert torch.equal(found.sign(), torch.where(w.abs() <= t, 0, w.sign()))


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_next_number_above_the_threshold_stays_open(dtype, p):
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[torch.finfo(dtype).bits // 8]
    t = torch.tensor(0.37, dtype=dtype)
    above = (t.view(bits) + 1).view(dtype).reshape(1)
    assert soft_threshold(t.reshape(1), t, p).item() == 0.0
    assert soft_threshold(above, t, p).item() > 0.0
    assert soft_threshold(-above, t, p).item() < 0.0


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zero_and_nothing_is_nan(dtype, p):
    w = torch.tensor([0.0, -0.0, 1.0, -1.0], dtype=dtype)
    for t in (0.0, 0.5, 2.0):
        found = soft_threshold(w, t, p)
        assert bool(found.isfinite().all())
        assert found[:2].tolist() == [0.0, 0.0]
    assert torch.equal(soft_threshold(w, 0.0, p), w)
    assert not soft_threshold(torch.zeros(3, dtype=dtype), 0.0, p).any()


@pytest.mark.parametrize("p", [1, 2, 3])
def test_one_threshold_for_each_row(p):
    w = weights(torch.float64, 12).view(3, 4)
    t = torch.tensor([[0.1], [0.5], [9.0]], dtype=torch.float64)
    rows = [soft_threshold(w[i], float(t[i]), p) for i in range(3)]
    assert torch.equal(soft_threshold(w, t, p), torch.stack(rows))


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_inverse_gives_the_open_weights_back(dtype, p):
    w, t = weights(dtype), 0.7
    found = soft_threshold_inverse(soft_threshold(w, t, p), t, p)
    opened = w.abs() > t
    near = 64 * torch.finfo(dtype).eps
    assert torch.allclose(found[opened], w[opened], rtol=near, atol=near * t)
    assert not found[~opened].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scale_restores_the_magnitude_of_the_open_weights(dtype):
    w = weights(dtype)
    v = soft_threshold(w, 0.7)
    scale = magnitude_restoring_scale(w, v)
    opened = v != 0
    wanted = w.double().abs()[opened].sum() / v.double().abs().sum()
    assert scale.dtype == torch.promote_types(dtype, torch.float32)
    assert float(scale) == pytest.approx(float(wanted), rel=len(w) * torch.finfo(scale.dtype).eps)


def test_the_scale_of_nothing_is_one():
    assert magnitude_restoring_scale(torch.ones(3), torch.zeros(3)).item() == 1.0
    assert magnitude_restoring_scale(torch.ones(3), torch.ones(3)).item() == 1.0


@pytest.mark.parametrize("p", [0.5, -1, float("nan"), float("inf")])
def test_other_exponents_are_refused(p):
    with pytest.raises(ValueError, match="p must be 0"):
        soft_threshold(torch.ones(1), 0.5, p)


def test_arguments_are_left_alone():
    w = weights(torch.float32)
    before = w.clone()
    for p in EXPONENTS:
        v = soft_threshold(w, 0.5, p)
        soft_threshold_inverse(v, 0.5, p).add_(1)
        magnitude_restoring_scale(w, v)
        v.add_(1)
    assert torch.equal(w, before)
