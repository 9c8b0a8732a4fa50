"""What is kept of a finished run as its summary: its end and, dense and sparse, the size of its net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.forecast.times import grokking_summary
from surgecollapse.functional.masks import packed_bytes
from surgecollapse.lab.training.flops import cost_summary

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.controller.controller import Controller
    from surgecollapse.lab.training.trainer import Training


@torch.no_grad()
def weight_summary(model: nn.Module, controller: Controller | None) -> dict[str, Any]:
    """Counts and sizes of the parameters as they are now.

    Returns:
        ``parameters`` and ``nonzeros`` of the whole model, and ``prunable`` of them under a mask. ``sparsity`` is the
        share of the prunable that the mask holds at zero, ``sparsity_total`` that of all parameters that are exactly
        zero. ``bytes_dense`` and ``bytes_sparse``; the latter is an estimate with non-zero values and a bit mask for
        each parameter.
    """
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    nonzeros = sum(int(torch.count_nonzero(parameter)) for parameter in parameters)
    live, prunable = (0, 0) if controller is None else controller.open_weights()
    return {
        "parameters": count,
        "prunable": prunable,
        "nonzeros": nonzeros,
        "sparsity": 1 - live / prunable if prunable else 0.0,
        "sparsity_total": 1 - nonzeros / count,
        "bytes_dense": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "bytes_sparse": sum(
            packed_bytes(parameter.numel(), int(torch.count_nonzero(parameter)), parameter.element_size())
            for parameter in parameters
        ),
    }


def run_summary(training: Training, scores: dict[str, Any]) -> dict[str, Any]:
    """Everything that tables and comparisons read of a run.

    Args:
        training: at its end, its mask final.
        scores: of the net on the held-out samples.
    """
    config, store, stopping, step = training.config, training.store, training.stopping, training.step
    interventions = [event.kind for event in store.interventions() if event.kind != "skip"]
    steps, validation = store.measurements("accuracy/validation")
    _, train = store.measurements("accuracy/train")
    return {
        "task": config.data.label,
        "policy": config.method.policy,
        "seed": config.run.seed,
        "steps": step,
        "diverged": training.diverged,
        "stopped_early": stopping.early,
        "stopped_by_hand": training.command_loop.stopping,
        "modified_by_user": store.modified_by_user,
        "reached_goal": stopping.reached_goal,
        "given_up": training.given_up,
        **scores,
        "best_validation": None if stopping.best is None else stopping.best[0],
        "best_step": None if stopping.best is None else stopping.best_step,
        "seconds": training.seconds,
        "grokking": grokking_summary(
            steps.tolist(), train.tolist(), validation.tolist(), training.seconds / max(1, step)
        ),
        "interventions": len(interventions),
        "interventions_by_kind": {kind: interventions.count(kind) for kind in sorted(set(interventions))},
        **weight_summary(training.model, training.controller),
        **cost_summary(config, training.model, training.data, training.controller, store, step),
    }
