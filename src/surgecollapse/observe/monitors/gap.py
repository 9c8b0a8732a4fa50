"""The generalization gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series


@monitor("gap")
class GeneralizationGap:
    """``gap/loss`` = L_validation − L_training, of the losses noted last.

    Both come from ``note(loss=…, validation_loss=…)``; the training loss is that of one batch, with its noise. Nothing
    is recorded unless both are noted.

    When to use:
        You note the validation loss. The slope of the validation loss was the best early warning of grokking in our
        study.

    Cost:
        None: it subtracts two numbers that the loop has.

    Deviations:
        None.

    Source:
        The generalization gap in its usual sense.
    """

    name = "gap"
    needs = ()

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """One number of the whole net."""
        if not {"loss", "validation_loss"} <= set(context.notes):
            return {}
        return {"gap/loss": context.notes["validation_loss"] - context.notes["loss"]}
