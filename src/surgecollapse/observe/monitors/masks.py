"""The state of masks and energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from surgecollapse.observe.monitors.registry import monitor
from surgecollapse.torch_utils.row_sums import squares

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Number, Series


@monitor("masks")
class Masks:
    """Sparsity of each prunable weight, and the mean square of what is open.

    Of a weight w of n entries with mask m in {0, 1}, nothing without a controller::

        mask/sparsity  1 − Σm/n
        energy/live    Σmw²/Σm

    When to use:
        With a controller, to see which layers are pruned and how much energy their open weights have.

    Cost:
        One pass over masks and weights.

    Deviations:
        None.

    Source:
        This project; energy as in :mod:`surgecollapse.functional.energy`.
    """

    name = "masks"
    needs = ()

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Two numbers a prunable weight."""
        names = [name for name in context.live if name in context.weights]
        if not names:
            return {}
        weights = [context.weights[name] for name in names]
        if all(weight.device.type == "cpu" and not weight.is_complex() for weight in weights):
            energies = squares(weights)
        else:
            energies = torch.stack(torch._foreach_norm(weights, 2, dtype=torch.float64)).square()
        energy: dict[str | None, Number] = {
            name: total / max(1.0, context.live[name] * context.weights[name].numel())
            for name, total in zip(names, energies, strict=True)
        }
        return {"mask/sparsity": {name: 1.0 - context.live[name] for name in names}, "energy/live": energy}
