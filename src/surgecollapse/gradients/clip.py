"""The optional final clip: after filters and projections, before masking."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from surgecollapse.functional.projections import inner_product
from surgecollapse.gradients.dense_check import check_dense
from surgecollapse.gradients.stateless import Stateless
from surgecollapse.torch_utils.row_sums import squares
from surgecollapse.torch_utils.shards import Shards, local


class ClipNorm(Stateless):
    """Clip the norm over all gradients together: g ← g · min(1, max_norm/‖g‖).

    Clip raw gradients in the loop, as always; this clip comes after the transforms, which may have made them larger.
    Of gradients whose parts lie on several processes it is the norm over all parts, after one all-reduce.
    The norm is computed in float64 (float32 on devices without), and the host does not wait for it. Gradients with a
    non-finite entry among them are all left as they are.

    Args:
        max_norm: largest norm, positive and finite.

    Raises:
        ValueError: if ``max_norm`` is not.

    >>> import torch
    >>> gradient = torch.tensor([3.0, 4.0])
    >>> ClipNorm(1.0)([torch.zeros(2)], [gradient])
    >>> gradient.tolist()
    [0.60..., 0.80...]

    When to use:
        After transforms that may enlarge gradients. It does not replace clipping in the loop, which comes before
        the transforms.

    Cost:
        One pass over the gradients for the norm and one to scale them. No state, and no wait for the device.

    Deviations:
        None from ``torch.nn.utils.clip_grad_norm_``, but that the norm is computed in float64 and gradients with a
        non-finite entry are left as they are.

    Source:
        Pascanu, Mikolov, Bengio 2013, arXiv 1211.5063, algorithm 1.
    """

    stage = "clip"

    def __init__(self, max_norm: float) -> None:
        if not (math.isfinite(max_norm) and max_norm > 0):
            raise ValueError(f"max_norm must be positive and finite, got {max_norm}")
        self.max_norm = float(max_norm)

    def __repr__(self) -> str:
        return f"ClipNorm({self.max_norm})"

    @torch.no_grad()
    def __call__(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:  # noqa: ARG002
        """Clip ``grads`` in place, once per optimizer step.

        Raises:
            TypeError: if a gradient is sparse.
        """
        by_device: dict[torch.device, list[Tensor]] = {}
        for grad in grads:
            check_dense(self, grad)
            by_device.setdefault(grad.device, []).append(grad)
        if not by_device:
            return
        home, shards = next(iter(by_device)), Shards.of(grads)
        counted = [[local(grad) for grad in own if shards.counts_here(grad)] for own in by_device.values()]
        energies = [_energy(own).to(home) for own in counted if own]
        norm = shards.total(torch.stack(energies).sum() if energies else torch.zeros((), device=home)).sqrt()
        factor = torch.where(norm.isfinite() & (norm > self.max_norm), self.max_norm / norm, torch.ones_like(norm))
        for device, own in by_device.items():
            torch._foreach_mul_([local(grad) for grad in own], factor.to(device))


def _energy(grads: list[Tensor]) -> Tensor:
    """Sum of the squares of all entries."""
    if grads[0].device.type == "cuda":  # launched once for all tensors
        real = [torch.view_as_real(grad) if grad.is_complex() else grad for grad in grads]
        return torch.stack(torch._foreach_norm(real, 2, dtype=torch.float64)).square().sum()
    if grads[0].device.type == "cpu":
        return squares([torch.view_as_real(grad) if grad.is_complex() else grad for grad in grads]).sum()
    return torch.stack([inner_product(grad, grad) for grad in grads]).sum()
