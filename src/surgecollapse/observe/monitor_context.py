"""Builds what monitors see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgecollapse.observe.activations import ActivationReader, find_sites
from surgecollapse.observe.predictions import Output, class_scores
from surgecollapse.observe.probe import PROBE_ROWS, Probe
from surgecollapse.protocols import Dataflow, MonitorContext
from surgecollapse.torch_utils.modules import canonical_name, first_axis, is_embedding, is_norm, tensors_in
from surgecollapse.torch_utils.step_hooks import parameters_of


class MonitorContexts:
    """Collects what monitors may see of a net: weights, gradients, and one eager pass of the probe batch.

    Args:
        model: the unwrapped model.
        probe: the probe batch.
        sites: patterns on module names to read instead of the activations that follow hidden layers.
        rows: most rows to read at a site.
        criterion: loss of outputs and targets, for monitors that need one.
        output: which entry of the model's output holds the class scores, see
            :func:`~surgecollapse.observe.predictions.class_scores`.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Probe,
        *,
        sites: Sequence[str] | None = None,
        rows: int = 128,
        criterion: Callable[[Any, Tensor], Tensor] | None = None,
        output: Output = None,
    ) -> None:
        self._model, self._probe, self._criterion, self._output = model, probe, criterion, output
        self._dataflow: Dataflow | None = None
        self._patterns, self._rows = sites, rows
        self._reader: ActivationReader | None = None
        self._notes: dict[str, Tensor | float] = {}
        self._targets: Tensor | None = None
        self._labeled = not probe.known  # the labels of a given probe batch are not those of the first batch
        self._samples = 0
        self._counting = True

    def see_batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Count the samples of a batch, until :meth:`first_step_done`."""
        if not self._counting:
            return
        self._samples += first_axis(next(tensors_in([*args, dict(kwargs)]), None)) or 0

    def first_step_done(self) -> None:
        """All batches of the first step were seen."""
        self._counting = False

    def note(self, targets: Tensor | None = None, **numbers: Tensor | float | None) -> None:
        """Keep the last numbers by name, and the labels of the probe batch: the first rows of the first batch."""
        for name, value in numbers.items():
            if value is not None:
                self._notes[name] = value.detach() if isinstance(value, Tensor) else float(value)
        if targets is None or self._targets is not None or not (self._labeled and self._samples):
            return
        if targets.ndim and len(targets) == self._samples:
            self._targets = targets.detach()[:PROBE_ROWS].clone()
        self._labeled = False

    def build(
        self,
        step: int,
        optimizers: Sequence[Optimizer],
        live: Mapping[str, float],
        needs: Collection[str],
        masks: Mapping[str, Tensor] | None = None,
    ) -> MonitorContext:
        """Show the net as it is before optimizer step ``step``, with what is needed of gradients and the probe."""
        named = {canonical_name(n): p for n, p in self._model.named_parameters() if p.requires_grad}
        named = {name: p for name, p in named.items() if p.is_floating_point() and p.numel()}
        activations, returned = self._pass() if {"activations", "outputs"} & set(needs) else ({}, None)
        outputs, scores = self._outputs(returned) if "outputs" in needs else (None, None)
        return MonitorContext(
            step=step,
            model=self._model,
            weights={name: p.detach() for name, p in named.items()},
            gradients=_gradients(named, optimizers) if "gradients" in needs else {},
            live=live,
            masks=masks or {},
            activations=activations,
            outputs=outputs,
            scores=scores,
            inputs=self._probe.arguments(self._model) if self._probe.known else None,
            targets=self._targets,
            criterion=self._criterion,
            notes=self._notes,
            batch_size=self._samples or None,
            optimizers=optimizers,
        )

    def _pass(self) -> tuple[dict[str, Tensor], Any]:
        """Activations on the probe batch, and what the model returns; the same rows and positions every time."""
        if not self._probe.known:
            return {}, None
        if self._reader is None:
            sites = self._find_sites()
            self._reader = ActivationReader(self._model, sites, rows=self._rows, follow=self._patterns is None)
        self._reader.arm(torch.Generator().manual_seed(0), training=False)
        try:
            returned = self._probe.forward(self._model)
            return self._reader.samples, returned
        finally:
            self._reader.disarm()

    def _outputs(self, returned: Any) -> tuple[Tensor | None, Tensor | None]:
        """The first tensor of what the model returned, and the class scores in it."""
        if returned is None:
            return None, None
        return next(tensors_in(returned), None), class_scores(returned, self._model, self._flow(), self._output)

    def _flow(self) -> Dataflow:
        if self._dataflow is None:
            self._dataflow = self._probe.dataflow(self._model)
        return self._dataflow

    def _find_sites(self) -> dict[str, nn.Module]:
        """The layers with a weight matrix, but no embedding, norm, or layer that produces the output."""
        if self._patterns is not None:
            return find_sites(self._model, (), self._patterns)
        heads = self._probe.output_layers(self._model, self._flow())
        skipped = {
            canonical_name(name)
            for name, module in self._model.named_modules()
            if is_norm(module) or is_embedding(module) or canonical_name(name) in heads
        }
        names = [canonical_name(name) for name, p in self._model.named_parameters() if p.ndim >= 2]
        owned = [name for name in names if "." in name and name.rpartition(".")[0] not in skipped]
        return {name: module for name, module in find_sites(self._model, owned).items() if name}

    def state_dict(self) -> dict[str, Any]:
        """What was learned in the first step."""
        return {
            "samples": self._samples,
            "targets": self._targets,
            "labeled": self._labeled,
            "counting": self._counting,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._samples, self._targets = state["samples"], state["targets"]
        self._labeled = state["labeled" if "labeled" in state else "labelled"]  # as version 0.1 spelled it
        self._counting = state["counting"]


def part_of(context: MonitorContext, turn: int, turns: int) -> MonitorContext:
    """Keep every ``turns``-th of the weights, by size, and of the sites: the parts are about equally costly."""
    if turns == 1:
        return context
    by_size = sorted(context.weights, key=lambda name: -context.weights[name].numel())
    mine, sites = set(by_size[turn::turns]), list(context.activations)[turn::turns]
    return replace(
        context,
        weights={name: w for name, w in context.weights.items() if name in mine},
        gradients={name: g for name, g in context.gradients.items() if name in mine},
        activations={site: context.activations[site] for site in sites},
    )


def _gradients(named: Mapping[str, Tensor], optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Gradients by name, dense, and divided by the scale where ``GradScaler`` leaves that to a fused optimizer."""
    scales = {
        id(p): scale
        for optimizer in optimizers
        if (scale := getattr(optimizer, "grad_scale", None)) is not None
        for p in parameters_of(optimizer)
    }
    found: dict[str, Tensor] = {}
    for name, p in named.items():
        if p.grad is None:
            continue
        grad = p.grad.detach()
        grad = grad.to_dense() if grad.is_sparse else grad
        found[name] = grad / torch.as_tensor(scales[id(p)], device=grad.device) if id(p) in scales else grad
    return found
