"""Similarity, neural collapse, heavy tails, concentration and information against planted truths and other oracles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from surgecollapse.functional import (
    discretize,
    gini,
    inverse_participation_ratio,
    linear_cka,
    marchenko_pastur_bulk,
    neural_collapse,
    power_law,
    symbol_entropy,
    symbol_mutual_information,
    unbiased_hsic,
)

DTYPES = [torch.float32, torch.float64]
BOTH = pytest.mark.parametrize("dtype", DTYPES)
SIMILARITIES = {
    "cka": linear_cka,
    "biased cka": lambda x, y: linear_cka(x, y, debiased=False),
}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(size, seed=0):
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


def close(dtype):
    """Relative error of a short sum in a dtype."""
    return 1e-5 if dtype == torch.float32 else 1e-9


def uniform(count, seed=0):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# similarity


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("n", "p"), [(40, 6), (12, 30)])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_rotated_shifted_and_scaled_representation_is_the_same(name, n, p, dtype):
    x = normal(n, p)
    y = 0.01 * x @ rotation(p, seed=1) + normal(p, seed=2)
    found = SIMILARITIES[name](x.to(dtype), y.to(dtype))
    assert found.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    if dtype != torch.bfloat16:
        assert found.item() == pytest.approx(1.0, abs=1e-5)


@settings(max_examples=40)
@given(n=st.integers(6, 20), p=st.integers(1, 12), q=st.integers(1, 12), seed=st.integers(0, 99))
def test_similarities_are_symmetric_and_blind_to_rotation_shift_and_scale(n, p, q, seed):
    x, y = normal(n, p, seed=seed), normal(n, q, seed=seed + 1)
    moved = 7.0 * x @ rotation(p, seed=seed) + normal(p, seed=seed + 3)
    for name, similarity in SIMILARITIES.items():
        value = similarity(x, y).item()
        if math.isnan(value):  # debiased HSIC of a handful of samples may come out negative: no similarity then
            assert name == "cka"
            continue
        assert similarity(y, x).item() == pytest.approx(value, abs=1e-9), name
        assert similarity(moved, y).item() == pytest.approx(value, abs=1e-8), name
        if name != "cka":
            assert -1e-9 <= value <= 1 + 1e-9, name


@BOTH
@pytest.mark.parametrize("n", [4, 6])
def test_unbiased_hsic_is_the_mean_over_quadruples(n, dtype):
    x, y = normal(n, 3), normal(n, 2, seed=1)
    k, l = x @ x.T, y @ y.T
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(n), 4)]
    found = unbiased_hsic(k.to(dtype), l.to(dtype)).item()
    assert found == pytest.approx(torch.stack(terms).mean().item(), rel=close(dtype), abs=close(dtype))


@BOTH
@pytest.mark.parametrize("shape", [(20, 200), (15, 150)])
def test_debiasing_takes_away_the_similarity_of_unrelated_wide_representations(shape, dtype):
    pairs = [[normal(*shape, seed=2 * s + side, dtype=dtype) for side in (0, 1)] for s in range(40)]
    biased = np.mean([linear_cka(x, y, debiased=False).item() for x, y in pairs])
    debiased = np.mean([linear_cka(x, y).item() for x, y in pairs])
    assert biased > 0.8
    assert abs(debiased) < 0.02


@BOTH
@pytest.mark.parametrize("shape", [(30, 3), (10, 50)])
def test_biased_cka_is_the_cosine_of_centered_gram_matrices(shape, dtype):
    x, y = normal(*shape), normal(*shape, seed=1) + normal(*shape)
    h = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    k, l = (h @ (z @ z.T) @ h for z in (x, y))
    expected = ((k * l).sum() / (k.norm() * l.norm())).to(dtype)
    assert_close(linear_cka(x.to(dtype), y.to(dtype), debiased=False), expected)


def test_a_constant_representation_is_like_nothing():
    for similarity in SIMILARITIES.values():
        assert similarity(torch.full((8, 3), 0.1), normal(8, 2)).isnan()
        assert similarity(normal(8, 2), torch.full((8, 3), torch.nan, dtype=torch.float64)).isnan()


def test_similarity_refuses_what_are_not_the_same_samples():
    with pytest.raises(ValueError, match="the same n ≥ 4 samples"):
        linear_cka(normal(8, 2), normal(9, 2))


# neural collapse


def simplex(classes, dimensions, seed=0, dtype=torch.float64):
    corners = torch.eye(classes, dtype=torch.float64) - 1 / classes
    turn = torch.linalg.qr(normal(dimensions, classes, seed=seed))[0]
    return (corners @ turn.T).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("classes", "dimensions"), [(3, 3), (4, 10), (10, 64)])
def test_an_exact_simplex_is_collapsed(classes, dimensions, dtype):
    corners = simplex(classes, dimensions, dtype=dtype)
    labels = torch.arange(classes).repeat(5)
    found = neural_collapse(corners[labels] + 3, labels, weight=0.1 * corners, predictions=labels)
    assert all(value.dtype == dtype for value in found)
    assert [value.item() for value in found] == pytest.approx([0.0] * 5, abs=1e-5)


@BOTH
@pytest.mark.parametrize(("classes", "spread"), [(4, 0.1), (7, 0.3)])
def test_scatter_within_over_between_by_hand(classes, spread, dtype):
    dimensions, each = 20, 4_000
    labels = torch.arange(classes).repeat(each)
    x = simplex(classes, dimensions)[labels] + spread * normal(len(labels), dimensions)
    # Σ_B = (I − 11ᵀ/C)/C in the plane of the corners, so that tr(Σ_W Σ_B⁺)/C = s²·(C − 1)·C/C.
    expected = spread**2 * (classes - 1)
    assert neural_collapse(x.to(dtype), labels).within.item() == pytest.approx(expected, rel=0.03)
    sigma_w, sigma_b = spread**2 * np.eye(dimensions), np.cov(simplex(classes, dimensions).T.numpy(), bias=True)
    assert np.trace(sigma_w @ np.linalg.pinv(sigma_b, rcond=1e-10)) / classes == pytest.approx(expected)


@BOTH
@pytest.mark.parametrize("classes", [3, 6])
def test_orthogonal_classes_are_not_at_the_largest_angles_to_each_other(classes, dtype):
    means = torch.diag(torch.arange(1, classes + 1, dtype=dtype))
    weight = -simplex(classes, classes, dtype=dtype)
    found = neural_collapse(means.repeat(2, 1), torch.arange(classes).repeat(2), weight=weight)
    centered = (means - means.mean(0)).double().numpy()
    norms = np.linalg.norm(centered, axis=1)
    cosines = (centered @ centered.T / np.outer(norms, norms))[~np.eye(classes, dtype=bool)]
    assert found.norms.item() == pytest.approx(norms.std() / norms.mean(), rel=close(dtype))
    assert found.angles.item() == pytest.approx(np.abs(cosines + 1 / (classes - 1)).mean(), rel=close(dtype))
    rows = weight.double().numpy()
    apart = rows / np.linalg.norm(rows) - centered / np.linalg.norm(centered)
    assert found.duality.item() == pytest.approx((apart**2).sum(), rel=close(dtype))
    assert found.disagreement.isnan()


@BOTH
@pytest.mark.parametrize("dimensions", [3, 5])
def test_opposite_classifiers_have_duality_four_and_disagreement_counts(dimensions, dtype):
    corners, labels = simplex(3, dimensions, dtype=dtype), torch.tensor([0, 1, 2, 0])
    found = neural_collapse(corners[labels], labels, weight=-corners, predictions=torch.tensor([0, 1, 1, 0]))
    assert found.duality.item() == pytest.approx(4.0)
    assert found.disagreement.item() == pytest.approx(0.25)


def test_neural_collapse_refuses_one_class():
    with pytest.raises(ValueError, match="two at least"):
        neural_collapse(normal(4, 3), torch.zeros(4, dtype=torch.int64))


# heavy tails


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("alpha", "count"), [(2.0, 2_000), (3.5, 3_000)])
def test_the_exponent_of_a_planted_pareto_tail_is_found(alpha, count, dtype):
    tail = 5.0 * (1 - uniform(count)) ** (-1 / (alpha - 1))
    body = 5.0 * uniform(count // 2, seed=1)
    found = power_law(torch.cat([body, tail]).to(dtype))
    assert found.alpha == pytest.approx(alpha, abs=4 * (alpha - 1) / math.sqrt(found.tail))
    assert 4.0 < found.xmin < 9.0
    assert found.distance < 1.5 / math.sqrt(found.tail)


@BOTH
@pytest.mark.parametrize("count", [120, 300])
def test_the_fit_is_scipys_at_its_threshold(count, dtype):
    values = ((1 - uniform(count)) ** (-1 / 1.7)).to(dtype)
    found = power_law(values)
    tail = values.double()[values.double() >= found.xmin * (1 - 1e-12)].numpy()
    shape, _, _ = scipy.stats.pareto.fit(tail, floc=0, fscale=found.xmin)
    assert found.alpha == pytest.approx(1 + shape)
    assert found.distance == pytest.approx(scipy.stats.kstest(tail, "pareto", args=(shape, 0, found.xmin)).statistic)


def test_an_exponential_tail_is_said_to_be_none():
    found = power_law(-uniform(3_000).log())
    assert found.alpha > 4 or found.distance > 1 / math.sqrt(found.tail)


@pytest.mark.parametrize("values", [torch.zeros(50), torch.ones(50), torch.ones(3), torch.full((50,), math.inf)])
def test_what_has_no_tail_has_no_exponent(values):
    assert math.isnan(power_law(values).alpha)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns", "spikes"), [(150, 400, 3), (300, 100, 0)])
def test_planted_spikes_stand_above_the_random_bulk(rows, columns, spikes, dtype):
    noise = 0.2 * normal(rows, columns)
    planted = normal(rows, spikes, seed=1) @ normal(spikes, columns, seed=2)
    bulk = marchenko_pastur_bulk((noise + planted).to(dtype))
    assert bulk.spikes == spikes
    assert bulk.variance == pytest.approx(0.04, rel=0.05)
    ratio = min(rows, columns) / max(rows, columns)
    assert bulk.edge == pytest.approx(bulk.variance * (1 + math.sqrt(ratio)) ** 2)  # the edge of Marchenko and Pastur


def low_rank(rows, columns, rank, dtype):
    return normal(rows, rank).to(dtype) @ normal(rank, columns, seed=1).to(dtype)


def dead_rows(rows, columns, dead, seed=0):
    matrix = normal(rows, columns, seed=seed)
    matrix[normal(rows, seed=seed + 1).argsort()[:dead]] = 0.0
    return matrix


def thin(rows, columns, density, seed=0):
    return normal(rows, columns, seed=seed) * (uniform(rows * columns, seed=seed + 9).view(rows, columns) < density)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 64), (32, 200)])
def test_rounding_is_no_spike_over_nothing(shape, dtype):
    found = marchenko_pastur_bulk(torch.outer(normal(shape[0]), normal(shape[1], seed=1)).to(dtype))
    assert (found.variance, found.edge, found.spikes) == (0.0, 0.0, 1)
    for rank in (2, 5):
        assert marchenko_pastur_bulk(low_rank(*shape, rank, dtype)).spikes <= rank


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "matrix",
    [
        dead_rows(64, 64, 40),
        dead_rows(64, 64, 40).T,
        dead_rows(100, 300, 90),
        dead_rows(64, 64, 40) + 1e-30,
        thin(256, 256, 0.01),
        thin(64, 300, 0.02),
        thin(256, 128, 0.1),
        torch.eye(50),
    ],
    ids=["dead rows", "dead columns", "most rows dead", "rows that faded", "1% dense", "2% dense", "10% dense", "eye"],
)
def test_noise_with_zeros_has_no_spikes(matrix, dtype):
    found = marchenko_pastur_bulk(matrix.to(dtype))
    assert found.spikes == 0
    live = matrix[matrix.abs() > 1e-20].square().mean().item()
    assert found.variance == pytest.approx(live, rel=4 * max(torch.finfo(dtype).eps, 1e-3))


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_spikes_of_a_sparse_matrix_are_found(density):
    mask = uniform(600 * 800, seed=9).view(600, 800) < density
    signs = normal(600, 2).sign() @ normal(2, 800, seed=1).sign()
    assert marchenko_pastur_bulk(mask * (normal(600, 800) + signs)).spikes == 2


def test_complex_matrices_have_the_spectrum_of_both_parts():
    noise = torch.complex(normal(100, 200), normal(100, 200, seed=1)) / 2**0.5
    spike = torch.outer(normal(100, seed=2), normal(200, seed=3)) * 1j
    found = marchenko_pastur_bulk(noise + spike)
    assert found.spikes == 1
    assert found.variance == pytest.approx(1.0, rel=0.05)
    # A complex matrix that is real but for its type is that real one.
    assert marchenko_pastur_bulk(noise.real.to(torch.complex128)) == pytest.approx(marchenko_pastur_bulk(noise.real))


@pytest.mark.parametrize("measure", [power_law, lambda x: neural_collapse(x, torch.arange(6) % 2)])
def test_what_is_defined_for_real_values_refuses_complex_ones(measure):
    with pytest.raises(ValueError, match=r"expected real (values|features), got torch\.complex"):
        measure(torch.complex(normal(6, 5), normal(6, 5, seed=1)))


@pytest.mark.parametrize("where", ["features", "weight"])
def test_collapse_of_what_is_not_finite_is_nan(where):
    parts = {"features": normal(6, 5), "weight": normal(2, 5)}
    parts[where][0, 0] = math.inf
    found = neural_collapse(parts["features"], torch.arange(6) % 2, weight=parts["weight"])
    assert all(math.isnan(value) for value in found)


@pytest.mark.parametrize(
    ("fit", "doubted"),
    [
        (power_law((1 - uniform(500)) ** (-1 / 1.5)), False),
        (power_law((1 - uniform(60)) ** (-1 / 2.5)), False),
        (
            power_law(torch.cat([torch.full((500,), 1.0), torch.full((500,), 2.0)]) + 1e-6 * uniform(1_000), least=400),
            True,
        ),
        (power_law(torch.ones(3)), True),
    ],
    ids=["tail", "short tail", "two lumps", "nothing"],
)
def test_an_exponent_is_doubted_where_the_tail_fails_its_test(fit, doubted):
    assert bool(fit.doubt) == doubted
    assert bool(fit.doubt) == (not fit.distance <= (fit.tail or 1) ** -0.5)


def test_nothing_has_no_bulk():
    assert marchenko_pastur_bulk(torch.zeros(5, 4)) == (0.0, 0.0, 0)


# concentration


@BOTH
@settings(max_examples=60)
@given(n=st.integers(1, 30), seed=st.integers(0, 999), scale=st.sampled_from([1e-20, 1.0, 1e25]))
def test_concentration_is_between_its_bounds_and_without_scale(dtype, n, seed, scale):
    x, error = normal(n, seed=seed), close(dtype)
    ipr = inverse_participation_ratio((scale * x).to(dtype)).item()
    spread = gini((scale * x.abs()).to(dtype)).item()
    assert 1 / n * (1 - error) <= ipr <= 1 + error
    assert -error <= spread <= 1 - 1 / n + error
    differences = (x.abs()[:, None] - x.abs()[None, :]).abs().mean() / (2 * x.abs().mean())
    assert spread == pytest.approx(differences.item(), abs=error)
    assert ipr == pytest.approx((x**4).sum().item() / (x**2).sum().item() ** 2, rel=error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(3_000,), (2, 70_000)])
def test_concentration_of_many_values_is_that_in_float64(shape, dtype):
    x = normal(*shape, dtype=dtype).abs()
    for measure in (gini, inverse_participation_ratio):
        assert measure(x).dtype == torch.float32
        assert_close(measure(x).double(), measure(x.double()), rtol=1e-4, atol=0)


def test_concentration_of_nothing_is_unknown():
    assert inverse_participation_ratio(torch.zeros(3)).isnan()
    assert gini(torch.zeros(3)).isnan()
    assert gini(torch.tensor([1.0, -1.0])).isnan()


# information


@BOTH
@pytest.mark.parametrize("count", [4_000, 6_000])
def test_binned_information_of_gaussians_nears_the_truth_and_miller_madow_helps(count, dtype):
    x, noise = normal(count, 1), normal(count, 1, seed=1)
    y = 0.8 * x + 0.6 * noise
    a, b = (discretize(z.to(dtype), 24, low=-3, high=3) for z in (x, y))
    truth = -0.5 * math.log(0.36)
    plain, corrected = (symbol_mutual_information(a, b, correct=c).item() for c in (False, True))
    assert abs(corrected - truth) < abs(plain - truth)
    assert corrected == pytest.approx(truth, abs=0.04)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16])
@pytest.mark.parametrize(("symbols", "samples"), [(50, 100), (20, 60)])
def test_miller_madow_takes_the_bias_of_the_plug_in_entropy_away(symbols, samples, dtype):
    draws = torch.randint(symbols, (200, samples), generator=torch.Generator().manual_seed(0)).to(dtype)
    plain = [symbol_entropy(row, correct=False).item() for row in draws]
    counts = [np.bincount(row.numpy()) for row in draws]
    assert plain == pytest.approx([scipy.stats.entropy(count) for count in counts])
    corrected = np.mean([symbol_entropy(row).item() for row in draws])
    assert abs(corrected - math.log(symbols)) < 0.35 * abs(np.mean(plain) - math.log(symbols))


@BOTH
@pytest.mark.parametrize(("n", "units"), [(64, 10), (40, 25)])
def test_plug_in_information_of_different_rows_saturates_at_ln_n(n, units, dtype):
    rows = discretize(normal(n, units, dtype=dtype), 30)
    found = symbol_mutual_information(rows, torch.arange(n), correct=False)
    assert found.item() == pytest.approx(math.log(n))


def test_inputs_are_left_alone():
    x, y = normal(12, 3), normal(12, 3, seed=1)
    copies = x.clone(), y.clone()
    labels = torch.arange(3).repeat(4)
    for similarity in SIMILARITIES.values():
        similarity(x, y)
    neural_collapse(x, labels), power_law(x.abs())
    discretize(x), inverse_participation_ratio(x), gini(x), marchenko_pastur_bulk(x)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
