"""Whether the steps of two halves of a batch commute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from surgecollapse.functional import Hessian, batch_loss, commutator_defect
from surgecollapse.observe.monitors.probe_losses import NoLossError, class_loss, open_entries
from surgecollapse.observe.monitors.registry import monitor
from surgecollapse.torch_utils.modules import canonical_name, first_axis, map_tensors, undisturbed

if TYPE_CHECKING:
    from torch import Tensor

    from surgecollapse.observe.monitors.probe_losses import Criterion
    from surgecollapse.protocols import MonitorContext, Series


@monitor("commutator")
class Commutator:
    """``commutator/defect``: how far apart two gradient steps end if their order is swapped.

    A is every second row of the probe batch, B the others, both with their labels, in eval mode. The defect is that of
    :func:`surgecollapse.functional.commutator_defect`: ‖H_A g_B − H_B g_A‖ / (‖g_A‖‖g_B‖). Weights that a mask holds
    at zero are left out. The loss is found as for the monitor ``curvature``; where there is none, or the batch has
    fewer than two rows, nothing is recorded.

    Args:
        criterion: used instead of the one that the loop gave.

    When to use:
        To study the geometry of training on small networks. It needs labels, from ``note(targets=…)``. Not among the
        default monitors: name it. As an alarm before generalization it has not beaten the slope of the validation loss.

    Cost:
        Two gradients that can be differentiated again, and two Hessian products, each on half of the probe batch: about
        two of the events of ``curvature``.

    Deviations:
        The limit for small steps replaces steps of a finite size; on quadratics both are equal. Batches are halves of
        the probe batch, the same at each event.

    Source:
        Xu 2026, arXiv 2602.16967.
    """

    name = "commutator"
    needs = ()
    period = 2
    first_cost = 8.0

    def __init__(self, criterion: Criterion | None = None) -> None:
        self._criterion = criterion

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """One number of the whole net."""
        if context.inputs is None or context.targets is None or len(context.targets) < 2 or not context.weights:
            return {}
        paths = {canonical_name(path): path for path, _ in context.model.named_parameters()}
        weights = {paths[name]: weight for name, weight in context.weights.items()}
        live = torch.cat([open_entries(context, name).flatten() for name in context.weights])
        with undisturbed(context.model):
            try:
                first, second = (self._half(context, weights, live, which) for which in (0, 1))
            except NoLossError:
                return {}
            return {"commutator/defect": commutator_defect(first, second)}

    def _half(self, context: MonitorContext, weights: Mapping[str, Tensor], live: Tensor, which: int) -> _Open:
        assert context.inputs is not None
        assert context.targets is not None
        count, home = len(context.targets), live.device

        def cut(tensor: Tensor) -> Tensor:
            return tensor[which::2] if first_axis(tensor) == count else tensor

        criterion = self._criterion or context.criterion or class_loss
        loss = batch_loss(
            context.model, criterion, map_tensors(context.inputs, cut), context.targets.to(home)[which::2]
        )
        return _Open(Hessian(loss, weights), live)


class _Open:
    """Hessian and gradient of the weights that may move."""

    def __init__(self, hessian: Hessian, live: Tensor) -> None:
        self._hessian, self._live = hessian, live
        self.gradient, self.size = hessian.gradient * live, hessian.size

    def __matmul__(self, vector: Tensor) -> Tensor:
        return self._live * (self._hessian @ (self._live * vector))
