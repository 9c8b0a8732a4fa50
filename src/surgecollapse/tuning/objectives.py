"""What a search over runs can be for: numbers of a finished run, all of them from the validation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgecollapse.errors import ConfigError, unknown

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Objective:
    """One number of a finished run."""

    name: str
    direction: str
    """``maximize`` or ``minimize``."""
    title: str
    """With its unit, for axes and tables."""
    value: Callable[[Row], Any]
    reports: str | None = None
    """Name of the number that evaluations report meanwhile, for pruners; ``None`` where only the end says."""
    test: str | None = None
    """Key of the same number on the test set, seen only in runs on fresh seeds."""


def _of(key: str) -> Callable[[Row], Any]:
    return lambda row: row.get(key)


def _steps_to_grok(row: Row) -> float:
    """Steps until generalization is sustained; twice the steps of the run where it never is (PAR2)."""
    found = row.get("t_gen_sustained")
    return float(2 * row["steps"] if found is None else found)


def _density(row: Row) -> float:
    return round(1.0 - float(row["sparsity"]), 9)


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "maximize", "accuracy", _of("accuracy"), "accuracy", "test_accuracy"),
        Objective("loss", "minimize", "loss", _of("loss"), "loss", "test_loss"),
        Objective("bits_per_character", "minimize", "bits per character", _of("bits_per_character"), None,
                  "test_bits_per_character"),
        Objective("robust_accuracy", "maximize", "accuracy under noise", _of("robust_accuracy")),
        Objective("latency", "minimize", "milliseconds of the exported net", _of("latency")),
        Objective("density", "minimize", "final density", _density),
        Objective("mean_density", "minimize", "mean density in training", _of("mean_density")),
        Objective("flops_training", "minimize", "training FLOPs over dense", _of("flops_training")),
        Objective("flops_inference", "minimize", "inference FLOPs over dense", _of("flops_inference")),
        Objective("bytes", "minimize", "bytes stored sparse", _of("bytes_sparse")),
        Objective("seconds", "minimize", "seconds of training", _of("seconds")),
        Objective("steps_to_grok", "minimize", "steps until it generalizes", _steps_to_grok),
    )
}  # fmt: skip
"""By name. All are measured on the validation set or on the net itself."""

ROBUST, LATENCY = "robust_accuracy", "latency"
NEED_NET = (ROBUST, LATENCY)
"""Those that are measured on the trained net, and only where they are asked for."""
NOISE = 0.5
"""Standard deviation of the noise of ``robust_accuracy``, over that of the validation inputs."""


def choose_objectives(text: str) -> tuple[Objective, ...]:
    """Objectives from comma-separated names; ``name:min`` or ``name:max`` turns one round.

    Raises:
        ConfigError: for an unknown name, one given twice, or a number of the test set.

    >>> [(o.name, o.direction) for o in choose_objectives("accuracy,density")]
    [('accuracy', 'maximize'), ('density', 'minimize')]
    >>> choose_objectives("test_accuracy")
    Traceback (most recent call last):
    surgecollapse.lab.config.ConfigError: objective test_accuracy: the test set is not used for tuning; take accuracy, \
which is of the validation set
    """
    chosen: list[Objective] = []
    for word in (part.strip() for part in text.split(",")):
        if not word:
            continue
        name, _, turn = word.partition(":")
        name = name.removeprefix("val_").removeprefix("validation_")
        if name.startswith("test"):
            own = name.removeprefix("test").lstrip("_") or "accuracy"
            raise ConfigError(
                f"objective {name}: the test set is not used for tuning; take {own}, which is of the validation set"
            )
        if name not in OBJECTIVES:
            raise ConfigError(unknown("objective", name, list(OBJECTIVES)))
        if turn not in ("", "min", "max"):
            raise ConfigError(f"objective {word}: expected {name}:min or {name}:max")
        if name in [objective.name for objective in chosen]:
            raise ConfigError(f"objective {name} is given twice; give it once")
        found = OBJECTIVES[name]
        direction = {"": found.direction, "min": "minimize", "max": "maximize"}[turn]
        chosen.append(Objective(name, direction, found.title, found.value, found.reports, found.test))
    if not chosen:
        raise ConfigError(f"no objective given: expected one of {', '.join(OBJECTIVES)}")
    return tuple(chosen)


def values_of_rows(objectives: Sequence[Objective], rows: Sequence[Row]) -> list[float]:
    """Mean of each objective over the runs of a trial.

    Raises:
        ArithmeticError: if one is missing or not finite, with its name and what to look at.
    """
    if any(row.get("diverged") for row in rows):
        raise ArithmeticError("training diverged: the weights or the loss are not finite; search lower rates")
    found = []
    for objective in objectives:
        values = [objective.value(row) for row in rows]
        if any(value is None for value in values):
            raise ArithmeticError(f"{objective.name} was not measured: this task or model has none")
        if not all(math.isfinite(value) for value in values):
            wrong = next(value for value in values if not math.isfinite(value))
            raise ArithmeticError(f"{objective.name} is {wrong}: training diverged, or nothing was measured")
        found.append(sum(values) / len(values))
    return found
