"""Rank and dimension: closed forms, the order of the ranks, planted dimensions, and what the sample size does."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.spatial
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from surgecollapse.functional import (
    effective_rank,
    hessian_effective_dimension,
    levina_bickel,
    numerical_rank,
    participation_ratio,
    sample_participation_ratio,
    singular_values,
    spectral_rank,
    stable_rank,
    two_nn,
)

RANKS = (numerical_rank, effective_rank, spectral_rank, participation_ratio, stable_rank)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (3, 9), (9, 3)])
def test_equal_singular_values_give_the_same_rank_in_every_form(rows, columns, dtype):
    sigma = singular_values(3.5 * torch.eye(rows, columns, dtype=dtype))
    for rank in RANKS:
        assert rank(sigma).item() == pytest.approx(min(rows, columns), rel=1e-5), rank.__name__


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [(2.0, 1.0, 1.0), (7.0, 5.0, 0.5, 0.25, 0.125)])
def test_a_spectrum_by_hand(values, dtype):
    sigma, exact = torch.tensor(values, dtype=dtype), np.array(values)
    close = {"rel": 1e-6 if dtype == torch.float32 else 1e-12}
    shares, variances = exact / exact.sum(), exact**2 / (exact**2).sum()
    assert numerical_rank(sigma).item() == len(values)
    assert effective_rank(sigma).item() == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), **close)
    assert spectral_rank(sigma).item() == pytest.approx(math.exp(-(variances * np.log(variances)).sum()), **close)
    assert participation_ratio(sigma).item() == pytest.approx(1 / (variances**2).sum(), **close)
    assert stable_rank(sigma).item() == pytest.approx(1 / variances[0], **close)


@settings(max_examples=60)
@given(rows=st.integers(1, 8), columns=st.integers(1, 8), rank=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_ranks_are_in_order_and_ignore_scale(rows, columns, rank, seed):
    matrix = normal(rows, rank, seed=seed) @ normal(rank, columns, seed=seed + 1)
    sigma = singular_values(matrix)
    found = [measure(sigma).item() for measure in RANKS]
    assert all(larger >= smaller * (1 - 1e-9) for larger, smaller in itertools.pairwise(found)), found
    assert found[0] == np.linalg.matrix_rank(matrix.numpy())
    assert participation_ratio(sigma).item() <= stable_rank(sigma).item() ** 2 * (1 + 1e-9)
    for scale in (1e-30, 1e30):
        assert [measure(scale * sigma).item() for measure in RANKS] == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("sigma", [torch.zeros(0), torch.zeros(3)])
def test_nothing_has_rank_zero(sigma):
    assert [rank(sigma).item() for rank in RANKS] == [0.0] * 5


def test_what_is_not_finite_is_nan():
    sigma = singular_values(torch.tensor([[1.0, math.inf], [0.0, 1.0]]))
    assert all(rank(sigma).isnan() for rank in RANKS)
    assert sample_participation_ratio(torch.tensor([[1.0], [math.nan], [0.0]])).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 4), (5, 30)])
def test_singular_values_are_numpys(shape, dtype):
    matrix = normal(*shape, dtype=dtype)
    oracle = torch.from_numpy(np.linalg.svd(matrix.double().numpy(), compute_uv=False))
    assert_close(singular_values(matrix), oracle.to(dtype))
    with pytest.raises(ValueError, match="flatten"):
        singular_values(torch.zeros(2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sample_participation_ratio_is_that_of_the_centered_spectrum(dtype):
    for rows, units in ((20, 7), (7, 20)):
        x = normal(rows, units, dtype=dtype) + 5
        whole = participation_ratio(singular_values(x - x.mean(0)))
        assert_close(sample_participation_ratio(x, debiased=False), whole, rtol=1e-4, atol=0)


def test_the_correction_recovers_isotropic_noise_from_few_rows():
    # FACTS: 512 independent units, 64 rows: 56 as it stands, about 507 corrected.
    naive, corrected = [], []
    for seed in range(8):
        x = normal(64, 512, seed=seed)
        naive.append(sample_participation_ratio(x, debiased=False).item())
        corrected.append(1 / sample_participation_ratio(x).item())
    assert np.mean(naive) == pytest.approx(56.2, abs=0.6)
    assert 1 / np.mean(corrected) == pytest.approx(512, rel=0.06)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [50, 200, 800])
def test_the_corrected_ratio_does_not_depend_on_the_sample_size(rows, dtype):
    scales = torch.linspace(1, 3, 60, dtype=torch.float64)
    true = scales.square().sum() ** 2 / (scales**4).sum()
    draws = [(normal(rows, 60, seed=seed) * scales).to(dtype) for seed in range(12)]
    inverse = [1 / sample_participation_ratio(x).item() for x in draws]
    assert 1 / np.mean(inverse) == pytest.approx(true.item(), rel=0.05)


@pytest.mark.parametrize("dimension", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_dimensions_are_found(dimension, dtype):
    g = torch.Generator().manual_seed(dimension)
    cube = torch.rand(1500, dimension, generator=g, dtype=torch.float64)
    points = (torch.cat([cube, cube.sin()], 1) @ normal(2 * dimension, 11, seed=3)).to(dtype)
    # Standard error of d over 1,350 ratios: d/√1350 = 2.7%. Edges bias both downwards: more with more neighbors.
    assert two_nn(points).item() == pytest.approx(dimension, rel=0.12)
    assert levina_bickel(points, 4).item() == pytest.approx(dimension, rel=0.12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(60, 3), (150, 40)])
def test_dimensions_are_their_formulas_on_the_distances_of_a_tree(shape, dtype):
    x = normal(*shape, dtype=dtype)
    distances = scipy.spatial.cKDTree(x.double().numpy()).query(x.double().numpy(), 8)[0][:, 1:]
    logs = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    used = round(0.9 * len(x))
    rel = 1e-6 if dtype == torch.float32 else 1e-10
    expected = used / (logs[:used].sum() + (len(x) - used) * logs[used - 1])
    assert two_nn(x).item() == pytest.approx(expected, rel=rel)
    inverse = np.log(distances[:, 6:] / distances[:, :6]).mean()
    assert levina_bickel(x, 7).item() == pytest.approx(1 / inverse, rel=rel)
    assert two_nn(x).dtype == levina_bickel(x, 7).dtype == dtype


def test_a_sphere_has_one_dimension_less():
    x = normal(2000, 4)
    assert two_nn(x / x.norm(dim=1, keepdim=True)).item() == pytest.approx(3, rel=0.1)


def test_copies_and_too_few_points():
    x = normal(300, 2)
    assert_close(two_nn(torch.cat([x, x])), two_nn(x))
    assert two_nn(torch.zeros(5, 2)).isnan()
    assert levina_bickel(normal(5, 2)).isnan()
    assert two_nn(torch.full((5, 2), math.nan)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("values", "scale", "expected"), [((3, 1, 0, -2), 1.0, 0.75 + 0.5), ((8, 0.5), 2.0, 0.8 + 0.2)]
)
def test_hessian_effective_dimension_by_hand(values, scale, expected, dtype):
    eigenvalues = torch.tensor(values, dtype=dtype)
    assert hessian_effective_dimension(eigenvalues, scale).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="scale must be above 0"):
        hessian_effective_dimension(eigenvalues, 0.0)
