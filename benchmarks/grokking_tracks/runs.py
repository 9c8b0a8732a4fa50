"""Runs of the grokking records: tracks, methods, and one training loop without a run store, so that steps are cheap."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgecollapse.attaching.averaging import average_weights
from surgecollapse.attaching.row_norms import clip_rows
from surgecollapse.attaching.transforms import transform_gradients
from surgecollapse.forecast.times import GENERALIZE, IN_A_ROW, first_at
from surgecollapse.lab.config import RunConfig
from surgecollapse.lab.config.method import PlainTraining
from surgecollapse.lab.training.attachments import Attached, attached_to
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.environment import training_device
from surgecollapse.lab.training.evaluation import predict
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import bounded_rows, make_loss, make_optimizer, make_transforms, rate_factor
from surgecollapse.lab.training.sampler import Batches
from surgecollapse.record import MemoryRecorder

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data

FIRST = 40
"""Step of the first evaluation: nothing generalizes sooner."""


@dataclass(frozen=True)
class Run:
    """What one run gave."""

    steps: list[int]
    validation: list[float]
    seconds: float
    """Of the processor, on one thread: on a shared machine that of the wall clock says little."""
    sparsity: list[float] | None = None
    """At the evaluations, of the prunable weights; ``None`` without a policy."""
    goal: float = GENERALIZE
    """Validation accuracy that counts."""

    @property
    def reached(self) -> int | None:
        """Step of the first of three evaluations on end at the goal."""
        return first_at(self.steps, self.validation, self.goal, in_a_row=IN_A_ROW)

    @property
    def row(self) -> dict[str, Any]:
        """For the file of rows."""
        return {
            "reached": self.reached,
            "steps": self.steps[-1],
            "best": round(max(self.validation), 4),
            "last": round(self.validation[-1], 4),
            "seconds": round(self.seconds, 2),
            **self._of_sparsity(),
        }

    def _of_sparsity(self) -> dict[str, Any]:
        """Sparsity at that step and at the end, and the best accuracy among evaluations as sparse as the last."""
        if self.sparsity is None:
            return {}
        last = self.sparsity[-1]
        best = max(v for v, s in zip(self.validation, self.sparsity, strict=True) if s >= last)
        at = None if self.reached is None else round(self.sparsity[self.steps.index(self.reached)], 4)
        return {"sparsity_reached": at, "sparsity": round(last, 4), "best_sparse": round(best, 4)}


def train(
    config: RunConfig,
    *,
    give_up: dict[int, float] | None = None,
    at_end: Callable[[nn.Module, Data], None] | None = None,
) -> Run:
    """Train one configuration until it holds 95% of the validation set, or to its last step.

    ``stop_at_accuracy`` takes the place of 95%. With a policy, a run also goes on until the mask is final: only then
    the net is as sparse as was asked for.

    Args:
        config: the run; every ``evaluate_every`` steps it is evaluated.
        give_up: a run whose accuracy is below that at that step ends; for searches only.
        at_end: is given the net, with the average of its weights where there is one, and the data.
    """
    began, run, limit = time.process_time(), config.run, config.run.steps
    goal = run.stop_at_accuracy or GENERALIZE
    assert limit is not None
    device = training_device(config)
    data = load_data(config).to(device)
    model = build_model(config, data).to(device)
    optimizer, loss = make_optimizer(config, model), make_loss(config, data)
    attached = _attached(config, model, optimizer, loss)
    controller, averaged = attached.controller, attached.averaged
    batches = Batches(len(data.x_train), run.batch_size, (run.seed + 0xBA7C4) % 2**63)
    steps: list[int] = []
    seen: list[float] = []
    sparsity: list[float] | None = None if controller is None else []
    for step in range(limit):
        chosen = config.optimizer
        rate = chosen.lr * rate_factor(
            step, limit, schedule=chosen.schedule, warmup=chosen.warmup, hold=chosen.lr_hold_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        rows = next(batches).to(device)
        optimizer.zero_grad()
        weight = len(rows) / run.batch_size if run.scale_partial_batches else 1.0
        value = loss(model(data.x_train[rows]), data.y_train[rows])
        (weight * value).backward()
        attached.note(value, data.y_train[rows])
        optimizer.step()
        if (step + 1) % run.evaluate_every or step + 1 < FIRST:
            continue
        steps.append(step + 1)
        if averaged is None:
            seen.append(_accuracy(model, data))
        else:
            with averaged.applied():
                seen.append(_accuracy(model, data))
        if controller is not None and sparsity is not None:
            sparsity.append(controller.sparsity)
            if not controller.frozen:
                continue
        if len(seen) >= IN_A_ROW and min(seen[-IN_A_ROW:]) >= goal:
            break
        if give_up and max(seen) < give_up.get(step + 1, 0.0):
            break
    if controller is not None:
        controller.finalize()
    attached.remove()
    if averaged is not None:
        averaged.apply()
    if at_end is not None:
        at_end(model, data)
    return Run(steps, seen, time.process_time() - began, sparsity, goal)


def _attached(config: RunConfig, model: Any, optimizer: Any, loss: Any) -> Attached:
    """What the configuration asks for; without a policy nothing is recorded, so that steps are cheap."""
    if not isinstance(config.method, PlainTraining):
        assert config.run.steps is not None
        return attached_to(
            model, optimizer, config, total_steps=config.run.steps, criterion=loss, recorder=MemoryRecorder()
        )
    transforms, clipped, decay = make_transforms(config, model), None, config.transforms.ema_decay
    handle = transform_gradients(optimizer, transforms) if transforms else None
    if config.transforms.max_row_norm is not None:
        clipped = clip_rows(optimizer, config.transforms.max_row_norm, parameters=bounded_rows(model))
    averaged = average_weights(model, optimizer, decay=decay) if decay else None
    return Attached(transforms=handle, clipped=clipped, averaged=averaged)


def _accuracy(model: Any, data: Any) -> float:
    right = predict(model, data.x_validation).argmax(dim=1) == data.y_validation
    return float(right.double().mean())
