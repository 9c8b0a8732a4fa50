"""Runs of the grokking records: tracks, methods, and one training loop without a run store, so that steps are cheap."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from surgecollapse.attaching.averaging import average_weights
from surgecollapse.attaching.row_norms import clip_rows
from surgecollapse.attaching.transforms import transform_gradients
from surgecollapse.forecast.times import GENERALIZE, IN_A_ROW, first_at
from surgecollapse.lab.config import RunConfig
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.evaluation import predict
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import bounded_rows, make_loss, make_optimizer, make_transforms, rate_factor
from surgecollapse.lab.training.sampler import Batches

FIRST = 40
"""Step of the first evaluation: nothing generalizes sooner."""


@dataclass(frozen=True)
class Run:
    """What one run gave."""

    steps: list[int]
    validation: list[float]
    seconds: float
    """Of the processor, on one thread: on a shared machine that of the wall clock says little."""

    @property
    def reached(self) -> int | None:
        """Step of the first of three evaluations on end with 95% validation accuracy."""
        return first_at(self.steps, self.validation, GENERALIZE, in_a_row=IN_A_ROW)

    @property
    def row(self) -> dict[str, Any]:
        """For the file of rows."""
        return {
            "reached": self.reached,
            "steps": self.steps[-1],
            "best": round(max(self.validation), 4),
            "last": round(self.validation[-1], 4),
            "seconds": round(self.seconds, 2),
        }


def train(config: RunConfig, *, give_up: dict[int, float] | None = None) -> Run:
    """Train one configuration until it holds 95% of the validation set, or to its last step.

    Args:
        config: the run; every ``evaluate_every`` steps it is evaluated.
        give_up: a run whose accuracy is below that at that step ends; for searches only.
    """
    began, run, limit = time.process_time(), config.run, config.run.steps
    assert limit is not None
    data = load_data(config)
    model = build_model(config, data)
    optimizer, loss = make_optimizer(config, model), make_loss(config, data)
    transforms = make_transforms(config)
    if transforms:
        transform_gradients(optimizer, transforms)
    if config.transforms.max_row_norm is not None:
        clip_rows(optimizer, config.transforms.max_row_norm, parameters=bounded_rows(model))
    decay = config.transforms.ema_decay
    averaged = average_weights(model, optimizer, decay=decay) if decay else None
    batches = Batches(len(data.x_train), run.batch_size, (run.seed + 0xBA7C4) % 2**63)
    steps: list[int] = []
    seen: list[float] = []
    for step in range(limit):
        chosen = config.optimizer
        rate = chosen.lr * rate_factor(
            step, limit, schedule=chosen.schedule, warmup=chosen.warmup, hold=chosen.lr_hold_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        rows = next(batches)
        optimizer.zero_grad()
        weight = len(rows) / run.batch_size if run.scale_partial_batches else 1.0
        (weight * loss(model(data.x_train[rows]), data.y_train[rows])).backward()
        optimizer.step()
        if (step + 1) % run.evaluate_every or step + 1 < FIRST:
            continue
        steps.append(step + 1)
        if averaged is None:
            seen.append(_accuracy(model, data))
        else:
            with averaged.applied():
                seen.append(_accuracy(model, data))
        if len(seen) >= IN_A_ROW and min(seen[-IN_A_ROW:]) >= GENERALIZE:
            break
        if give_up and max(seen) < give_up.get(step + 1, 0.0):
            break
    return Run(steps, seen, time.process_time() - began)


def _accuracy(model: Any, data: Any) -> float:
    right = predict(model, data.x_validation).argmax(dim=1) == data.y_validation
    return float(right.double().mean())
