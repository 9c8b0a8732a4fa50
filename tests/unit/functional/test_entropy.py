"""Entropies against closed forms, SciPy and a float64 double loop."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from scipy import stats

from surgecollapse.functional import (
    ENTROPY,
    dead_units,
    histogram_entropy,
    on_off_entropy,
    predictive_entropy,
    sign_covariance_entropy,
    spectral_entropy,
    target_entropy,
    unit_energy_entropy,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rank_k(k, units, rows=128, seed=0, dtype=torch.float32):
    """Isotropic Gaussian data in a random subspace of dimension k."""
    basis = torch.linalg.qr(torch.randn(units, k, generator=generator(seed + 1), dtype=dtype))[0]
    return torch.randn(rows, k, generator=generator(seed), dtype=dtype) @ basis.T


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
SHAPES = pytest.mark.parametrize("shape", [(50, 12), (33, 5)])


def normal(shape, dtype):
    return torch.randn(*shape, generator=generator(), dtype=torch.float64).to(dtype)


def close(dtype):
    """Absolute error of an entropy in [0, 1]."""
    return 1e-6 if dtype == torch.float32 else 1e-12


def mean_over_seeds(make, seeds=20):
    return float(np.mean([sign_covariance_entropy(make(seed)).item() for seed in range(seeds)]))


def by_double_loop(x):
    """The definition, pair by pair, in float64."""
    x = x.double().numpy()
    differences = [x[2 * i] - x[2 * i + 1] for i in range(len(x) // 2)]
    directions = [u / np.linalg.norm(u) for u in differences if np.linalg.norm(u) > 0]
    squares = [(u @ v) ** 2 for i, u in enumerate(directions) for j, v in enumerate(directions) if i != j]
    return np.clip(-log(max(np.mean(squares), 1 / x.shape[1])) / log(x.shape[1]), 0, 1)


@DTYPES
@pytest.mark.parametrize(("rows", "units"), [(4, 2), (5, 3), (128, 7), (127, 64), (16, 300)])
def test_sign_covariance_entropy_is_its_definition(rows, units, dtype):
    x = torch.randn(rows, units, generator=generator(rows), dtype=dtype)
    x[0] = x[1]
    if rows > 5:
        x[2] = x[3]
    expected = by_double_loop(x) if rows > 5 else 0.0  # of two pairs one is left: a single direction
    assert sign_covariance_entropy(x).item() == pytest.approx(expected, abs=close(dtype))


@pytest.mark.parametrize("units", [32, 128, 512])
@pytest.mark.parametrize("k", [2, 4, 8, 16, 32])
def test_entropy_of_rank_k_data_is_ln_k_over_ln_d(k, units):
    assert sign_covariance_entropy(rank_k(k, units)).item() == pytest.approx(log(k) / log(units), abs=0.02)


@pytest.mark.parametrize("k", [4, 16])
def test_entropy_of_rank_k_data_is_unbiased_over_seeds(k):
    assert mean_over_seeds(lambda seed: rank_k(k, 128, seed=seed)) == pytest.approx(log(k) / log(128), abs=0.005)


def test_entropy_of_one_direction_is_zero():
    assert sign_covariance_entropy(rank_k(1, 64)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("k", [4, 16, 64])
def test_one_row_a_hundredfold_moves_entropy_by_less_than_a_fiftieth(k):
    x = rank_k(k, 128)
    louder = x.clone()
    louder[5] *= 100
    assert abs(sign_covariance_entropy(louder) - sign_covariance_entropy(x)).item() < 0.02


@pytest.mark.parametrize("k", [4, 16, 64])
def test_log_normal_row_norms_move_entropy_by_less_than_a_fiftieth(k):
    x = rank_k(k, 128)
    norms = torch.randn(128, 1, generator=generator(9)).exp()
    assert abs(sign_covariance_entropy(x * norms) - sign_covariance_entropy(x)).item() < 0.02


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_entropy_does_not_depend_on_scale(scale):
    x = rank_k(8, 64)
    assert sign_covariance_entropy(x * scale).item() == pytest.approx(sign_covariance_entropy(x).item(), abs=1e-5)


def test_entropy_does_not_depend_on_rotation_or_shift():
    x = torch.randn(128, 64, generator=generator()) * torch.linspace(0.1, 2, 64)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=generator(3)))[0]
    moved = x @ rotation + torch.randn(64, generator=generator(4))
    assert sign_covariance_entropy(moved).item() == pytest.approx(sign_covariance_entropy(x).item(), abs=1e-5)


@pytest.mark.parametrize("name", ["renyi2", "spectral", "histogram", "on_off"])
def test_entropy_of_constant_activations_is_zero(name):
    x = torch.randn(1, 16, generator=generator()).expand(32, 16) if name != "histogram" else torch.full((32, 16), 0.3)
    assert ENTROPY[name](x).item() == 0.0


def test_entropy_of_a_single_differing_pair_is_zero():
    x = torch.zeros(8, 4)
    x[0, 2] = 1.0
    assert sign_covariance_entropy(x).item() == 0.0


@DTYPES
@SHAPES
def test_spectral_entropy_is_that_of_the_covariance_eigenvalues(shape, dtype):
    x = normal(shape, dtype) * torch.linspace(0.1, 3, shape[1], dtype=dtype)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.double().numpy(), rowvar=False))
    assert spectral_entropy(x).item() == pytest.approx(stats.entropy(eigenvalues) / log(shape[1]), abs=close(dtype))


@DTYPES
@pytest.mark.parametrize("shape", [(50, 12), (80, 20)])
def test_unit_energy_entropy_matches_scipy_and_falls_when_units_die(shape, dtype):
    x, units = normal(shape, dtype), shape[1]
    expected = stats.entropy((x.double() ** 2).mean(0).numpy()) / log(units)
    assert unit_energy_entropy(x).item() == pytest.approx(expected, abs=close(dtype))
    x[:, units // 2 :] = 0
    assert unit_energy_entropy(x).item() == pytest.approx(log(units // 2) / log(units), abs=0.01)
    assert unit_energy_entropy(x * 0).item() == 0.0
    assert unit_energy_entropy(torch.full((2, 4), 1e30)).item() == pytest.approx(1.0)


@DTYPES
@pytest.mark.parametrize("shape", [(200, 9), (31, 4)])
def test_on_off_entropy_matches_scipy_and_its_threshold(shape, dtype):
    x = normal(shape, dtype) + torch.linspace(-2, 2, shape[1], dtype=dtype)
    for threshold in (0.0, 0.7):
        share = (x > threshold).double().mean(0).numpy()
        expected = np.mean([stats.entropy([p, 1 - p], base=2) for p in share])
        assert on_off_entropy(x, threshold).item() == pytest.approx(expected, abs=close(dtype))
    assert on_off_entropy(torch.tensor([[0.0], [1.0]])).item() == 1.0  # zero is off


@DTYPES
@SHAPES
def test_predictive_entropy_matches_scipy(shape, dtype):
    logits = normal(shape, dtype) * 3
    expected = np.mean([stats.entropy(row) for row in logits.double().softmax(1).numpy()]) / log(shape[1])
    assert predictive_entropy(logits).item() == pytest.approx(expected, abs=close(dtype))
    assert predictive_entropy(torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])).item() == pytest.approx(0.5)


@DTYPES
@pytest.mark.parametrize(("shape", "bins"), [((100, 10), 32), ((40, 6), 9)])
def test_histogram_entropy_matches_numpy(shape, bins, dtype):
    x = normal(shape, dtype)
    counts, _ = np.histogram(x.double().numpy(), bins=bins)
    assert histogram_entropy(x, bins).item() == pytest.approx(stats.entropy(counts) / log(bins), abs=close(dtype))


@DTYPES
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 1], [2, 2, 2], [3, 1, 1, 0, 0]])
def test_target_entropy_matches_scipy(labels, dtype):
    expected = stats.entropy(np.bincount(labels, minlength=4)) / log(4)
    assert target_entropy(torch.tensor(labels), 4).item() == pytest.approx(expected, abs=1e-6)
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), 4).to(dtype)
    assert target_entropy(one_hot).item() == pytest.approx(expected, abs=close(dtype))


def test_target_entropy_of_odd_labels():
    assert target_entropy(torch.tensor([[0, 1], [-100, -100]]), 2).item() == 1.0  # ignored positions
    assert target_entropy(torch.tensor([0, 1, 2, 2])).item() == pytest.approx(1.5 * log(2) / log(3))
    assert target_entropy(torch.tensor([0, 5]), 2).isnan()
    assert target_entropy(torch.tensor([], dtype=torch.long), 2).isnan()
    assert target_entropy(torch.tensor([], dtype=torch.long)).isnan()
    assert target_entropy(torch.tensor([0, 0])).isnan()
    with pytest.raises(ValueError, match=r"3 columns.*num_classes is 4"):
        target_entropy(torch.ones(2, 3), 4)


@DTYPES
@pytest.mark.parametrize("rows", [2, 10])
def test_dead_units_are_those_constant_over_the_rows(rows, dtype):
    x = normal((rows, 4), dtype)
    x[:, 1] = 0.0
    x[:, 2] = -3.0
    x[0, 3] = torch.nan
    assert dead_units(x).item() == 0.5


@pytest.mark.parametrize("name", ["renyi2", "unit_energy", "spectral", "predictive"])
def test_one_unit_has_no_entropy(name):
    assert ENTROPY[name](torch.randn(128, 1, generator=generator())).isnan()


def test_too_few_rows_have_no_entropy():
    assert sign_covariance_entropy(torch.randn(3, 8)).isnan()
    assert spectral_entropy(torch.randn(1, 8)).isnan()
    assert histogram_entropy(torch.empty(0, 8)).isnan()


@pytest.mark.parametrize("name", ENTROPY)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan_and_never_raises(name, bad):
    x = torch.randn(32, 8, generator=generator())
    x[3, 2] = bad
    plainly_on = name == "on_off" and bad == torch.inf
    assert ENTROPY[name](x).isnan() != plainly_on


@pytest.mark.parametrize("name", ENTROPY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64])
def test_every_form_computes_in_float32_at_least_and_leaves_its_input(name, dtype):
    x = (torch.randn(64, 8, generator=generator()) * 3).to(dtype)
    before = x.clone()
    value = ENTROPY[name](x)
    assert value.shape == ()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.item() == pytest.approx(ENTROPY[name](x.double()).item(), abs=1e-5)
    assert 0.0 <= value.item() <= 1.0
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ENTROPY)
def test_strides_do_not_matter(name):
    x = torch.randn(8, 64, generator=generator()).T
    assert not x.is_contiguous()
    assert ENTROPY[name](x).item() == pytest.approx(ENTROPY[name](x.contiguous()).item(), abs=1e-6)


@pytest.mark.parametrize("name", ENTROPY)
def test_no_form_waits_for_the_device(name):
    # A meta tensor has no values: whatever would read one back raises.
    assert ENTROPY[name](torch.empty(64, 8, device="meta")).shape == ()


def test_wrong_shapes_are_refused():
    for form in [*ENTROPY.values(), dead_units]:
        with pytest.raises(ValueError, match=r"\(rows, units\).*\(2, 3, 4\)"):
            form(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match="bins"):
        histogram_entropy(torch.ones(2, 2), bins=1)
