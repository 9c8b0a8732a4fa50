"""Why a net that fits its training data stands still: softmax collapse and naive loss minimization.

After Prieto, Barsbey, Mediano, Birdal 2025 (arXiv 2501.04697). Once the data is fitted, the gradient turns into the
direction of the weights themselves. That only scales the logits (naive loss minimization). In the end the softmax
absorbs all logits but the largest. Then the loss is exactly zero, and so is its gradient by the right logit (softmax
collapse).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from surgecollapse.functional.projections import gram
from surgecollapse.torch_utils.row_sums import grams


def softmax_collapse(logits: Tensor, dim: int = -1) -> Tensor:
    """Share of samples whose softmax has absorbed all classes but the largest, in the logits' own precision.

    mean_i 1[Σ_k exp(z_ik − max_k z_ik) = 1] as computed. Under this condition the loss of a correctly classified sample
    is exactly zero, and so is its gradient by the logit of the right class.

    Args:
        logits: any shape, floating point, in the precision in which the loss is computed.
        dim: dimension of the classes.

    Returns:
        0-dimensional float32 tensor in [0, 1] on the device; NaN without samples.

    >>> logits = torch.tensor([[0.0, 0.0], [20.0, 0.0]])
    >>> softmax_collapse(logits).item(), softmax_collapse(logits.double()).item()
    (0.5, 0.0)
    """
    with torch.no_grad():
        sums = (logits - logits.amax(dim, keepdim=True)).exp().sum(dim)
        return (sums == 1).float().mean()


def zero_loss_share(logits: Tensor, target: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Share of samples whose softmax cross-entropy is exactly 0 in the logits' own precision.

    By the logit of the right class the gradient of these samples is exactly 0; by the others it is exp of minus their
    distance. At most :func:`softmax_collapse`, which counts wrong predictions too.

    Args:
        logits: (K), (n, K) or (n, K, d₁, …), floating point, in the precision in which the loss is computed.
        target: classes (), (n) or (n, d₁, …), int64.
        ignore_index: class that is not counted at all.

    Returns:
        0-dimensional float32 tensor in [0, 1] on the device; NaN without samples.

    >>> zero_loss_share(torch.tensor([[20.0, 0.0], [20.0, 0.0]]), torch.tensor([0, 1])).item()
    0.5
    """
    with torch.no_grad():
        losses = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
        counted = target != ignore_index
        return ((losses == 0) & counted).sum() / counted.sum()


class Alignment(NamedTuple):
    """Cosines of :func:`naive_loss_minimization`, 0-dimensional tensors on the device."""

    per_tensor: dict[str, Tensor]
    overall: Tensor


def naive_loss_minimization(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Alignment:
    """Cosine between the descent direction and the weights: cos(−∇L, W), for each tensor and for all together.

    1 says that a gradient step does nothing but scale the weights up. 0 says that it is orthogonal to them, as after
    :class:`surgecollapse.OrthoGrad`. Weight decay alone would be −1.

    Args:
        weights: by name.
        gradients: of the loss, by the same names; names that only one of the two has are left out.

    Returns:
        The cosines in [−1, 1], in float64 where the device has it; 0 where weight or gradient is zero.

    Raises:
        ValueError: if no name is in both, or shapes differ.

    >>> found = naive_loss_minimization({"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([-4.0, 3.0])})
    >>> found.per_tensor["a"].item(), found.overall.item()
    (0.0, 0.0)
    """
    names = [name for name in weights if name in gradients]
    if not names:
        raise ValueError(f"no weight has a gradient: weights {sorted(weights)}, gradients {sorted(gradients)}")
    for name in names:
        weight, gradient = weights[name], gradients[name]
        if weight.shape != gradient.shape:
            raise ValueError(
                f"{name}: weight {tuple(weight.shape)} and gradient {tuple(gradient.shape)} differ in shape"
            )
    products = _products([(weights[name], gradients[name]) for name in names])
    device = products[0].device
    cosines = {name: _descent_cosine(found) for name, found in zip(names, products, strict=True)}
    return Alignment(cosines, _descent_cosine(torch.stack([found.to(device) for found in products]).sum(0)))


def _products(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The inner products of each pair, on its device."""
    if any(tensor.requires_grad for pair in pairs for tensor in pair):
        return [gram(weight, gradient) for weight, gradient in pairs]
    plain = [
        (torch.view_as_real(w.resolve_conj()), torch.view_as_real(g.resolve_conj())) if g.is_complex() else (w, g)
        for w, g in pairs
    ]
    if all(tensor.device.type == "cpu" and not tensor.is_complex() for pair in plain for tensor in pair):
        return list(grams(plain))
    return [gram(weight, gradient) for weight, gradient in pairs]


def _descent_cosine(products: Tensor) -> Tensor:
    both, weight, gradient = products.unbind()
    norms = weight.sqrt() * gradient.sqrt()
    return torch.where(norms == 0, torch.zeros_like(norms), (0.0 - both) / norms).clamp(-1, 1)
