"""How far a gradient step only scales the weights up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from surgecollapse.functional import naive_loss_minimization
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Number, Series


@monitor("alignment")
class Alignment:
    """``alignment/naive_loss``: cos(−∇L, W), by weight matrix and of all (Prieto et al. 2025, arXiv 2501.04697).

    See :func:`surgecollapse.functional.naive_loss_minimization`; near 1 the net lowers its loss by scaling its logits
    up. The gradient is that of the training batch, before transforms, masks and whatever weight decay the optimizer
    adds.

    When to use:
        The training loss falls while validation accuracy stands still. A cosine near 1 calls for OrthoGrad or
        weight decay.

    Cost:
        One inner product and two norms for each weight matrix.

    Deviations:
        None.

    Source:
        Prieto, Barsbey, Mediano, Birdal 2025, arXiv 2501.04697.
    """

    name = "alignment"
    needs = ("gradients",)

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """One cosine a weight matrix, and one of all parameters."""
        if not context.gradients:
            return {}
        found = naive_loss_minimization(context.weights, context.gradients)
        cosines: dict[str | None, Number] = {None: found.overall}
        cosines.update((name, cosine) for name, cosine in found.per_tensor.items() if context.weights[name].ndim >= 2)
        return {"alignment/naive_loss": cosines}
