"""Projection of gradients onto the orthogonal complement of the weights, with reductions in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_CHUNK = 1 << 16  # entries converted to float64 at a time: two chunks fit into a second-level cache
_CHUNK_ELSEWHERE = 1 << 22  # on accelerators: few launches count for more


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Inner product Σ a·b over all entries, accumulated in float64, without a float64 copy of the whole.

    Products of float32 numbers neither overflow nor vanish there, and are exact. For complex tensors it is
    Re Σ conj(a)·b, that of the real and imaginary parts.

    Args:
        a: any shape, dtype and strides.
        b: of the same shape.

    Returns:
        0-dimensional float64 tensor on the device; float32 where the device has no float64.

    Raises:
        ValueError: if the shapes differ.

    >>> inner_product(torch.tensor([3e-30, 4e-30]), torch.tensor([3e-30, 4e-30])).sqrt().item()
    5.0...e-30
    """
    return _products(a, b, torch.dot)


def gram(a: Tensor, b: Tensor) -> Tensor:
    """The three inner products a·b, a·a and b·b in one pass over the memory, see :func:`inner_product`.

    Args:
        a: any shape, dtype and strides.
        b: of the same shape.

    Returns:
        Tensor (3,).

    Raises:
        ValueError: if the shapes differ.

    >>> gram(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).tolist()
    [11.0, 5.0, 25.0]
    """
    return _products(a, b, lambda x, y: torch.stack([torch.dot(x, y), torch.dot(x, x), torch.dot(y, y)]))


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _products(a: Tensor, b: Tensor, reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if a.shape != b.shape:
        raise ValueError(f"an inner product needs equal shapes, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.is_complex() or b.is_complex():
        return _products(torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj()), reduce)
    dtype = widest(a.device)
    size = _CHUNK if a.device.type == "cpu" else _CHUNK_ELSEWHERE
    flat_a, flat_b = _flat(a, b), _flat(b, a)
    same = a is b
    total: Tensor | None = None
    for x, y in zip(flat_a.split(size), flat_b.split(size), strict=True):  # type: ignore[no-untyped-call]
        left = x.to(dtype)
        part = reduce(left, left if same else y.to(dtype))
        total = part if total is None else total + part
    assert total is not None  # an empty tensor has one empty piece
    return total


def _flat(tensor: Tensor, other: Tensor) -> Tensor:
    """All entries as a vector, in an order that is the same for both; without a copy where both lie alike."""
    if tensor.stride() == other.stride() and tensor.ndim > 1:
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        tensor = tensor.permute(order)
    return tensor.reshape(-1)


def projection_factors(
    both: Tensor, weight: Tensor, gradient: Tensor, *, floor: float | Tensor, left: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Numbers a and r of the projection g⊥ = g − a·w and of its rescaling r·g⊥, from inner products.

    a = (w·g)/(w·w), and r = ‖g‖/max(‖g⊥‖, floor·‖g‖). The norm is restored in full as long as more than the share
    ``floor`` of it is left.

    Args:
        both: w·g, float64, any shape.
        weight: w·w, of that shape.
        gradient: g·g, of that shape.
        floor: least share ‖g⊥‖/‖g‖ that is taken for more than rounding, in (0, 1].
        left: ‖g⊥‖²; default: g·g − (w·g)²/(w·w), which is good down to shares of about 1e-6.

    Returns:
        a and r. Without weight, without gradient or with a non-finite product: 0 and 1, which change nothing.

    >>> a, r = projection_factors(*torch.tensor([3.0, 1.0, 25.0]).unbind(), floor=1e-3)  # w = (1, 0), g = (3, 4)
    >>> a.item(), r.item()
    (3.0, 1.25)
    """
    along = both / weight
    if left is None:
        left = (gradient - both * along).clamp(min=0)
    share = (left / gradient).sqrt()
    sound = torch.isfinite(along) & torch.isfinite(share)
    factor = 1 / share.clamp(min=floor)
    return torch.where(sound, along, torch.zeros_like(along)), torch.where(sound, factor, torch.ones_like(factor))


def orthogonal_gradient(
    weight: Tensor, gradient: Tensor, *, rescale: bool = False, floor: float | None = None
) -> Tensor:
    """The part of a gradient that is orthogonal to its weight: g⊥ = g − (w·g)/(w·w)·w.

    With ``rescale`` it is brought back to the norm of g. If what is left is at most ``floor`` times that norm, the
    factor is 1/floor. So a gradient that is parallel to the weight becomes (nearly) zero, not rounding errors in the
    size of the gradient.

    Args:
        weight: any shape; half precision is computed in float32.
        gradient: of the same shape and dtype.
        rescale: restore the norm.
        floor: in (0, 1]; default √ε of the dtype, 3.5e-4 in float32, 1.5e-8 in float64.

    Returns:
        A new tensor. For a zero weight or gradient, or non-finite ones: the gradient.

    Reference: Prieto, Barsbey, Mediano, Birdal 2025, arXiv 2501.04697, eq. 12, which has no rescaling; their code has,
    without a floor.

    >>> weight, gradient = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])
    >>> orthogonal_gradient(weight, gradient).tolist(), orthogonal_gradient(weight, gradient, rescale=True).tolist()
    ([0.0, 4.0], [0.0, 5.0])
    """
    both, energy, power = gram(weight, gradient).unbind()
    floor = relative_floor(gradient.dtype) if floor is None else floor
    along, _ = projection_factors(both, energy, power, floor=floor)
    precise = torch.promote_types(gradient.dtype, torch.float32)
    full = gradient.to(precise)
    result = torch.where(along == 0, full, full - along * weight.to(precise))
    if rescale:
        _, factor = projection_factors(both, energy, power, floor=floor, left=inner_product(result, result))
        result = result * factor
    return result.to(gradient.dtype)


def relative_floor(dtype: torch.dtype) -> float:
    """√ε of a dtype: at that share of the norm, half of the digits of a difference are still right.

    >>> relative_floor(torch.bfloat16)
    0.08838...
    """
    return float(torch.finfo(dtype).eps ** 0.5)
