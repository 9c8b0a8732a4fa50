"""StableMax: closed forms, derivatives of all orders and modes, every argument, every precision."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rounding import any_order, unit
from surgecollapse.functional import log_stablemax, stablemax, stablemax_cross_entropy

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# torch's own forward mode still goes through what torch has deprecated.
forward_mode = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def published(x: torch.Tensor) -> torch.Tensor:
    """s(x) as the paper defines it, in float64."""
    x = x.double()
    return torch.where(x >= 0, x.clamp(min=0) + 1, 1 / (1 - x.clamp(max=0)))


def direct(x, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """The loss by its definition, in float64, for logits (n, K, d…)."""
    s = published(x)
    losses = -(s / s.sum(1, keepdim=True)).log()
    classes = x.shape[1]
    weight = torch.ones(classes) if weight is None else weight
    shaped = weight.double().reshape(1, -1, *[1] * (x.ndim - 2))
    if target.is_floating_point():
        given = target.double() * (1 - label_smoothing) + label_smoothing / classes
        each = (shaped * given * losses).sum(1)
        return each.sum() / (each.numel() if reduction == "mean" else 1) if reduction != "none" else each
    counted = target != ignore_index
    one_hot = F.one_hot(target.where(counted, 0), classes).movedim(-1, 1).double()
    given = one_hot * (1 - label_smoothing) + label_smoothing / classes
    each = (shaped * given * losses).sum(1) * counted
    if reduction == "none":
        return each
    return each.sum() / ((shaped * one_hot).sum(1) * counted).sum() if reduction == "mean" else each.sum()


def extremes(dtype: torch.dtype) -> list[float]:
    info = torch.finfo(dtype)
    return [0.0, -0.0, 1.0, -1.0, info.tiny, -info.tiny, info.eps, 1e3, -1e3, info.max / 2, info.max, info.min]


def test_probabilities_are_the_published_ones():
    x = torch.linspace(-50, 50, 1001, dtype=torch.float64).reshape(7, 11, 13)
    for dim in (0, 1, -1):
        s = published(x)
        assert torch.allclose(stablemax(x, dim), s / s.sum(dim, keepdim=True), rtol=1e-12)
        assert torch.allclose(log_stablemax(x, dim).exp(), stablemax(x, dim), rtol=1e-12)


@every_dtype
def test_every_loss_and_gradient_is_finite_at_the_extremes(dtype):
    values = extremes(dtype)
    x = torch.tensor([[a, b, 1.0] for a in values for b in values], dtype=dtype, requires_grad=True)
    for target in range(3):
        loss = stablemax_cross_entropy(x, torch.full((len(x),), target), reduction="none")
        (grad,) = torch.autograd.grad(loss.double().sum(), x)
        assert loss.dtype == grad.dtype == dtype
        assert torch.isfinite(loss).all()
        assert torch.isfinite(grad).all()


@every_dtype
def test_gradient_at_one_is_no_nan_where_the_published_form_has_one(dtype):
    x = torch.tensor([[1.0, 0.5]], dtype=dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(stablemax_cross_entropy(x, torch.tensor([0])), x)
    # −ln(2/3.5): by the first logit 1/3.5 − 1/2, by the second 1/3.5
    wanted = torch.tensor([[1 / 3.5 - 0.5, 1 / 3.5]], dtype=torch.float64)
    assert torch.allclose(grad.double(), wanted, rtol=2 * torch.finfo(dtype).eps)


@every_dtype
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_logits_have_the_gradient_of_the_softmax(zero, dtype):
    x = torch.full((2, 5), zero, dtype=dtype, requires_grad=True)
    target = torch.tensor([3, 0])
    (ours,) = torch.autograd.grad(stablemax_cross_entropy(x, target), x)
    (softmax,) = torch.autograd.grad(F.cross_entropy(x, target), x)
    assert torch.allclose(ours.double(), softmax.double(), rtol=2 * torch.finfo(dtype).eps)
    assert (ours != 0).all()


def test_a_zero_initialized_head_learns():
    head = torch.nn.Linear(4, 3)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    stablemax_cross_entropy(head(torch.ones(6, 4)), torch.arange(6) % 2).backward()
    assert (head.weight.grad != 0).all()


def test_large_logits_still_teach_where_softmax_has_collapsed():
    x = torch.tensor([[200.0, 0.0, -50.0]], requires_grad=True)
    target = torch.tensor([0])
    assert torch.autograd.grad(F.cross_entropy(x, target), x)[0][0, 0] == 0
    grad = torch.autograd.grad(stablemax_cross_entropy(x, target), x)[0]
    total = 201 + 1 + 1 / 51
    assert grad[0, 0].item() == pytest.approx(1 / total - 1 / 201, rel=1e-4)


@every_dtype
def test_each_precision_is_right_to_its_rounding(dtype):
    x = (torch.randn(64, 20, generator=torch.Generator().manual_seed(0)) * 30).to(dtype)
    target = torch.arange(64) % 20
    found = stablemax_cross_entropy(x, target, reduction="none")
    # ln(Σs/s_t): γ of 20 terms and their roundings, absolute, and the rounding of the logarithm and of the result.
    precise = torch.promote_types(dtype, torch.float32)
    bounds = {"atol": any_order(20 + 4, precise), "rtol": 4 * unit(precise) + unit(dtype)}
    assert torch.allclose(found.double(), direct(x, target, reduction="none"), **bounds)
    assert stablemax(x, 1).dtype == log_stablemax(x, 1).dtype == dtype


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["classes", "ignored", "probabilities"])
@pytest.mark.parametrize("shape", [(8, 5), (4, 5, 3), (2, 5, 3, 2)], ids=str)
def test_every_argument_of_cross_entropy_means_what_it_means_there(shape, kind, weighted, label_smoothing, reduction):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 4
    weight = torch.rand(5, generator=generator, dtype=torch.float64) + 0.1 if weighted else None
    if kind == "probabilities":
        target = torch.softmax(torch.randn(shape, generator=generator, dtype=torch.float64), 1)
    else:
        target = torch.randint(5, (shape[0], *shape[2:]), generator=generator)
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    if kind == "ignored":
        options["ignore_index"] = 2
    found = stablemax_cross_entropy(x, target, weight, **options)
    if label_smoothing and kind != "probabilities" and weighted:
        # Their smoothing spreads over the weighted classes: the definition above covers it all the same.
        assert found.shape == F.cross_entropy(x, target, weight, **options).shape
    assert torch.allclose(found, direct(x, target, weight, **options), rtol=1e-10)


def test_one_sample_without_a_batch_dimension():
    x = torch.tensor([2.0, 0.0, 0.0])
    assert torch.allclose(stablemax_cross_entropy(x, torch.tensor(0)), torch.tensor(5 / 3).log())


@every_dtype
def test_weights_and_probabilities_of_any_precision(dtype):
    x, probabilities = torch.randn(4, 3).to(dtype), torch.full((4, 3), 1 / 3, dtype=dtype)
    for target in (probabilities, torch.tensor([0, 1, 2, 0])):
        assert torch.isfinite(stablemax_cross_entropy(x, target, torch.ones(3, dtype=dtype)))


def test_masked_logits_count_for_nothing_and_get_no_gradient():
    x = torch.tensor([[1.0, -torch.inf, 0.0]], requires_grad=True)
    loss = stablemax_cross_entropy(x, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(torch.tensor(1.5).log().item())
    assert x.grad[0, 1] == 0
    assert torch.isfinite(x.grad).all()


@settings(max_examples=60)
@given(
    st.lists(st.floats(-1e30, 1e30, allow_subnormal=False), min_size=2, max_size=6),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_gradients_sum_up_as_the_slopes_say_for_any_logits(values, dtype):
    x = torch.tensor([values], dtype=dtype, requires_grad=True)
    before = x.detach().clone()
    loss = stablemax_cross_entropy(x, torch.tensor([0]))
    (grad,) = torch.autograd.grad(loss, x)
    assert torch.equal(x.detach(), before)
    assert loss.item() >= 0
    # The gradient by f sums to zero; the slope of f is 1/(1 + |x|).
    by_f = grad.double() * (1 + before.double().abs())
    assert abs(by_f.sum().item()) <= 1e-5 * max(1.0, by_f.abs().max().item())


def logits(*shape):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul_(3).requires_grad_()


@forward_mode
def test_gradcheck_in_both_modes_and_at_zero_and_one():
    target = torch.tensor([0, 2, 1])
    x = logits(3, 4)
    with torch.no_grad():
        x[0, 0], x[1, 1], x[2, 3] = 0.0, 1.0, -1.0
    assert torch.autograd.gradcheck(
        lambda x: stablemax_cross_entropy(x, target, label_smoothing=0.1), (x,), check_forward_ad=True
    )


def test_second_derivatives():
    target = torch.tensor([0, 2, 1])
    assert torch.autograd.gradgradcheck(lambda x: stablemax_cross_entropy(x, target), (logits(3, 4),))


@forward_mode
def test_function_transforms():
    x, target = logits(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    one_by_one = torch.func.vmap(torch.func.grad(stablemax_cross_entropy))(x, target)
    (together,) = torch.autograd.grad(stablemax_cross_entropy(x, target, reduction="sum"), x)
    assert torch.allclose(one_by_one, together)
    tangent = torch.ones_like(x)
    _, slope = torch.func.jvp(lambda x: stablemax_cross_entropy(x, target, reduction="sum"), (x,), (tangent,))
    assert torch.allclose(slope, (together * tangent).sum())
    hessian = torch.func.hessian(lambda row: stablemax_cross_entropy(row, target[0]))(x[0].detach())
    assert torch.allclose(hessian, hessian.T)


def test_autocast_gives_the_dtype_that_cross_entropy_gives():
    x, target = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", torch.bfloat16):
        ours, softmax = stablemax_cross_entropy(x, target), F.cross_entropy(x, target)
    assert ours.dtype == softmax.dtype
    assert torch.autograd.grad(ours, x)[0].dtype == torch.bfloat16


@pytest.fixture
def compiled():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        yield torch.compile(stablemax_cross_entropy, backend="aot_eager", fullgraph=True)
        torch._dynamo.reset()


CASES = {
    "classes": (torch.tensor([0, 1, 2, 3, 0, 1]), {}),
    "ignored": (torch.tensor([0, 1, 2, 3, 0, 1]), {"ignore_index": 0}),
    "summed": (torch.tensor([0, 1, 2, 3, 0, 1]), {"reduction": "sum"}),
    "smoothed": (torch.tensor([0, 1, 2, 3, 0, 1]), {"label_smoothing": 0.1}),
    "probabilities": (torch.full((6, 4), 0.25, dtype=torch.float64), {}),
    "weighted": (torch.tensor([0, 1, 2, 3, 0, 1]), {"weight": torch.arange(1.0, 5.0).double()}),
}


@pytest.mark.parametrize(("target", "options"), CASES.values(), ids=CASES)
def test_compiled_without_a_graph_break_it_is_the_same(target, options, compiled):
    x = logits(6, 4)
    with torch.no_grad():
        x[0, 0], x[1, 1], x[2, 2], x[3] = 0.0, 1.0, -1.0, 0.0
    loss, wanted = compiled(x, target, **options), stablemax_cross_entropy(x, target, **options)
    assert torch.allclose(loss, wanted, rtol=1e-12)
    assert torch.allclose(*(torch.autograd.grad(value, x)[0] for value in (loss, wanted)), rtol=1e-10)


def test_compiled_for_logits_of_any_shape(compiled):
    for shape, target in (((4,), torch.tensor(2)), ((2, 4, 3), torch.tensor([[0, 1, 2], [3, 2, 1]]))):
        x = logits(*shape)
        assert torch.allclose(compiled(x, target), stablemax_cross_entropy(x, target), rtol=1e-12)


@every_dtype
def test_compiled_it_is_finite_at_the_extremes(dtype, compiled):
    values = extremes(dtype)
    x = torch.tensor([[a, b, 1.0] for a in values for b in values] + [[-3e4] * 3], dtype=dtype, requires_grad=True)
    target = torch.arange(len(x)) % 3
    loss = compiled(x, target, reduction="none")
    (grad,) = torch.autograd.grad(loss.double().sum(), x)
    assert loss.dtype == grad.dtype == dtype
    assert torch.isfinite(grad).all()
    wanted = stablemax_cross_entropy(x, target, reduction="none")
    eps = torch.finfo(dtype).eps
    assert torch.allclose(loss.double(), wanted.double(), rtol=8 * eps, atol=1e3 * torch.finfo(torch.float32).eps)
    (right,) = torch.autograd.grad(wanted.double().sum(), x)
    assert torch.allclose(grad.double(), right.double(), rtol=8 * eps, atol=1e-5)


def test_whole_numbers_are_refused():
    with pytest.raises(TypeError, match=r"floating-point numbers, got torch\.int64"):
        stablemax_cross_entropy(torch.tensor([[1, 2]]), torch.tensor([0]))
