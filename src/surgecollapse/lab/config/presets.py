"""Settings that fit together: what each optimizer needs, and what holds where a task says nothing else.

A preset is data: the keys of :class:`surgecollapse.lab.config.RunConfig` that differ from its defaults. Those of a task
stand in its file, in :mod:`surgecollapse.lab.tasks`.
"""

from __future__ import annotations

from typing import Any

from surgecollapse.lab.config.method import DEFAULT_POLICY

Preset = dict[str, Any]

DEFAULT_TASK_PRESET: Preset = {
    "model": "mlp",
    "widths": (256, 256),
    "policy": DEFAULT_POLICY,
    "optimizer": "adamw",
    "grokfast": "none",
    "steps": 2_000,
}
"""What holds for every task that says nothing else."""

OPTIMIZER_PRESETS: dict[str, Preset] = {
    "adamw": {},
    "adam": {"weight_decay": 0.0},
    "rmsprop": {"weight_decay": 0.0},
    "muon": {"momentum": 0.95, "beta2": 0.95},
    "lion": {"lr": 3e-4, "momentum": 0.9, "beta2": 0.99},
    "sgd": {"lr": 0.05, "weight_decay": 5e-4},
}
"""The tasks' settings are for adamw. Its decoupled weight decay would drown the loss where it is an L2 term (chance on
digits), and its rates are far too small for plain gradients."""
