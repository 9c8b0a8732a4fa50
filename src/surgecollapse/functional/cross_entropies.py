"""Cross-entropy of StableMax, and the cross-entropies of the softmax that it is compared with.

Softmax cross-entropy stops learning in floating point when the largest logit absorbs all others (softmax collapse, see
:func:`surgecollapse.functional.softmax_collapse`). StableMax grows like x where the softmax grows like eˣ, so that
this needs logits some ten million times larger.

StableMax is the softmax of f(x) = sign(x)·log(1 + |x|), and its cross-entropy that of f(x). So the classes' weights,
label smoothing, ignored labels, class probabilities and reductions mean what they do in
:func:`torch.nn.functional.cross_entropy`, and nothing overflows. The function f and its slope 1/(1 + |x|) are written
out. The slope is right at zero, where that of the form sign(x)·log1p(|x|) comes out as 0 and a zero-initialized head
never learns. It is finite everywhere, where the published s(x) = where(x < 0, 1/(1 − x), x + 1) has NaN at x = 1.

Half precision is computed in float32 and rounded once. First and second derivatives, forward mode, ``torch.func``
transforms and ``torch.compile`` work.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from surgecollapse.torch_utils.modules import is_transformed


def _value(x: Tensor) -> Tensor:
    return x.abs().log1p_().mul_(x.sign())


class _SignedLog(torch.autograd.Function):
    """f(x) = sign(x)·log(1 + |x|) with f′(x) = 1/(1 + |x|), in six passes over memory there and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return _value(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        (x,) = ctx.saved_tensors
        return torch.div(gradient, x.abs().add_(1))

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        (x,) = ctx.saved_tensors
        return torch.div(tangent, x.abs().add_(1))


class _SignedLogTransformed(_SignedLog):
    """The same under ``torch.func``, which asks for a context of its own; elsewhere that takes as long as the rest."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]  # pyrefly: ignore[bad-override]
        return _value(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)


def _signed_log(logits: Tensor) -> Tensor:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating-point numbers, got {logits.dtype}: convert them")
    x = _precise(logits)  # in bfloat16 a logarithm near 10 is good to .03, and so a probability to 3 percent
    if torch.compiler.is_compiling():  # the compiler fuses the passes itself, and refuses a forward mode of our own
        above, below = _parts(x)
        return torch.where(x >= 0, above.log1p(), -below.log1p())
    result: Tensor = (_SignedLogTransformed if is_transformed() else _SignedLog).apply(x)  # type: ignore[no-untyped-call]
    return result


def stablemax(x: Tensor, dim: int) -> Tensor:
    """Probabilities s(x)/Σs(x) with s(x) = x + 1 for x ≥ 0, 1/(1 − x) below.

    Args:
        x: logits, any shape, floating point.
        dim: dimension of the classes.

    Returns:
        Probabilities of the shape and dtype of ``x``.

    Raises:
        TypeError: if ``x`` is not floating point.

    Reference: Prieto, Barsbey, Mediano, Birdal 2025, arXiv 2501.04697.

    >>> stablemax(torch.tensor([2.0, 0.0, -3.0]).double(), dim=0).mul(17).round(decimals=9).tolist()  # 3 : 1 : 1/4
    [12.0, 4.0, 1.0]
    """
    return F.softmax(_signed_log(x), dim).to(x.dtype)


def log_stablemax(x: Tensor, dim: int) -> Tensor:
    """Logarithm of :func:`stablemax`, in nats, without a loss of precision for small probabilities.

    Args:
        x: logits, any shape, floating point.
        dim: dimension of the classes.

    Returns:
        Log-probabilities ≤ 0 of the shape and dtype of ``x``.

    Raises:
        TypeError: if ``x`` is not floating point.

    >>> log_stablemax(torch.tensor([0.0, 0.0]), dim=0).tolist()  # −ln 2
    [-0.6931..., -0.6931...]
    """
    return F.log_softmax(_signed_log(x), dim).to(x.dtype)


def stablemax_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy −Σ_k t_k·log StableMax(x)_k; takes what :func:`torch.nn.functional.cross_entropy` takes.

    Args:
        input: logits (K), (n, K) or (n, K, d₁, …).
        target: classes (), (n) or (n, d₁, …), int64, or probabilities of the shape of ``input``.
        weight: weights of the classes (K).
        ignore_index: class that counts for nothing.
        reduction: ``mean`` (weighted, over what is not ignored) | ``sum`` | ``none``.
        label_smoothing: share of the target that is spread evenly over the classes, in [0, 1].

    Returns:
        The loss in nats, with shape and dtype as there (float32 for half precision under autocast).

    Raises:
        TypeError: if ``input`` is not floating point.

    Reference: Prieto, Barsbey, Mediano, Birdal 2025, arXiv 2501.04697. Their code sums the logarithms of s(x)/Σs(x)
    in float64; this one computes in the precision of the logits, at least float32.

    >>> stablemax_cross_entropy(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).item()  # −ln(3/5)
    0.5108...
    """
    given = None if weight is None else _precise(weight)
    if torch.compiler.is_compiling() and not target.is_floating_point() and not label_smoothing:
        logs = _log_of_ratios(input)
        loss = F.nll_loss(logs, target, given, ignore_index=ignore_index, reduction=reduction)
    else:
        options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
        loss = F.cross_entropy(_signed_log(input), _precise(target), given, **options)  # type: ignore[arg-type]
    return loss if torch.is_autocast_enabled(input.device.type) else loss.to(input.dtype)


def _log_of_ratios(logits: Tensor) -> Tensor:
    """Log-probabilities by the sum of s itself, for the compiler, which takes logarithms where they are read alone.

    So a compiled loss of classes needs no exponential and no logarithm but those of one entry a sample.
    """
    dim = 0 if logits.ndim == 1 else 1
    x = _precise(logits)  # once: the two parts of the gradient nearly cancel, and must meet before they are rounded
    top = x.detach().amax(dim, keepdim=True)  # cancels, so that no gradient goes through it
    ratios = _growth(x) / _growth(top)
    return _signed_log(x) - _signed_log(top) - ratios.sum(dim, keepdim=True).log()


def _growth(x: Tensor) -> Tensor:
    """The paper's s(x), with the gradient of the branch that is taken alone."""
    above, below = _parts(x)
    return torch.where(x >= 0, above + 1, 1 / (below + 1))


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """max(x, 0) and max(−x, 0), the first with slope 1 at 0, where the slope of ``clamp`` depends on torch."""
    zero = x.new_zeros(())
    return torch.where(x >= 0, x, zero), torch.where(x >= 0, zero, -x)


def softmax_cross_entropy_float64(
    input: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any
) -> Tensor:
    """Softmax cross-entropy with the logits cast to float64: collapse comes at 2⁻⁵³ instead of 2⁻²⁴.

    Args:
        input: logits, as :func:`torch.nn.functional.cross_entropy` takes them.
        target: classes or probabilities.
        weight: weights of the classes (K).
        options: ``ignore_index``, ``reduction``, ``label_smoothing``.

    Returns:
        The loss in nats, float64; its gradient has the logits' own precision.

    >>> logits = torch.tensor([[30.0, 0.0]])
    >>> softmax_cross_entropy_float64(logits, torch.tensor([0])).item() > 0  # softmax in float32 gives 0
    True
    """
    probabilities = target.double() if target.is_floating_point() else target
    return F.cross_entropy(input.double(), probabilities, None if weight is None else weight.double(), **options)


def temperature_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, temperature: float, **options: Any
) -> Tensor:
    """Softmax cross-entropy of input/T: a temperature T > 1 puts softmax collapse off to T times larger logits.

    Args:
        input: logits, as :func:`torch.nn.functional.cross_entropy` takes them.
        target: classes or probabilities.
        weight: weights of the classes (K).
        temperature: T > 0. The gradient is 1/T of that of the divided logits; it is not rescaled.
        options: ``ignore_index``, ``reduction``, ``label_smoothing``.

    Returns:
        The loss in nats.

    Raises:
        ValueError: if T is not positive and finite.

    >>> temperature_cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), temperature=2.0).item()  # ln(1 + 1/e)
    0.3132...
    """
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return F.cross_entropy(input / temperature, target, weight, **options)


def _precise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
