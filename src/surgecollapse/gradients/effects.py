"""What gradient transforms do to the gradients, in a few numbers: looked at when a reading is due, not every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from surgecollapse.functional.projections import widest
from surgecollapse.gradients.equalize import EqualizeSpectrum
from surgecollapse.protocols import GradientTransform


class Effects:
    """Compares gradients before and after each transform; the transforms and what they give stay the same, bitwise.

    Sums of products wait on the device until :meth:`read`: there is one host sync. A transform costs one copy of the
    gradients and one pass over both, at the steps that are looked at.

    =========================  ======================================================================================
    ``grokfast/slow_norm``     ‖h‖ of the slow gradient h that a filter adds λ times (or puts in the gradient's place)
    ``grokfast/ratio``         ‖λh‖/‖g‖: how many times the raw gradient g that is
    ``grokfast/cosine``        cos(h, g): 1 where the gradient has not turned for as long as the filter remembers
    ``orthograd/removed``      1 − Σ‖g⊥‖²/Σ‖g‖² over all tensors: share of the gradient's energy along the weights
    ``spectrum/cosine``        cos(G, UVᵀ) over all matrices: 1 where singular values were equal already
    ``clip/factor``            ‖clipped‖/‖g‖
    =========================  ======================================================================================

    A number that is not finite (no gradient at all) is left out.

    >>> from surgecollapse import Grokfast
    >>> effects, g = Effects(), torch.tensor([[3.0, 4.0]])
    >>> effects.see(Grokfast(lamb=2.0), [g], [3 * g])
    >>> effects.read()
    {'grokfast/slow_norm': 5.0, 'grokfast/ratio': 2.0, 'grokfast/cosine': 1.0}
    """

    def __init__(self) -> None:
        self._sums: dict[GradientTransform, Tensor] = {}

    def clear(self) -> None:
        """Forget what was seen."""
        self._sums.clear()

    @torch.no_grad()
    def see(self, transform: GradientTransform, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """Add what one transform did to the gradients of one optimizer."""
        products = [_products(g, changed) for g, changed in zip(before, after, strict=True)]
        if not products:
            return
        home = products[0].device
        wide = widest(home)
        both, old, new = torch.stack([p.to(home, wide) for p in products]).unbind(1)
        # By tensor: each has a direction, and perhaps a rescaling, of its own.
        kept = torch.where(new > 0, both.square() / new, torch.zeros_like(both))
        found = torch.stack([both.sum(), old.sum(), new.sum(), kept.sum()])
        earlier = self._sums.get(transform)
        self._sums[transform] = found if earlier is None else earlier + found.to(earlier)

    def read(self) -> dict[str, float]:
        """The numbers of what was seen since the last call, on the host."""
        found: dict[str, float] = {}
        for transform, sums in self._sums.items():
            both, old, new, kept = sums.tolist()
            if transform.stage == "filter":
                found |= _slow(transform, both, old, new)
            elif old > 0:
                found |= _changed(transform, both, old, new, kept)
        self.clear()
        return {name: value for name, value in found.items() if math.isfinite(value)}


def _changed(transform: GradientTransform, both: float, old: float, new: float, kept: float) -> dict[str, float]:
    if isinstance(transform, EqualizeSpectrum):
        return {"spectrum/cosine": both / math.sqrt(old * new)} if new > 0 else {}
    return (
        {"orthograd/removed": 1.0 - kept / old}
        if transform.stage == "project"
        else {"clip/factor": math.sqrt(new / old)}
    )


def _products(before: Tensor, after: Tensor) -> Tensor:
    """b·a, b·b and a·a of all entries, in float32 at least: three decimals are enough here, and it is cheap."""
    pair = (torch.view_as_real(before), torch.view_as_real(after)) if before.is_complex() else (before, after)
    dtype = torch.promote_types(pair[0].dtype, torch.float32)
    b, a = (part.reshape(-1).to(dtype) for part in pair)
    return torch.stack([torch.dot(b, a), torch.dot(b, b), torch.dot(a, a)])


def _slow(transform: GradientTransform, both: float, old: float, new: float) -> dict[str, float]:
    """What a filter added: d = ĝ − g, or ĝ itself where it takes the place of g."""
    lamb = abs(float(getattr(transform, "lamb", 1.0)))
    added, along = (new, both) if getattr(transform, "replace", False) else (new - 2 * both + old, both - old)
    size, raw = math.sqrt(max(0.0, added)), math.sqrt(old)
    found = {"grokfast/slow_norm": size / lamb} if lamb else {}
    if raw > 0:
        found["grokfast/ratio"] = size / raw
    if raw * size > 0:
        found["grokfast/cosine"] = max(-1.0, min(1.0, along / (raw * size)))
    return found
