"""Curvature of the loss on the probe batch, as the optimizer meets it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.functional import Hessian, batch_loss, hutchinson_trace, largest_eigenvalue, stability_threshold
from surgecollapse.observe.monitors.probe_losses import NoLossError, class_loss, open_entries
from surgecollapse.observe.monitors.registry import monitor
from surgecollapse.torch_utils.modules import canonical_name, undisturbed

if TYPE_CHECKING:
    from torch import Tensor

    from surgecollapse.observe.monitors.probe_losses import Criterion
    from surgecollapse.protocols import MonitorContext, Series


@monitor("curvature")
class Curvature:
    """``curvature/sharpness``, ``curvature/threshold`` and ``curvature/trace`` on the probe batch, in eval mode.

    Sharpness is λ_max(D^½ H D^½)/2 with D the step sizes: η, or η/(√v̂ + ε) for optimizers of Adam's kind. With plain
    gradient descent it is ηλ_max/2. Above the threshold (:func:`surgecollapse.functional.stability_threshold`) steps on
    a quadratic diverge. Full-batch training settles near it (Cohen et al., arXiv 2103.00065, 2207.14484). Warm power
    iteration follows λ_max, one Hessian product an event. It lags a little where it changes fast. The trace is that of
    H by Hutchinson's estimate, noisy: average over events. Weights that a mask holds at zero are left out.

    The loss is ``criterion`` of the output and the noted labels; without one, cross-entropy where the output is
    ``(n, classes)`` and the labels are ``(n,)`` integers. Where neither fits, or the optimizer is neither SGD nor keeps
    ``exp_avg_sq``, nothing is recorded. Several optimizers or groups: the lowest of their thresholds.

    Args:
        criterion: used instead of the one that the loop gave.
        trace_samples: Hessian products for the trace at an event; 0: no trace.
        first: products at the first event, where nothing is warm yet.
        seed: of the first vector and the random signs.

    When to use:
        Training is unstable, or the learning rate is to be chosen close to the edge of stability. It needs labels,
        from ``note(targets=…)``. Not among the default monitors: name it.

    Cost:
        Two Hessian products on the probe batch: 0.8 training steps on a decoder of 0.42 M parameters, 9.3 on one of
        25 M parameters. The first event takes eleven products.

    Deviations:
        λ_max is followed by warm power iteration, where the papers run Lanczos at each time. The probe batch stands
        for the full training set.

    Source:
        Cohen et al. 2021, arXiv 2103.00065, and 2022, arXiv 2207.14484; Hutchinson 1989 for the trace.
    """

    name = "curvature"
    needs = ()
    period = 2
    first_cost = 40.0
    """Ten Hessian products and one for the trace."""

    def __init__(
        self, criterion: Criterion | None = None, *, trace_samples: int = 1, first: int = 10, seed: int = 0
    ) -> None:
        if trace_samples < 0 or first < 1:
            raise ValueError(f"expected trace_samples ≥ 0 and first ≥ 1, got {trace_samples} and {first}")
        self._criterion, self._samples, self._first, self._seed = criterion, trace_samples, first, seed
        self._vector: Tensor | None = None
        self._shift: Tensor | None = None

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Three numbers of the whole net."""
        criterion = self._criterion or context.criterion or class_loss
        if context.inputs is None or context.targets is None:
            return {}
        found = _step_sizes(context)
        if found is None:
            return {}
        sizes, threshold = found
        paths = {canonical_name(path): path for path, _ in context.model.named_parameters()}
        weights = {paths[name]: context.weights[name] for name in sizes}
        home = next(iter(weights.values())).device
        loss = batch_loss(context.model, criterion, context.inputs, context.targets.to(home))
        with undisturbed(context.model):
            try:
                hessian = Hessian(loss, weights)
            except NoLossError:
                return {}
            return self._sharpness(hessian, context, sizes, threshold)

    def _sharpness(
        self, hessian: Hessian, context: MonitorContext, sizes: Mapping[str, Tensor], threshold: float
    ) -> dict[str, Series]:
        live = torch.cat([open_entries(context, name).flatten() for name in sizes])
        roots = torch.cat([sizes[name].expand_as(context.weights[name]).flatten() for name in sizes]).sqrt() * live
        start, shift, cold = self._vector, self._shift, False
        if start is None or start.shape != roots.shape:
            cold, shift = True, None
            start = torch.randn(hessian.size, generator=torch.Generator().manual_seed(self._seed)).to(roots)
        pair = largest_eigenvalue(
            _Scaled(hessian, roots),
            start.to(roots),
            iterations=self._first if cold else 1,
            shift=0.0 if shift is None else shift.to(roots),
        )
        self._vector, self._shift = pair.vector, pair.shift
        series: dict[str, Series] = {"curvature/sharpness": pair.value / 2, "curvature/threshold": threshold}
        if self._samples:
            signs = torch.Generator().manual_seed(self._seed + context.step)
            trace = hutchinson_trace(_Scaled(hessian, live), live, self._samples, signs)
            series |= {"curvature/trace": trace.value, "curvature/trace_error": trace.standard_error}
        return series

    def state_dict(self) -> dict[str, Any]:
        """The vector that the next event starts from, and the shift."""
        return {"vector": self._vector, "shift": self._shift}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._vector, self._shift = state["vector"], state["shift"]


class _Scaled:
    """S H S with a diagonal S."""

    def __init__(self, hessian: Hessian, diagonal: Tensor) -> None:
        self._hessian, self._diagonal = hessian, diagonal

    def __matmul__(self, vector: Tensor) -> Tensor:
        return self._diagonal * (self._hessian @ (self._diagonal * vector))


def _step_sizes(context: MonitorContext) -> tuple[dict[str, Tensor], float] | None:
    """What one unit of gradient moves each weight, and the lowest threshold; ``None`` for unknown optimizers."""
    names = {id(p): canonical_name(path) for path, p in context.model.named_parameters()}
    sizes: dict[str, Tensor] = {}
    thresholds = []
    for optimizer in context.optimizers:
        for group in optimizer.param_groups:
            adaptive = "betas" in group
            if not (adaptive or isinstance(optimizer, torch.optim.SGD)):
                return None
            for p in group["params"]:
                name = names.get(id(p))
                if name is None or name not in context.weights:
                    continue
                rate: Tensor = torch.as_tensor(group["lr"], dtype=p.dtype, device=p.device)
                if adaptive:
                    state = optimizer.state.get(p, {})
                    if "exp_avg_sq" not in state:
                        continue  # it has not moved yet
                    seen = torch.as_tensor(state["step"], dtype=p.dtype, device=p.device)
                    square = state.get("max_exp_avg_sq", state["exp_avg_sq"]) / (1 - group["betas"][1] ** seen)
                    rate = rate / (square.sqrt() + group.get("eps", 0.0))
                sizes[name] = rate.to(p.dtype)
            thresholds.append(
                stability_threshold(momentum=float(group["betas"][0]), adaptive=True)
                if adaptive
                else stability_threshold(
                    momentum=group["momentum"], dampening=group["dampening"], nesterov=group["nesterov"]
                )
            )
    return (sizes, min(thresholds)) if sizes else None
