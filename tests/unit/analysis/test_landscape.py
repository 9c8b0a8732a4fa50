"""Loss landscapes: planted spectra, planted permutations, exact barriers and learning coefficients."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse.analysis.alignment import align, permute
from surgecollapse.analysis.local_learning_coefficient import (
    MIXED,
    LocalLearningCoefficient,
    _r_hat,
    local_learning_coefficient,
    reduced_rank_regression,
    sample_learning_coefficient,
)
from surgecollapse.analysis.mode_connectivity import CURVES, curved_path, linear_path
from surgecollapse.analysis.open_weights import open_weights
from surgecollapse.analysis.spectral_density import lanczos, spectral_density
from surgecollapse.analysis.surface import filter_direction, loss_surface
from surgecollapse.functional import Hessian, Restricted, batch_loss

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mlp(seed=0, width=8):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 3))


def cnn(seed=0, width=5):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 4, 6),
        nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip


@DTYPES
@pytest.mark.parametrize("size", [6, 9])
def test_lanczos_finds_a_planted_spectrum_and_its_weights(size, dtype):
    basis = torch.linalg.qr(normal(size, size)).Q
    planted = torch.arange(size, dtype=torch.float64) - 2
    start = normal(size, seed=1)
    matrix = (basis * planted @ basis.T).to(dtype)
    values, weights = lanczos(matrix, start.to(dtype), 20)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    assert torch.allclose(values, planted, atol=tolerance)
    assert torch.allclose(weights, (basis.T @ start).square() / start.square().sum(), atol=tolerance)


@DTYPES
@pytest.mark.parametrize(("n", "d"), [(1200, 300), (800, 400)])
def test_density_of_a_gram_matrix_is_marchenko_pastur(n, d, dtype):
    x = normal(n, d, seed=7, dtype=dtype)  # not the seed of the probes: they must not know the data
    found = spectral_density(x.T @ x / n, x[0], probes=8, steps=50)
    q = d / n
    low, high = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2
    assert found.largest == pytest.approx(high, rel=0.05)
    assert found.trace() == pytest.approx(d, rel=0.05)
    grid = np.linspace(low, high, 20001)
    law = np.sqrt(np.maximum((high - grid) * (grid - low), 0)) / (2 * np.pi * q * grid)
    for middle in (0.5, 1.0, 1.5):
        expected = np.trapezoid(np.where(grid <= middle, law, 0), grid)
        share = sum(w for v, w in zip(found.values, found.weights, strict=True) if v <= middle)
        # Weights of a random start on d eigenvectors: variance 2p(1 − p)/d; four standard errors of 8 probes.
        assert share == pytest.approx(expected, abs=4 * math.sqrt(2 * expected * (1 - expected) / d / 8))
    for scale in (0.1, 0.5, 2.0):
        dimension = d * np.trapezoid(law * grid / (grid + scale), grid)
        assert found.effective_dimension(scale) == pytest.approx(dimension, rel=0.05)
    json.dumps(found.to_dict())
    assert found.plot().axes


class Double(nn.Module):
    """Loss (w² − 1)² has two minima."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x):
        return (self.w.square().sum() - 1) ** 2 + 0 * x.sum()


def value_of(output, _targets):
    return output


@DTYPES
@pytest.mark.parametrize("weights", [2, 5])
def test_barrier_between_two_wells_is_exact(weights, dtype):
    nets = [Double([w] + [0.0] * (weights - 1)).to(dtype) for w in (-1.0, 1.0)]
    path = linear_path(*nets, value_of, torch.zeros(1, dtype=dtype), torch.zeros(1))
    assert path.barrier == pytest.approx(1.0, abs=1e-6)
    assert path.instability == pytest.approx(1.0, abs=1e-6)
    assert min(path.losses) >= 0


@DTYPES
@pytest.mark.parametrize("beside", [[], [0.0, 0.0]])
@pytest.mark.parametrize("kind", sorted(CURVES))
def test_a_curve_goes_round_the_barrier(kind, beside, dtype):
    nets = [Double([*w, *beside]).to(dtype) for w in ([-1.0, 0.0], [0.0, 1.0])]
    x = torch.zeros(4, 1, dtype=dtype)
    straight = linear_path(*nets, value_of, x, x)
    bent = curved_path(*nets, value_of, x, x, kind=kind, steps=80, lr=0.05)
    assert straight.barrier == pytest.approx(0.25, abs=1e-6)
    assert bent.barrier < 0.05
    assert nets[0].w.tolist() == [-1.0, 0.0, *beside]


def test_batch_norm_statistics_are_those_of_the_net_on_the_way():
    one, x = cnn(), normal(64, 1, 4, 4, dtype=torch.float32)
    two = cnn()
    one[1].running_mean += 50.0  # says nothing of the data: must not matter
    y = torch.arange(64) % 3
    path = linear_path(one, two, F.cross_entropy, x, y, points=3)
    assert path.losses[0] == pytest.approx(path.losses[1], rel=1e-5)
    assert one[1].running_mean[0] == 50.0


@DTYPES
@pytest.mark.parametrize(("make", "shape"), [(mlp, (20, 4)), (cnn, (20, 1, 4, 4))])
@pytest.mark.parametrize("width", [5, 8])
def test_planted_permutations_are_found(make, shape, width, dtype):
    net = make(width=width).to(dtype)
    hidden = [name for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][:-1]
    planted = {n: tuple(torch.randperm(len(net.get_submodule(n).weight)).tolist()) for n in hidden}
    other = permute(net, planted)
    found = align(net, other, normal(*shape, dtype=dtype))
    assert found.after == pytest.approx([1.0] * len(found.layers))
    back = permute(other, found.permutations)
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in net.state_dict().items())
    json.dumps(found.to_dict())
    assert found.plot().axes


def test_nets_that_are_no_chain_are_refused():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = x + self.a(x)
            return self.c(x + self.b(x))

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="no plain chain"):
        align(Residual(), Residual(), normal(8, 4, dtype=torch.float32))


@DTYPES
@pytest.mark.parametrize("width", [5, 8])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_surface_meets_the_net_and_is_filter_normalized(dimensions, width, dtype):
    net, x, y = mlp(width=width).to(dtype), normal(16, 4, dtype=dtype), torch.arange(16) % 3
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = loss_surface(net, F.cross_entropy, x, y, dimensions=dimensions, points=5)
    middle = found.losses[len(found.losses) // 2][2]
    assert middle == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-6)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert found.plot().axes


@DTYPES
@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (7, 2)])
def test_a_step_of_one_moves_each_filter_as_far_as_it_is_long(rows, columns, dtype):
    """Of a linear map the loss Σ‖w‖² rises by x²·Σ‖w‖² on the mean of both sides, whatever the directions are."""
    net = nn.Linear(columns, rows, bias=False).to(dtype)
    found = loss_surface(
        net, lambda out, _: out.square().sum(), torch.eye(columns, dtype=dtype), torch.zeros(columns),
        reach=1.5, points=5,
    )  # fmt: skip
    square, middle = net.weight.square().sum().item(), 2
    assert found.losses[middle][middle] == pytest.approx(square, rel=1e-5)
    for i, step in enumerate(found.steps):
        for one, other in (
            (found.losses[middle][i], found.losses[middle][-1 - i]),
            (found.losses[i][middle], found.losses[-1 - i][middle]),
        ):
            assert (one + other) / 2 == pytest.approx(square * (1 + step**2), rel=1e-5)


def test_the_surface_does_not_see_how_two_layers_share_their_scale():
    net, x, y = mlp(width=6).double(), normal(16, 4), torch.arange(16) % 3
    shared = copy.deepcopy(net)
    layers = [module for module in shared.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        layers[0].weight.mul_(8.0)
        layers[0].bias.mul_(8.0)
        layers[1].weight.div_(8.0)
    one, other = (loss_surface(m, F.cross_entropy, x, y, points=5).losses for m in (net, shared))
    assert np.array(one) == pytest.approx(np.array(other), rel=1e-9)


@DTYPES
@pytest.mark.parametrize("curvatures", [(1.0, 4.0), (0.5, 2.0, 8.0)])
def test_coefficient_of_a_quadratic_is_the_localized_closed_form(curvatures, dtype):
    n, copies, gamma = 1000, 300, 20.0
    h = torch.tensor(curvatures, dtype=dtype)
    found = sample_learning_coefficient(
        lambda w, _: (h * w["w"].square()).sum() / 2, {"w": torch.zeros(copies, len(h), dtype=dtype)}, n, 0.0,
        step_size=2e-4, localization=gamma, chains=2, draws=600, burn_in=150,
    )  # fmt: skip
    scaled = n / math.log(n) * np.array(curvatures)
    exact = 0.5 * (scaled / (scaled + gamma)).sum()  # T7; half the dimension where γ is small
    assert found.value / copies == pytest.approx(exact, rel=0.1)
    assert found.at_half_step / copies == pytest.approx(exact, rel=0.1)
    assert found.plot().axes


@pytest.mark.parametrize("powers", [(2, 2), (2, 4)])
def test_singular_coefficients_are_those_of_the_finite_integral(powers):
    n, copies, gamma = 1000, 2000, 1.0
    p, q = powers
    found = sample_learning_coefficient(
        lambda w, _: (w["w"][:, 0] ** p * w["w"][:, 1] ** q).sum(),
        {"w": normal(copies, 2) * 0.3}, n, 0.0, step_size=1e-3, localization=gamma, chains=1, draws=1500, burn_in=1500,
        check_step=False,
    )  # fmt: skip
    grid = np.linspace(-6, 6, 3001)
    cost = n / math.log(n) * np.outer(np.abs(grid) ** p, np.abs(grid) ** q)
    density = np.exp(-cost - gamma / 2 * (grid[:, None] ** 2 + grid**2))
    exact = (cost * density).sum() / density.sum()
    assert found.value / copies == pytest.approx(exact, rel=0.15)


def reduced_rank_integral(m, n, h, scale, gamma):
    """E[t·‖BA‖²/2] under exp(−t‖BA‖²/2 − γ(‖A‖² + ‖B‖²)/2): B integrated out, A by the eigenvalues of AAᵀ."""
    few, many = min(m, h), max(m, h)
    u = np.linspace(-45, np.log(80 / gamma), 600)
    lam = np.exp(u)
    weight = lam ** ((many - few + 1) / 2) * np.exp(-gamma * lam / 2) * (gamma + scale * lam) ** (-n / 2)
    cost = n / 2 * scale * lam / (gamma + scale * lam)
    if few == 1:
        return (weight * cost).sum() / weight.sum()
    both = np.outer(weight, weight) * np.abs(lam[:, None] - lam)
    return (both * (cost[:, None] + cost)).sum() / both.sum()


SHAPES = [(1, 1, 1), (2, 1, 1), (3, 1, 1), (2, 2, 1), (2, 2, 2), (3, 2, 2), (3, 3, 2), (2, 4, 2), (4, 2, 2), (3, 1, 2)]


@pytest.mark.parametrize(("m", "n", "h"), SHAPES)
def test_reduced_rank_regression_is_the_limit_of_its_integral(m, n, h):
    """Aoyagi and Watanabe's closed form, at all four of its cases, against quadrature that knows nothing of it."""
    value, multiplicity = reduced_rank_regression(m, n, h)
    scale = 1e12
    assert reduced_rank_integral(m, n, h, scale, 1.0) == pytest.approx(
        value - (multiplicity - 1) / math.log(scale), abs=0.01
    )


def test_what_the_truth_fixes_is_regular_and_the_rest_is_a_smaller_regression_of_nothing():
    for m, n, h, r in itertools.product(range(1, 6), range(1, 6), range(1, 6), range(1, 6)):
        if r < min(m, n, h):
            value, multiplicity = reduced_rank_regression(m, n, h, r)
            rest = reduced_rank_regression(m - r, n - r, h - r)
            assert (value, multiplicity) == (rest[0] + r * (m + n - r) / 2, rest[1])
        elif r == min(m, n, h) == h:
            assert reduced_rank_regression(m, n, h, r) == (r * (m + n - r) / 2, 1)  # matrices of rank r are smooth
    with pytest.raises(ValueError, match="rank 3"):
        reduced_rank_regression(2, 3, 4, rank=3)


@DTYPES
@pytest.mark.parametrize(("m", "n", "h"), [(2, 1, 1), (2, 2, 2), (3, 2, 2)])
def test_coefficient_of_reduced_rank_regression_is_that_of_the_finite_integral(m, n, h, dtype):
    """And well below half the number of weights, 1.5, 4 and 5."""
    samples, copies = 1000, 400
    found = sample_learning_coefficient(
        lambda w, _: torch.bmm(w["b"], w["a"]).square().sum() / 2,
        {"a": torch.zeros(copies, h, m, dtype=dtype), "b": torch.zeros(copies, n, h, dtype=dtype)}, samples, 0.0,
        step_size=1e-3, localization=10.0, chains=1, draws=1000, burn_in=1000,
    )  # fmt: skip
    exact = reduced_rank_integral(m, n, h, samples / math.log(samples), 10.0)
    assert (2 * found.at_half_step - found.value) / copies == pytest.approx(exact, rel=0.04)  # to a step of 0


def test_coefficient_of_a_linear_net_of_two_layers_is_that_of_the_finite_integral():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    x = torch.linalg.qr(normal(400, 2)).Q * 20  # XᵀX = 400, so that the loss is ‖BA‖²/2
    found = local_learning_coefficient(
        net, lambda o, t: (o - t).square().sum(1).mean() / 2, x, torch.zeros(400, 2, dtype=torch.float64),
        step_size=1.5e-3, localization=20.0, chains=4, draws=1000, burn_in=200, check_step=False,
    )  # fmt: skip
    exact = reduced_rank_integral(2, 2, 2, 400 / math.log(400), 20.0)
    assert found.value == pytest.approx(exact, abs=max(0.1, 3 * found.standard_error))


def test_coefficient_of_a_linear_net_is_half_its_weights_and_the_net_stays():
    net, x = nn.Linear(3, 1, bias=False).double(), normal(400, 3)
    with torch.no_grad():
        net.weight.zero_()
    found = local_learning_coefficient(
        net, lambda o, t: F.mse_loss(o, t) / 2, x, torch.zeros(400, 1, dtype=torch.float64),
        step_size=2e-3, localization=0.1, chains=4, draws=1500, burn_in=200, check_step=False,
    )  # fmt: skip
    assert found.value == pytest.approx(1.5, abs=max(0.25, 4 * found.standard_error))
    assert found.r_hat < 1.1
    assert not net.weight.any()


def chains_of(start, slope, *, chains=3, draws=64, noise=1.0):
    """Traces that begin at a common value and drift by ``slope`` a draw, with noise of their own."""
    time = torch.arange(draws, dtype=torch.float64)
    return start + slope * time + noise * normal(chains, draws, dtype=torch.float64)


@pytest.mark.parametrize("slope", [0.25, -0.25, 1.0])
def test_a_drift_that_all_chains_share_is_not_taken_for_mixing(slope):
    # Halves differ by slope·draws/2 in their means; whole chains would not differ at all.
    assert _r_hat(chains_of(5.0, slope)) > MIXED
    assert _r_hat(chains_of(5.0, 0.0)) < MIXED


def test_the_ratio_of_halves_is_that_of_the_textbook():
    kept = torch.tensor([[0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 1.0, 3.0]], dtype=torch.float64)
    # Halves (0, 2), (1, 3), (4, 6), (1, 3): variances 2, means 1, 2, 5, 2 of variance 3; √(1/2 + 3/2) = √2.
    assert _r_hat(kept) == pytest.approx(math.sqrt(2.0), rel=1e-12)


@pytest.mark.parametrize(("chains", "draws"), [(1, 100), (2, 1), (2, 3), (4, 2)])
def test_chains_that_cannot_show_mixing_are_no_result(chains, draws):
    found = sample_learning_coefficient(
        lambda w, _: w["w"].square().sum() / 2, {"w": torch.zeros(8)}, 1000, 0.0, chains=chains, draws=draws, burn_in=0
    )
    assert math.isnan(found.r_hat)
    assert ("single chain" if chains == 1 else "so few") in found.doubt


def test_chains_that_have_not_left_the_start_are_no_result_even_without_the_check_of_the_step():
    # Next to no curvature and no localization: nβ(L − L*) rises by the same amount in all chains, step by step.
    found = sample_learning_coefficient(
        lambda w, _: 1e-3 * w["w"].square().sum(), {"w": torch.zeros(2_000)}, 1000, 0.0, step_size=1e-4,
        localization=0.0, chains=3, draws=100, burn_in=0, check_step=False,
    )  # fmt: skip
    assert found.doubt.startswith("the chains have not mixed")


def test_a_step_that_is_too_long_is_named():
    with pytest.raises(ValueError, match="step_size"):
        sample_learning_coefficient(
            lambda w, _: w["w"].square().square().sum(), {"w": torch.ones(2)}, 1000, 0.0, step_size=1.0
        )


# nets that a mask holds


@pytest.mark.parametrize("open_count", [1, 3])
def test_coefficient_of_a_masked_quadratic_is_that_of_its_open_weights(open_count):
    n, copies, gamma, dtype = 1000, 600, 20.0, torch.float64
    h = torch.tensor([1.0, 4.0, 0.5, 2.0], dtype=dtype)
    mask = (torch.arange(4) < open_count).to(dtype).expand(copies, 4)
    seen = []

    def loss(w, _):
        seen.append(bool(w["w"][:, open_count:].any()))
        return (h * w["w"].square()).sum() / 2

    found = sample_learning_coefficient(
        loss, {"w": torch.zeros(copies, 4, dtype=dtype)}, n, 0.0, step_size=2e-4, localization=gamma, chains=2,
        draws=2400, burn_in=300, masks={"w": mask},
    )  # fmt: skip
    scaled = n / math.log(n) * h[:open_count].double().numpy()
    exact = 0.5 * (scaled / (scaled + gamma)).sum()
    assert (2 * found.at_half_step - found.value) / copies == pytest.approx(exact, rel=0.08)
    assert not any(seen)
    assert found.doubt == ""


def masked_line(dtype=torch.float64):
    net = nn.Linear(4, 1, bias=False).to(dtype)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0, -2.0, 0.0]]))
    return net, {"weight": torch.tensor([[True, False, True, False]])}


def test_coefficient_of_a_masked_linear_net_is_half_its_open_weights():
    net, masks = masked_line()
    x = normal(400, 4)
    found = local_learning_coefficient(
        net, lambda o, t: F.mse_loss(o, t) / 2, x, net(x).detach(), step_size=2e-3, localization=0.1, chains=4,
        draws=1500, burn_in=200, check_step=False, masks=masks,
    )  # fmt: skip
    assert found.value == pytest.approx(1.0, abs=max(0.2, 4 * found.standard_error))
    assert net.weight.tolist() == [[1.0, 0.0, -2.0, 0.0]]


@DTYPES
def test_the_surface_of_a_masked_net_keeps_its_zeros(dtype):
    net, masks = masked_line(dtype)
    found = loss_surface(
        net, lambda out, _: out.square().sum(), torch.eye(4, dtype=dtype)[[1, 3]], torch.zeros(2), points=5, masks=masks
    )
    assert all(loss == 0.0 for row in found.losses for loss in row)  # the inputs reach closed weights alone
    direction = filter_direction({"w": net.weight.detach()}, torch.Generator(), {"w": masks["weight"].to(dtype)})["w"]
    assert direction[0, [1, 3]].tolist() == [0.0, 0.0]
    assert direction.norm().item() == pytest.approx(math.sqrt(5.0))


@DTYPES
def test_curvature_of_a_masked_net_is_that_of_the_open_rows_and_columns(dtype):
    matrix = normal(6, 6, dtype=dtype)
    matrix = matrix + matrix.T
    kept = torch.tensor([True, False, True, True, False, True])
    live = Restricted(matrix, kept)
    found = spectral_density(live, torch.empty(live.size, dtype=dtype), probes=1, steps=10)
    exact = torch.linalg.eigvalsh(matrix[kept][:, kept].double())
    assert found.size == 4
    assert np.array(found.values) == pytest.approx(exact.numpy(), abs=1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(2, 2)}, r"of shape \(1, 4\), got \(2, 2\)"),
        ({"wieght": torch.ones(1, 4)}, "'wieght', which is no parameter: expected some of weight"),
    ],
)
def test_masks_that_fit_nothing_are_refused(change, message):
    net, _ = masked_line()
    with pytest.raises(ValueError, match=message):
        open_weights(net, change)


LANDSCAPES = {
    "llc": lambda net, x, y: local_learning_coefficient(net, loss_of, x, y, chains=1, draws=2, burn_in=0),
    "surface": lambda net, x, y: loss_surface(net, loss_of, x, y, points=3),
    "line": lambda net, x, y: linear_path(net, net, loss_of, x, y, points=2),
    "curve": lambda net, x, y: curved_path(net, net, loss_of, x, y, steps=1, points=2),
    "hessian": lambda net, x, y: Hessian(batch_loss(net, loss_of, x, y), dict(net.named_parameters())),
}


def loss_of(out, target):
    return (out - target).abs().square().mean()


@pytest.mark.parametrize("analysis", LANDSCAPES.values(), ids=LANDSCAPES)
def test_complex_weights_are_refused_where_the_analysis_is_for_real_ones(analysis):
    net = nn.Linear(3, 2, dtype=torch.complex64)
    x, y = torch.ones(4, 3, dtype=torch.complex64), torch.zeros(4, 2, dtype=torch.complex64)
    with pytest.raises(ValueError, match="complex64"):
        analysis(net, x, y)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", [name for name in LANDSCAPES if name != "hessian"])
def test_a_net_that_has_diverged_is_named_with_its_weights(name, value):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with torch.no_grad():
        net[1].weight[0, 0] = value
    with pytest.raises(ValueError, match=r"diverged: not finite are 1\.weight \(1 of 6\)"):
        LANDSCAPES[name](net, torch.ones(4, 3), torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({}, ""),
        ({"r_hat": 1.25}, "R̂ = 1.25, above 1.1"),
        ({"r_hat": math.inf}, "have not mixed"),
        ({"r_hat": math.nan}, "so few or equal draws"),
        ({"r_hat": math.nan, "by_chain": (5.0,)}, "a single chain"),
        ({"value": -3.0, "at_half_step": -3.0}, "not at a minimum"),
        ({"at_half_step": 3.0}, "half the step size gives 3"),
        ({"at_half_step": math.nan}, ""),
        ({"at_half_step": 5.1}, ""),
    ],
)
def test_an_estimate_whose_tests_fail_is_no_result(change, doubt):
    good = LocalLearningCoefficient(
        value=5.0, standard_error=0.1, by_chain=(4.9, 5.1), traces=((5.0,), (5.0,)), burn_in=0, at_half_step=4.9,
        r_hat=1.02, step_size=1e-4, localization=100.0,
    )  # fmt: skip
    found = dataclasses.replace(good, **change)
    assert found.to_dict()["doubt"] == found.doubt
    assert doubt in found.doubt
    assert bool(doubt) == bool(found.doubt)
    drawn = {line.get_label() for line in found.plot().axes[0].lines}
    assert any("estimate" in str(label) for label in drawn) == (not found.doubt)


@pytest.mark.parametrize("kind", sorted(CURVES))
def test_the_curve_between_masked_nets_keeps_what_both_hold_at_zero(kind, monkeypatch):
    masks = [
        {"weight": torch.tensor([[True, False, True, False]])},
        {"weight": torch.tensor([[False, False, True, True]])},
    ]
    nets = [nn.Linear(4, 1, bias=False).double() for _ in masks]
    with torch.no_grad():
        for net, mask in zip(nets, masks, strict=True):
            net.weight.copy_(torch.arange(1.0, 5.0).double() * mask["weight"])
    seen, x = [], normal(64, 4)
    whole = CURVES[kind]
    monkeypatch.setitem(
        CURVES, kind, lambda points, t: seen.append(points[1]["weight"].detach().clone()) or whole(points, t)
    )
    target = (x @ torch.ones(4, 1).double()).detach()
    for masked in (True, False):
        seen.clear()
        curved_path(*nets, F.mse_loss, x, target, kind=kind, steps=20, masks=tuple(masks) if masked else None)
        assert (seen[-1] != 0).tolist() == [[True, not masked, True, True]]
        assert not torch.equal(seen[0], seen[-1])
