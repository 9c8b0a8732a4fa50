"""OrthoGrad (Prieto et al. 2025, arXiv 2501.04697): take from each gradient the part along its own weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surgecollapse.functional.projections import projection_factors, relative_floor
from surgecollapse.gradients.dense_check import check_dense
from surgecollapse.gradients.flat_buffers import FlatBuffer, groups
from surgecollapse.gradients.stateless import Stateless
from surgecollapse.torch_utils.chunking import Run, blocks, faster, share, shared
from surgecollapse.torch_utils.row_sums import grams, row_sums
from surgecollapse.torch_utils.shards import Shards, is_sharded, local

_LAYOUTS = 64
"""Sets of shapes that are remembered: a net gives gradients to few."""


class OrthoGrad(Stateless):
    """⊥Grad: replace each gradient by its part orthogonal to the weight, g⊥ = g − (w·g)/(w·w)·w.

    What is taken away would only scale the logits up, towards softmax collapse. Any optimizer becomes its ⊥ form and
    keeps its groups, schedulers and state dict: see :func:`surgecollapse.transform_gradients`.

    * Inner products are those of whole parameter tensors, summed over the processes that hold parts of one, in float64
      (float32 on devices without). Half precision is computed in float32 and rounded once.
    * One-dimensional and single-element parameters are left alone: their gradient is mostly, or wholly, along
      themselves.
    * A zero weight, a zero gradient and non-finite gradients are left as they are.
    * On an accelerator tensors are taken together, 16 million entries at a time (or one larger tensor), in four copies
      of that size.

    Args:
        rescale: bring g⊥ back to the norm of g, as the published code does; ``False``: eq. 12 of the paper.
        floor: the largest factor of the rescaling is 1/floor, in (0, 1]. Where ‖g⊥‖ ≤ floor·‖g‖, what is left of the
            gradient is taken to be rounding, and stays small. The published code amplifies it to the full norm.
            Default: √ε of the gradient's dtype, 3.5e-4 in float32.
        parameters: project these parameters only; default: all.

    Raises:
        ValueError: if ``floor`` lies outside (0, 1].

    >>> import torch
    >>> weight, gradient = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    >>> OrthoGrad()([weight], [gradient])
    >>> gradient.tolist()
    [[0.0, 5.0]]

    When to use:
        The cosine of descent direction and weights is near 1
        (:func:`surgecollapse.functional.naive_loss_minimization`), so training only scales the logits up. It gained
        most in front of Muon.

    Cost:
        No state. Two passes over weights and gradients, of which one sums in float64. On a CPU both take 2.2 times the
        same operations in float32, over 24 million entries. On one H200 a training step of a 25-million-parameter
        transformer takes 1.09 (0.90 to 1.18) of the plain one.

    Deviations:
        Equation 12 of the paper does not rescale; the published code does, and is the default. The published code
        amplifies rounding to the full norm where the gradient is parallel to the weight; here the factor is
        bounded. Vectors are left alone.

    Source:
        Prieto, Barsbey, Mediano, Birdal 2025, arXiv 2501.04697, eq. 12.
    """

    stage = "project"

    def __init__(
        self, rescale: bool = True, *, floor: float | None = None, parameters: Iterable[Tensor] | None = None
    ) -> None:
        if floor is not None and not 0.0 < floor <= 1.0:
            raise ValueError(f"floor must lie in (0, 1], got {floor}")
        self.rescale, self.floor = bool(rescale), floor
        self._only = None if parameters is None else dict.fromkeys(parameters)
        self._layouts: dict[tuple[tuple[torch.Size, ...], torch.device], FlatBuffer] = {}

    def __repr__(self) -> str:
        return f"OrthoGrad(rescale={self.rescale}, floor={self.floor})"

    @torch.no_grad()
    def __call__(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Project ``grads`` in place, once per optimizer step; the two sequences correspond.

        Raises:
            TypeError: if a gradient is sparse.
        """
        alike: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        split: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        for weight, grad in zip(params, grads, strict=True):
            if grad.ndim < 2 or grad.numel() < 2 or (self._only is not None and weight not in self._only):
                continue
            check_dense(self, grad)
            if is_sharded(grad):
                split.setdefault((grad.device, grad.dtype), []).append((weight, grad))
                continue
            pair = (torch.view_as_real(weight), torch.view_as_real(grad)) if grad.is_complex() else (weight, grad)
            alike.setdefault((grad.device, pair[1].dtype), []).append(pair)
        for (_, dtype), pairs in split.items():
            self._project_parts(pairs, dtype)
        for (device, dtype), pairs in alike.items():
            if self._waits_for(device):
                self._project(pairs, dtype)
            else:
                for some in groups(pairs):
                    self._project_together(some, dtype)

    @staticmethod
    def _waits_for(device: torch.device) -> bool:
        # Looking at a number costs nothing on the CPU; on an accelerator the host would wait for all work under way.
        return device.type == "cpu"

    def _project(self, pairs: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
        def left(along: Tensor) -> Tensor:
            return _squares_of_the_rest(pairs, along)

        along, factor = self._factors(grams(pairs), dtype, left)
        _change_on_host(pairs, along, factor)

    def _project_parts(self, pairs: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
        """Project gradients of which each process holds a part, by inner products summed over the parts."""
        grads = [grad for _, grad in pairs]
        shards, parts = Shards.of(grads), [(local(weight).detach(), local(grad)) for weight, grad in pairs]

        def left(along: Tensor) -> Tensor:
            return shards.totals(grads, _squares_of_the_rest(parts, along))

        products = shards.totals(grads, grams(parts))
        along, factor = self._factors(products, dtype, left)
        _change_on_host(parts, along, factor)

    def _project_together(self, pairs: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
        """Nearly every operation is launched once for all pairs, and the numbers stay on the device."""
        weights, grads = [weight for weight, _ in pairs], [grad for _, grad in pairs]
        shapes, device = tuple(grad.shape for grad in grads), grads[0].device
        if (shapes, device) not in self._layouts:
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            self._layouts[shapes, device] = FlatBuffer(shapes, device)
        rows = self._layouts[shapes, device]
        precise = torch.promote_types(dtype, torch.float32)
        w, g = rows.zeros(precise), rows.zeros(precise)
        inside = rows.views(g)
        torch._foreach_copy_(rows.views(w), weights)
        torch._foreach_copy_(inside, grads)

        def left(along: Tensor) -> Tensor:
            rest = torch.addcmul(g, w, rows.each_row(along).to(precise), value=-1)
            return rows.sums(rest, rest)[:, 0]

        along, factor = self._factors(rows.sums(w, g), dtype, left)
        changed = torch.addcmul(g, w, rows.each_row(along).to(precise), value=-1)
        changed.mul_(rows.each_row(factor).to(precise))
        g.copy_(torch.where(rows.each_row(along) == 0, g, changed))  # what is not sound is left as it is
        torch._foreach_copy_(grads, inside)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_layouts": {}}

    def _factors(self, products: Tensor, dtype: torch.dtype, left: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Numbers of the projection and of the rescaling, from w·g, w·w and g·g of every pair (pairs, 3)."""
        numbers = products.unbind(1)
        floor = relative_floor(dtype) if self.floor is None else self.floor
        along, factor = projection_factors(*numbers, floor=floor)
        if not self.rescale:
            return along, torch.ones_like(factor)
        if dtype == torch.float64:
            # The difference of float64 products knows a small ‖g⊥‖ of float32 gradients, but not of float64 ones.
            along, factor = projection_factors(*numbers, floor=floor, left=left(along))
        return along, factor


def _squares_of_the_rest(pairs: Sequence[tuple[Tensor, Tensor]], along: Tensor) -> Tensor:
    """‖g − a·w‖² of each pair of float64 tensors."""
    numbers = along.tolist()

    def work(i: int, w: Tensor, g: Tensor, _: Tensor) -> list[Tensor]:
        g.sub_(w, alpha=numbers[i])
        return [g.mul_(g).sum(1)]

    return row_sums("rests", pairs, work, sums=1)[:, 0]


def _change_on_host(pairs: list[tuple[Tensor, Tensor]], along: Tensor, factor: Tensor) -> None:
    changes = [
        (pair, number, scale)
        for pair, number, scale in zip(pairs, along.tolist(), factor.tolist(), strict=True)
        if number != 0 or scale != 1  # else nothing is along the weight, or not sound: left bit by bit as it is
    ]

    def change(some: list[tuple[tuple[Tensor, Tensor], float, float]], run: Run) -> None:
        if run is not shared:
            for pair, number, scale in some:
                run(partial(_change, number, scale), [pair])
            return
        threads = torch.get_num_threads()
        todo = [(number, scale, lists) for pair, number, scale in some for lists in blocks([pair], threads=threads)]
        share(lambda item: _change(*item), todo)

    if changes:
        faster(("orthogonal", changes[0][0][1].dtype), changes, lambda item: item[0][1].numel(), change)


def _change(number: float, scale: float, lists: tuple[list[Tensor], ...]) -> None:
    weights, grads = lists
    for w, g in zip(weights, grads, strict=True):
        if g.dtype in (torch.float16, torch.bfloat16):
            g.copy_(g.float().sub_(w.float(), alpha=number).mul_(scale))
        else:
            g.sub_(w, alpha=number).mul_(scale)
