"""Gradient noise: the batch size beyond which more samples help little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgecollapse.observe.monitors.entries import Entries
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series


@monitor("noise_scale")
class NoiseScale:
    """Simple noise scale B = tr Σ/|G|² in samples (McCandlish, Kaplan, Amodei 2018, arXiv 1812.06162, eq. 2.9).

    Estimated from two *successive* gradients g, g′ of batches of b samples: E g·g′ = |G|² and E(|g|² + |g′|²)/2 = |G|²
    + tr Σ/b. This supposes that G changes little in one step and that the batches are drawn independently. The paper
    compares batches of two sizes (appendix A.1) instead. As there, both parts are averaged over events (decay 0.9)
    before they are divided. Sums over more than 16,384 entries of a tensor are estimated from so many, drawn once.
    ``noise/scale`` is not recorded while the estimate of |G|² is not positive, nor before the batch size is known.
    Where the batches of an epoch are disjoint parts of few samples, g·g′ is too small and the scale too large.

    When to use:
        To choose a batch size: far below the noise scale, larger batches need proportionally fewer steps. Batches
        must be drawn independently.

    Cost:
        One copy of at most 16,384 gradient entries of each tensor, and two inner products.

    Deviations:
        The paper compares gradients of batches of two sizes; here two successive gradients of one size are
        compared, which needs no extra batch.

    Source:
        McCandlish, Kaplan, Amodei 2018, arXiv 1812.06162, eq. 2.9 and appendix A.1.
    """

    name = "noise_scale"
    needs = ("gradients",)

    def __init__(self) -> None:
        self._entries = Entries()
        self._mean: Tensor | None = None

    def prepare(self, context: MonitorContext) -> None:
        """Remember the first of the two gradients."""
        self._entries.keep(context.step, context.gradients)

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """B of the whole net, as far as it is seen by now."""
        before = self._entries.recall(context.step)
        names = [name for name in context.gradients if name in before]
        if not names or context.batch_size is None:
            return {}
        parts = [self._products(name, before[name], context.gradients[name]) for name in names]
        products = torch.stack([part.to(parts[0].device) for part in parts]).sum(0)
        usable = products.isfinite().all()
        if self._mean is None:
            self._mean = torch.where(usable, products, 0.0)
        else:
            mean = self._mean.to(products.device)
            self._mean = torch.where(usable, torch.lerp(products, mean, 0.9), mean)
        signal, energy = self._mean.unbind()
        noise = (energy - signal).clamp(min=0.0)
        return {"noise/scale": torch.where(signal > 0, context.batch_size * noise / signal, torch.nan)}

    def _products(self, name: str, before: Tensor, gradient: Tensor) -> Tensor:
        """Estimates of g·g′ and (|g|² + |g′|²)/2 over one tensor."""
        now = self._entries.sample(name, gradient)
        before = before.to(now.device)
        scale = gradient.numel() / max(1, now.numel())
        energy = (before.square().sum() + now.square().sum()) / 2
        return scale * torch.stack([torch.dot(before, now), energy]).double()

    def state_dict(self) -> dict[str, Any]:
        """The averages, and the first gradient between the two."""
        return {"entries": self._entries.state_dict(), "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._entries.load_state_dict(state["entries"])
        self._mean = state["mean"]
