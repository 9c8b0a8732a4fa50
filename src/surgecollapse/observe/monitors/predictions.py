"""What the outputs look like as logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from surgecollapse.functional import predictive_entropy, softmax_collapse
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series


@monitor("predictions")
class Predictions:
    """Logits of the probe batch: their scale, their entropy and whether the softmax has collapsed.

    ``logits/scale``: root mean square of the logits about their mean over the classes. ``entropy/predictive``: mean
    H(softmax)/ln K. ``logits/softmax_collapse``: share of samples whose softmax has absorbed all classes but one, in
    the logits' own precision (Prieto et al. 2025, arXiv 2501.04697). Which output holds the logits, and on which axis
    the classes are, is found as for readings (``Readings(output=…)``). Of a model that ends in a softmax, logarithms of
    its probabilities stand for the logits. Outputs of one number are no logits: nothing is recorded.

    When to use:
        For classifiers. A share of collapsed samples near 1 while accuracy stands still calls for StableMax or a
        float64 loss.

    Cost:
        One forward pass of the probe batch, shared with the other monitors.

    Deviations:
        None.

    Source:
        Prieto, Barsbey, Mediano, Birdal 2025, arXiv 2501.04697 (softmax collapse).
    """

    name = "predictions"
    needs = ("outputs",)

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Three numbers of the whole net."""
        rows = context.scores
        if rows is None or rows.shape[1] < 2 or not len(rows):
            return {}
        return {
            "logits/scale": _scale(rows),
            "logits/softmax_collapse": softmax_collapse(rows),
            "entropy/predictive": predictive_entropy(rows),
        }


def _scale(logits: Tensor) -> Tensor:
    wide = logits.double() if logits.dtype.itemsize > 4 else logits.float()
    scale: Tensor = (wide - wide.mean(1, keepdim=True)).square().mean().sqrt()
    return scale
