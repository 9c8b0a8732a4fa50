"""OrthoGrad (Prieto et al. 2025, arXiv 2501.04697): take from each gradient the part along its own weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from surgecollapse.functional.projections import gram, inner_product, projection_factors, relative_floor
from surgecollapse.gradients.blocks import blocks


class OrthoGrad:
    """⊥Grad: replace each gradient by its part orthogonal to the weight, g⊥ = g − (w·g)/(w·w)·w.

    What is taken away would only scale the logits up, towards softmax collapse. Any optimizer becomes its ⊥ form and
    keeps its groups, schedulers and state dict: see :func:`surgecollapse.transform_gradients`.

    * Inner products are those of whole parameter tensors, in float64 (float32 on devices without); half precision is
      computed in float32 and rounded once.
    * One-dimensional and single-element parameters are left alone: their gradient is mostly, or wholly, along
      themselves.
    * A zero weight, a zero gradient and non-finite gradients are left as they are.

    Args:
        rescale: bring g⊥ back to the norm of g, as the published code does; ``False``: eq. 12 of the paper.
        floor: the largest factor of the rescaling is 1/floor, in (0, 1]. Where ‖g⊥‖ ≤ floor·‖g‖, what is left of the
            gradient is taken to be rounding, and stays small, whereas the published code amplifies it to the full norm.
            Default: √ε of the gradient's dtype, 3.5e-4 in float32.
        parameters: project these parameters only; default: all.

    Raises:
        ValueError: if ``floor`` lies outside (0, 1].

    >>> import torch
    >>> weight, gradient = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    >>> OrthoGrad()([weight], [gradient])
    >>> gradient.tolist()
    [[0.0, 5.0]]

    Reference: Prieto, Barsbey, Mediano, Birdal 2025, arXiv 2501.04697.
    """

    stage = "project"

    def __init__(
        self, rescale: bool = True, *, floor: float | None = None, parameters: Iterable[Tensor] | None = None
    ) -> None:
        if floor is not None and not 0.0 < floor <= 1.0:
            raise ValueError(f"floor must lie in (0, 1], got {floor}")
        self.rescale, self.floor = bool(rescale), floor
        self._only = None if parameters is None else dict.fromkeys(parameters)

    def __repr__(self) -> str:
        return f"OrthoGrad(rescale={self.rescale}, floor={self.floor})"

    @torch.no_grad()
    def __call__(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Project ``grads`` in place, once per optimizer step; the two sequences correspond.

        Raises:
            TypeError: if a gradient is sparse, or a shard of a distributed tensor.
        """
        alike: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        for weight, grad in zip(params, grads, strict=True):
            if grad.ndim < 2 or grad.numel() < 2 or (self._only is not None and weight not in self._only):
                continue
            _check_whole(grad)
            pair = (torch.view_as_real(weight), torch.view_as_real(grad)) if grad.is_complex() else (weight, grad)
            alike.setdefault((grad.device, pair[1].dtype), []).append(pair)
        for (device, dtype), pairs in alike.items():
            along, factor = self._factors(pairs, dtype)
            change = _change_on_host if device.type == "cpu" else _change
            change(pairs, along, factor)

    def _factors(self, pairs: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        products = torch.stack([gram(weight, grad) for weight, grad in pairs]).unbind(1)
        floor = relative_floor(dtype) if self.floor is None else self.floor
        along, factor = projection_factors(*products, floor=floor)
        if not self.rescale:
            return along, torch.ones_like(factor)
        if dtype == torch.float64:
            # The difference of float64 products knows a small ‖g⊥‖ of float32 gradients, but not of float64 ones.
            rests = [grad - number * weight for (weight, grad), number in zip(pairs, along, strict=True)]
            left = torch.stack([inner_product(rest, rest) for rest in rests])
            along, factor = projection_factors(*products, floor=floor, left=left)
        return along, factor

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:  # noqa: ARG002
        """Nothing: the projection remembers nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:  # noqa: ARG002
        """Accept what :meth:`state_dict` returned.

        Raises:
            ValueError: if it is another transform's.
        """
        if state:
            raise ValueError(f"OrthoGrad has no state, got {', '.join(state)}: attach the same transforms")


def _check_whole(grad: Tensor) -> None:
    if grad.layout is not torch.strided:
        raise TypeError(
            f"OrthoGrad needs dense gradients, got {grad.layout} of shape {tuple(grad.shape)}: build the embedding "
            "with sparse=False, or name the other parameters in parameters="
        )
    if hasattr(grad, "to_local"):
        raise TypeError(
            f"OrthoGrad needs whole gradients, got a distributed tensor of shape {tuple(grad.shape)}: its inner "
            "products would be those of one shard; name the parameters that are not sharded in parameters="
        )


def _change_on_host(pairs: list[tuple[Tensor, Tensor]], along: Tensor, factor: Tensor) -> None:
    for pair, number, scale in zip(pairs, along.tolist(), factor.tolist(), strict=True):
        if number == 0 and scale == 1:
            continue  # nothing along the weight, or not sound: left bit by bit as it is
        for (weight,), (grad,) in blocks([pair]):
            if grad.dtype in (torch.float16, torch.bfloat16):
                grad.copy_(grad.float().sub_(weight.float(), alpha=number).mul_(scale))
            else:
                grad.sub_(weight, alpha=number).mul_(scale)


def _change(pairs: list[tuple[Tensor, Tensor]], along: Tensor, factor: Tensor) -> None:
    # The numbers stay on the device: the host does not wait for the gradients.
    for (weight, grad), number, scale in zip(pairs, along, factor, strict=True):
        precise = torch.promote_types(grad.dtype, torch.float32)
        rest = torch.addcmul(grad.to(precise), weight.to(precise), number.to(precise), value=-1).mul_(scale)
        grad.copy_(torch.where(number == 0, grad, rest))
