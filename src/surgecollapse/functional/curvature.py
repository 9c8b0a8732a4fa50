"""Curvature of a loss: Hessian products, the largest eigenvalue, the trace, and where an optimizer is unstable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Operator(Protocol):
    """A symmetric linear map of flat vectors: a matrix, a :class:`Hessian`."""

    def __matmul__(self, vector: Tensor, /) -> Tensor:
        """The product with a flat vector."""
        ...


class Hessian:
    """The Hessian H = ∇²L at given weights, as a linear map: ``hessian @ v`` is Hv (Pearlmutter 1994).

    The gradient is built once; each product is one more backward pass. Attention is forced to the ``MATH`` kernel: the
    fused ones cannot be differentiated twice.

    Args:
        loss: scalar loss of the weights by name, differentiable twice; see :func:`batch_loss`.
        weights: by name; their order is that of the flat vectors. They are not changed.

    Attributes:
        loss: L, detached.
        gradient: ∇L, flat.
        size: entries of a vector.

    Raises:
        ValueError: if there is no weight, one is complex, or the loss is not a scalar.

    >>> quadratic = lambda w: (torch.tensor([1.0, 3.0]) * w["w"].square()).sum() / 2
    >>> Hessian(quadratic, {"w": torch.tensor([1.0, 1.0])}) @ torch.tensor([1.0, 1.0])
    tensor([1., 3.])
    """

    def __init__(self, loss: Callable[[Mapping[str, Tensor]], Tensor], weights: Mapping[str, Tensor]) -> None:
        if not weights:
            raise ValueError("expected at least one weight to differentiate by, got none")
        for name, weight in weights.items():
            if weight.is_complex():
                raise ValueError(f"expected real weights, got {weight.dtype} of {name}: take real and imaginary parts")
        self._leaves = [w.detach().requires_grad_() for w in weights.values()]
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            value = loss(dict(zip(weights, self._leaves, strict=True)))
            if value.ndim:
                raise ValueError(f"expected a scalar loss, got shape {tuple(value.shape)}")
            self._slopes = torch.autograd.grad(value, self._leaves, create_graph=True, materialize_grads=True)
        self.loss = value.detach()
        self.gradient = _flat([slope.detach() for slope in self._slopes])
        self.size = self.gradient.numel()

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Hv, for a flat vector ``(size,)``; no graph is kept of it."""
        curved = [i for i, slope in enumerate(self._slopes) if slope.requires_grad]
        if not curved:  # a loss that is linear in all of them
            return torch.zeros_like(vector)
        parts = self.split(vector)
        with sdpa_kernel(SDPBackend.MATH):
            found = torch.autograd.grad(
                [self._slopes[i] for i in curved],
                self._leaves,
                [parts[i] for i in curved],
                retain_graph=True,
                materialize_grads=True,
            )
        return _flat(list(found)).to(vector.dtype)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Cut a flat vector into the shapes of the weights, in their order and dtype."""
        parts = torch.split_with_sizes(vector, [leaf.numel() for leaf in self._leaves])
        return [part.view_as(leaf).to(leaf.dtype) for part, leaf in zip(parts, self._leaves, strict=True)]


class Restricted:
    """A symmetric operator on some of the coordinates: P H Pᵀ, as for a net of which a mask holds weights at zero.

    Args:
        operator: of flat vectors ``(n,)``.
        coordinates: bool ``(n,)``, true for those that are kept.

    Attributes:
        size: number of coordinates that are kept.

    >>> Restricted(torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([True, False, True])) @ torch.ones(2)
    tensor([1., 3.])
    """

    def __init__(self, operator: Operator, coordinates: Tensor) -> None:
        self._operator, self._coordinates = operator, coordinates
        self.size = int(coordinates.sum())

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product with a vector ``(size,)``."""
        whole = vector.new_zeros(self._coordinates.shape)
        whole[self._coordinates] = vector
        return (self._operator @ whole)[self._coordinates]


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def batch_loss(
    model: nn.Module, criterion: Callable[[Any, Tensor], Tensor], inputs: Any, targets: Tensor
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Turn a model and a batch into a loss of the weights.

    The model is called with the weights given and copies of its buffers, so that neither is changed. It runs in the
    mode in which it is. Put it in eval mode where dropout and batch statistics must not disturb.

    Args:
        model: any module; tied parameters count once.
        criterion: scalar loss of the model's output and the targets.
        inputs: a tensor, or a tuple of positional arguments and a mapping of keyword arguments.
        targets: as the criterion takes them.

    Returns:
        A function of weights by the names of ``model.named_parameters()``; those left out stay what they are.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> loss = batch_loss(model, nn.functional.mse_loss, torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    >>> loss({"weight": torch.tensor([[3.0]])}).item()
    25.0
    """
    args, kwargs = ((inputs,), {}) if isinstance(inputs, Tensor) else inputs

    def loss(weights: Mapping[str, Tensor]) -> Tensor:
        parts = {path: buffer.clone() for path, buffer in model.named_buffers()}
        parts.update(weights)
        return criterion(torch.func.functional_call(model, parts, tuple(args), dict(kwargs)), targets)

    return loss


class Eigenpair(NamedTuple):
    """An approximate eigenvalue with its vector."""

    value: Tensor
    """Rayleigh quotient vᵀHv of the last unit vector that was multiplied."""
    vector: Tensor
    """The next unit vector: give it back to go on."""
    residual: Tensor
    """‖Hv − value·v‖; some eigenvalue lies within it of ``value``."""
    shift: Tensor
    """c of the iteration with H + cI; above 0 once the most negative eigenvalue had the upper hand."""


def largest_eigenvalue(
    operator: Operator, start: Tensor, *, iterations: int = 1, shift: Tensor | float = 0.0
) -> Eigenpair:
    """λ_max by power iteration, v ← (H + cI)v/‖·‖, one product an iteration; no host sync.

    Power iteration finds the eigenvalue of largest magnitude. A Rayleigh quotient ρ that turns negative is not λ_max.
    So c is raised to ‖Hv‖ ≥ |ρ|, which takes that direction out of the way (|ρ| alone can end in a tie). Warm: start
    from the vector and shift of a moment ago.

    Args:
        operator: symmetric; a matrix or :class:`Hessian`.
        start: ``(n,)``, not zero.
        iterations: at least 1.
        shift: c to begin with.

    Raises:
        ValueError: for fewer than 1 iteration.

    >>> found = largest_eigenvalue(torch.diag(torch.tensor([2.0, -5.0])), torch.ones(2), iterations=60)
    >>> round(found.value.item(), 4)
    2.0
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    vector = start / start.norm()
    moved = torch.as_tensor(shift, dtype=start.dtype, device=start.device)
    value = residual = torch.zeros_like(moved)
    for _ in range(iterations):
        product = operator @ vector
        value = vector @ product
        residual = (product - value * vector).norm()
        moved = torch.where(value < 0, torch.maximum(moved, product.norm()), moved)
        following = product + moved * vector
        length = following.norm()
        # A vector that H + cI takes to zero has nothing to say of where to go on.
        vector = torch.where(length > 0, following / length.clamp(min=torch.finfo(length.dtype).tiny), vector)
    return Eigenpair(value, vector, residual, moved)


class TraceEstimate(NamedTuple):
    """An estimate of a trace."""

    value: Tensor
    standard_error: Tensor
    """Of the mean over samples; NaN for one sample."""


def hutchinson_trace(operator: Operator, like: Tensor, samples: int, generator: torch.Generator) -> TraceEstimate:
    """Tr H = E[zᵀHz] over random signs z (Hutchinson 1990): E[z_i z_j] = δ_ij, so only the diagonal is left.

    The variance of one sample is 2Σ_{i≠j} H²_ij: zero for a diagonal matrix.

    Args:
        operator: symmetric.
        like: ``(n,)``, for size, dtype and device.
        samples: products to make.
        generator: draws the signs, on the CPU.

    Raises:
        ValueError: for fewer than 1 sample.

    >>> hutchinson_trace(torch.diag(torch.tensor([1.0, 4.0])), torch.ones(2), 2, torch.Generator()).value
    tensor(5.)
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    found = []
    for _ in range(samples):
        signs = torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1
        found.append(signs @ (operator @ signs))
    values = torch.stack(found)
    error = values.std() / samples**0.5 if samples > 1 else torch.full_like(values[0], torch.nan)
    return TraceEstimate(values.mean(), error)


def stability_threshold(
    *, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False, adaptive: bool = False
) -> float:
    r"""The value of ηλ/2 above which steps along an eigenvector of curvature λ diverge on a quadratic.

    =============================  ==========================  ======================
    optimizer                      ηλ/2                        λ
    =============================  ==========================  ======================
    gradient descent               1                           2/η
    heavy ball, v ← βv + (1−d)g    (1 + β)/(1 − d)             (2 + 2β)/η for d = 0
    Nesterov (as PyTorch has it)   (1 + β)/(1 + 2β) for d = 0  (2 + 2β)/(η(1 + 2β))
    Adam, on P^−½HP^−½             (1 + β)/(1 − β)             38/η for β₁ = .9
    =============================  ==========================  ======================

    They come from the iteration's characteristic polynomial at z = −1. For Adam P = diag(√v̂ + ε) is held fixed and β
    is β₁. Its average of gradients is heavy ball with dampening β₁ (Cohen et al., arXiv 2207.14484). Decoupled weight
    decay is left out; coupled decay adds itself to every eigenvalue.

    Args:
        momentum: β in [0, 1).
        dampening: d in [0, 1); must be 0 for Nesterov.
        nesterov: whether the step is g + βv.
        adaptive: Adam's average: as heavy ball with dampening β.

    Raises:
        ValueError: for values out of range.

    >>> stability_threshold(), round(stability_threshold(momentum=0.9, adaptive=True))
    (1.0, 19)
    """
    damped = momentum if adaptive else dampening
    if not (0.0 <= momentum < 1.0 and 0.0 <= damped < 1.0):
        raise ValueError(f"momentum and dampening must be in [0, 1), got {momentum} and {damped}")
    if nesterov:
        if damped:
            raise ValueError("Nesterov momentum is defined without dampening")
        return (1.0 + momentum) / (1.0 + 2.0 * momentum)
    return (1.0 + momentum) / (1.0 - damped)
