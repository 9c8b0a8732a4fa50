"""OrthoGrad and the final clip: closed forms, a float64 oracle, and what is left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import surgecollapse
from rounding import any_order, unit
from surgecollapse import ClipNorm, OrthoGrad
from surgecollapse.functional import gram, inner_product, orthogonal_gradient
from surgecollapse.functional import projections as projections_module
from surgecollapse.functional.projections import relative_floor

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both_forms = pytest.mark.parametrize("rescale", [True, False], ids=["rescaled", "eq. 12"])


@pytest.fixture
def path(request, monkeypatch):
    """Let CPU gradients take the path on which the host waits for nothing."""
    if request.param == "device":
        monkeypatch.setattr(OrthoGrad, "_waits_for", staticmethod(lambda device: False))


both_paths = pytest.mark.parametrize("path", ["host", "device"], indirect=True)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def oracle(weight, gradient, rescale):
    """The definition in float64, with fsum for the sums."""
    w, g = weight.double().flatten().tolist(), gradient.double().flatten().tolist()
    along = math.fsum(a * b for a, b in zip(w, g, strict=True)) / math.fsum(a * a for a in w)
    rest = [b - along * a for a, b in zip(w, g, strict=True)]
    factor = math.hypot(*g) / math.hypot(*rest) if rescale else 1.0
    return torch.tensor([factor * value for value in rest], dtype=torch.float64).reshape(weight.shape)


def error_of_the_rest(size, dtype):
    """Largest error of g⊥ before rescaling, relative to ‖g‖, to first order.

    w·g and w·w are float64 sums of ``size`` terms in any order: the error of a is 2γ‖g‖/‖w‖. Rounding a, a·w and the
    difference adds 3u. Half precision is computed in float32, with one more rounding at the end.
    """
    steps = 3 * unit(dtype) if dtype in (torch.float32, torch.float64) else 3 * unit(torch.float32) + unit(dtype)
    return 2 * any_order(size, torch.float64) + steps


def project(weight, gradient, **options):
    result = gradient.clone(memory_format=torch.preserve_format)
    OrthoGrad(**options)([weight], [result])
    return result


@both_paths
def test_in_the_plane_it_is_the_closed_form(path):
    for angle in (0.3, 1.0, 2.0, 3.0, 5.0):
        weight = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
        gradient = 3 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        plain = torch.tensor([[0.0, 3 * math.sin(angle)]], dtype=torch.float64)
        assert torch.allclose(project(weight, gradient, rescale=False), plain, atol=1e-14)
        full = torch.tensor([[0.0, math.copysign(3.0, math.sin(angle))]], dtype=torch.float64)
        assert torch.allclose(project(weight, gradient), full, atol=1e-14)


@both_paths
@both_forms
@every_dtype
@pytest.mark.parametrize("shape", [(7, 5), (1, 9), (300, 400), (4, 3, 3, 3)], ids=str)
def test_it_is_the_definition_in_float64_to_rounding(shape, dtype, rescale, path):
    weight, gradient = normal(*shape, seed=1, dtype=dtype), normal(*shape, seed=2, dtype=dtype)
    found, wanted = project(weight, gradient, rescale=rescale), oracle(weight, gradient, rescale)
    assert found.dtype == dtype
    # An entry of a·w is at most ‖g‖/‖w‖·|w|. The factor 1/share carries the errors of g·g − (w·g)²/(w·w): 3γ/share².
    w, g = weight.double(), gradient.double()
    share = (oracle(weight, gradient, False).norm() / g.norm()).item()
    largest = max((w.abs().max() * g.norm() / w.norm()).item(), g.abs().max().item())
    bound = (error_of_the_rest(w.numel(), dtype) + 3 * any_order(w.numel(), torch.float64) / share**2) * largest / share
    rounding = {"rtol": 2 * unit(dtype), "atol": bound}
    assert torch.allclose(found.double(), wanted, **rounding)
    pure = orthogonal_gradient(weight, gradient, rescale=rescale)
    assert pure.dtype == dtype
    assert torch.allclose(pure.double(), wanted, **rounding)


@both_paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 1e-3])
def test_orthogonal_to_the_weight_and_as_long_as_the_gradient(share, dtype, path):
    weight, other = normal(200, 100, seed=3, dtype=dtype), normal(200, 100, seed=4, dtype=dtype)
    gradient = -weight + share * other  # mostly along the weight, as once the data is fitted
    left = (oracle(weight, gradient, False).norm() / gradient.double().norm()).item()
    # Relative to ‖g⊥‖ the errors grow by ‖g‖/‖g⊥‖; measuring adds γ to each inner product.
    measuring = any_order(weight.numel(), torch.float64)
    bound = error_of_the_rest(weight.numel(), dtype) / left
    for rescale in (True, False):
        found = project(weight, gradient, rescale=rescale)
        both, energy, power = gram(weight, found).tolist()
        assert abs(both) <= (bound + unit(dtype) + measuring) * math.sqrt(energy * power)
        if rescale:
            # In float32 the norm of what is left is that of g·g − (w·g)²/(w·w), whose terms cancel: 3γ/left².
            length = bound + 3 * measuring / (left**2 if dtype == torch.float32 else left) + 2 * unit(dtype)
            assert math.sqrt(power) == pytest.approx(math.sqrt(gram(gradient, gradient)[0].item()), rel=length)


@both_paths
@every_dtype
def test_a_parallel_gradient_is_not_replaced_by_rounding(dtype, path):
    weight = normal(64, 64, seed=5, dtype=dtype)
    rest = error_of_the_rest(weight.numel(), dtype) + unit(dtype)  # the product with the factor below is rounded
    for factor in (-1.0, 0.1, 3.0):
        gradient = (weight * factor).to(dtype)
        found = project(weight, gradient).double().norm() / gradient.double().norm()
        assert found <= rest * 1.01 / relative_floor(dtype)  # the published code brings it to 1
        assert project(weight, gradient, rescale=False).double().norm() <= rest * 1.01 * gradient.double().norm()


def test_the_floor_bounds_the_factor():
    weight = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    gradient = torch.tensor([[1.0, 0.01]], dtype=torch.float64)
    assert project(weight, gradient)[0, 1].item() == pytest.approx(math.hypot(1, 0.01))
    assert project(weight, gradient, floor=0.1)[0, 1].item() == pytest.approx(0.1)
    assert project(weight, gradient, floor=1.0)[0, 1].item() == pytest.approx(0.01)
    for wrong in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"floor must lie in \(0, 1\]"):
            OrthoGrad(floor=wrong)


@both_paths
@both_forms
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_sizes_whose_squares_leave_float32_are_no_matter(scale, rescale, path):
    weight, gradient = normal(20, 30, seed=6), normal(20, 30, seed=7)
    wanted = project(weight, gradient, rescale=rescale)
    assert torch.allclose(project(weight, gradient * scale, rescale=rescale) / scale, wanted, rtol=1e-4, atol=1e-6)
    assert torch.allclose(project(weight * scale, gradient, rescale=rescale), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (9,), (1, 1), (1, 1, 1)], ids=str)
def test_vectors_and_single_elements_are_left_alone(shape):
    weight, gradient = normal(*shape, seed=1), normal(*shape, seed=2)
    assert torch.equal(project(weight, gradient), gradient)


@both_paths
@both_forms
def test_zero_weights_zero_gradients_and_empty_tensors_are_left_as_they_are(rescale, path):
    gradient, zero, empty = normal(3, 4), torch.zeros(3, 4), torch.zeros(0, 4)
    assert torch.equal(project(zero, gradient, rescale=rescale), gradient)
    assert torch.equal(project(gradient, zero, rescale=rescale), zero)
    assert project(empty, empty, rescale=rescale).shape == (0, 4)
    assert torch.equal(orthogonal_gradient(zero, gradient, rescale=rescale), gradient)


@both_paths
@both_forms
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_gradients_pass_as_they_are_and_harm_no_other(poison, rescale, path):
    weights = [normal(3, 4, seed=1), normal(3, 4, seed=2)]
    grads = [normal(3, 4, seed=3), normal(3, 4, seed=4)]
    grads[0][1, 2] = poison
    given = grads[0].clone()
    healthy = project(weights[1], grads[1], rescale=rescale)
    OrthoGrad(rescale)(weights, grads)
    assert grads[0].view(torch.int32).equal(given.view(torch.int32))
    assert torch.equal(grads[1], healthy)
    weights[0][0, 0], grads[0] = poison, normal(3, 4)
    assert torch.equal(project(weights[0], grads[0], rescale=rescale), grads[0])


@both_paths
@both_forms
def test_any_memory_format(rescale, path):
    weight, gradient = normal(8, 6, 5, 4, seed=1), normal(8, 6, 5, 4, seed=2)
    wanted = project(weight, gradient, rescale=rescale)
    last = torch.channels_last
    layouts = [
        (weight.to(memory_format=last), gradient.to(memory_format=last)),
        (weight.to(memory_format=last), gradient),
        (weight, gradient.to(memory_format=last)),
        (weight.repeat_interleave(2, 3)[..., ::2], gradient.transpose(0, 1).contiguous().transpose(0, 1)),
    ]
    for w, g in layouts:
        strides = g.stride()
        found = project(w, g, rescale=rescale)
        assert torch.allclose(found, wanted, atol=1e-6)
        assert g.stride() == strides
    wide = torch.zeros(8, 12)
    view = wide[:, ::2]
    view.copy_(gradient[:, :, 0, 0])
    OrthoGrad(rescale)([weight[:, :, 0, 0]], [view])
    assert torch.allclose(view, project(weight[:, :, 0, 0], gradient[:, :, 0, 0], rescale=rescale), atol=1e-6)
    assert (wide[:, 1::2] == 0).all()


def test_expanded_tensors_are_summed_entry_by_entry():
    a = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    assert inner_product(a, a).item() == 15.0
    assert gram(a, torch.ones(2, 3)).tolist() == [9.0, 15.0, 6.0]


def test_inner_products_of_millions_are_exact_and_in_any_layout():
    ones = torch.ones(1 << 12, 1 << 12)
    ones[0, 0] = 2.0**13
    assert inner_product(ones, ones).item() == 2**26 + 2**24 - 1
    a, b = normal(300, 500, seed=1), normal(500, 300, seed=2).T
    assert inner_product(a, b).item() == pytest.approx((a.double() * b.double()).sum().item(), rel=1e-12)
    with pytest.raises(ValueError, match="equal shapes"):
        inner_product(torch.ones(2), torch.ones(3))


def test_a_complex_gradient_is_a_vector_of_its_parts():
    weight = torch.complex(normal(3, 4, seed=1), normal(3, 4, seed=2))
    gradient = torch.complex(normal(3, 4, seed=3), normal(3, 4, seed=4))
    found = project(weight, gradient)
    wanted = project(torch.view_as_real(weight), torch.view_as_real(gradient))
    assert torch.equal(torch.view_as_real(found), wanted)


def test_weights_and_the_pure_functions_arguments_are_not_touched():
    weight, gradient = normal(5, 6, seed=1), normal(5, 6, seed=2)
    copies = weight.clone(), gradient.clone()
    orthogonal_gradient(weight, gradient, rescale=True)
    project(weight, gradient)
    assert torch.equal(weight, copies[0])
    assert torch.equal(gradient, copies[1])


def test_chosen_parameters_alone_are_projected():
    chosen, other = normal(3, 4, seed=1), normal(3, 4, seed=2)
    grads = [normal(3, 4, seed=3), normal(3, 4, seed=4)]
    before = [g.clone() for g in grads]
    OrthoGrad(parameters=[chosen])([chosen, other], grads)
    assert torch.equal(grads[0], project(chosen, before[0]))
    assert torch.equal(grads[1], before[1])


def test_sparse_gradients_are_refused():
    with pytest.raises(TypeError, match=r"needs dense gradients.*sparse=False"):
        OrthoGrad()([torch.ones(3, 4)], [torch.ones(3, 4).to_sparse()])
    with pytest.raises(TypeError, match="needs dense"):
        ClipNorm(1.0)([torch.ones(3, 4)], [torch.ones(3, 4).to_sparse()])


def test_there_is_no_state_and_that_of_others_is_refused():
    for transform in (OrthoGrad(), ClipNorm(1.0)):
        assert transform.state_dict([]) == {}
        transform.load_state_dict({}, [])
        with pytest.raises(ValueError, match="has no state, got average"):
            transform.load_state_dict({"average": []}, [])


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


X, Y = normal(32, 4, seed=8), torch.arange(32) % 3


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("closure", [True, False])
def test_sgd_with_it_is_the_published_step(closure, set_to_none):
    model, plain = net(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surgecollapse.transform_gradients(optimizer, [OrthoGrad()])
    for _ in range(5):

        def compute():
            optimizer.zero_grad(set_to_none=set_to_none)
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
            return loss

        optimizer.step(compute) if closure else (compute(), optimizer.step())
        plain.zero_grad()
        nn.functional.cross_entropy(plain(X), Y).backward()
        with torch.no_grad():
            for p in plain.parameters():
                gradient = p.grad if p.ndim < 2 else oracle(p, p.grad, True).float()
                p -= 0.1 * gradient
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_the_optimizer_keeps_its_betas_groups_and_state():
    model = net()
    weights, biases = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, betas=(0.8, 0.9), eps=1e-5)
    surgecollapse.transform_gradients(optimizer, [OrthoGrad()])
    optimizer.add_param_group({"params": biases, "lr": 1e-3})
    nn.functional.cross_entropy(model(X), Y).backward()
    given = [p.grad.clone() for p in weights]
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, 1e-3]
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.state_dict()["param_groups"][:1])
    for p, g in zip(weights, given, strict=True):
        assert torch.allclose(optimizer.state[p]["exp_avg"], 0.2 * p.grad)
        assert not torch.allclose(p.grad, g)


def test_the_whole_order_filter_project_clip():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    chain = [surgecollapse.Grokfast(), OrthoGrad(), ClipNorm(0.01)]
    surgecollapse.transform_gradients(optimizer, chain)
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    total = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
    assert total == pytest.approx(0.01, rel=1e-6)
    for p in model.parameters():
        if p.ndim > 1:
            assert abs(inner_product(p.detach(), p.grad).item()) < 1e-8
    with pytest.raises(ValueError, match="filter → project → clip"):
        surgecollapse.transform_gradients(optimizer, chain[::-1])


@every_dtype
def test_clip_brings_the_norm_of_all_gradients_down_and_never_up(dtype):
    grads = [torch.tensor([3.0], dtype=dtype), torch.tensor([[4.0, 12.0]], dtype=dtype)]  # norm 13
    ClipNorm(6.5)([torch.zeros(1), torch.zeros(1, 2)], grads)
    assert [g.tolist() for g in grads] == [[1.5], [[2.0, 6.0]]]
    kept = [g.clone() for g in grads]
    ClipNorm(7.0)([torch.zeros(1), torch.zeros(1, 2)], grads)
    assert all(torch.equal(a, b) for a, b in zip(grads, kept, strict=True))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_clip_of_sizes_whose_squares_leave_float32(size):
    gradient = torch.tensor([3.0, 4.0]) * size
    ClipNorm(size)([torch.zeros(2)], [gradient])
    assert torch.allclose(gradient / size, torch.tensor([0.6, 0.8]))


def test_clip_leaves_poison_and_nothing_as_they_are():
    grads = [torch.tensor([1.0, float("inf")]), torch.tensor([5.0])]
    ClipNorm(0.1)([torch.zeros(2), torch.zeros(1)], grads)
    assert [g.tolist() for g in grads] == [[1.0, float("inf")], [5.0]]
    zero = torch.zeros(3)
    ClipNorm(0.1)([zero], [zero])
    assert zero.tolist() == [0.0, 0.0, 0.0]
    ClipNorm(0.1)([], [])
    OrthoGrad()([], [])


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan")])
def test_clip_needs_a_positive_finite_norm(wrong):
    with pytest.raises(ValueError, match="max_norm must be positive and finite"):
        ClipNorm(wrong)


def test_large_tensors_are_taken_in_pieces_of_the_same_result(monkeypatch):
    weight, gradient = normal(40, 50, seed=1), normal(40, 50, seed=2)
    wanted = project(weight, gradient)
    monkeypatch.setattr(projections_module, "_CHUNK", 7)
    assert torch.allclose(project(weight, gradient), wanted, rtol=1e-6)


class NoCrossing(TorchFunctionMode):
    """Refuses to make tensors of host numbers on a device: the copy waits for all work under way there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") not in (None, torch.device("cpu")):
            raise AssertionError(f"{func.__name__} copies a number from the host to {kwargs['device']}")
        return func(*args, **kwargs)


def test_the_guard_sees_a_number_that_crosses():
    with pytest.raises(AssertionError, match="as_tensor copies a number"), NoCrossing():
        torch.as_tensor(0.1, device=torch.device("meta"))


@both_forms
@every_dtype
def test_off_the_cpu_no_number_crosses_between_host_and_device(dtype, rescale):
    # A tensor without storage cannot be read by the host at all: item() and tolist() raise.
    weight, gradient = (torch.empty(6, 5, device="meta", dtype=dtype) for _ in range(2))
    with NoCrossing():
        OrthoGrad(rescale)([weight], [gradient])
    assert gradient.dtype == dtype
