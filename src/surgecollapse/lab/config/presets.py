"""Settings that make each task just work, on one thread of a small machine in a minute or two.

A preset is data: the keys of :class:`surgecollapse.lab.config.RunConfig` that differ from its defaults.
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

_IMAGES: Preset = {"dropout": 0.1, "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 50}

TASK_PRESETS: dict[str, Preset] = {
    "digits": {**_IMAGES, "steps": 2_000, "evaluate_every": 50, "checkpoint_every": 500},
    "mnist1d": {
        "steps": 4_000,
        "batch_size": 100,
        "lr": 3e-3,
        "weight_decay": 0.1,
        "schedule": "cosine",
    },
    "mnist5k": {**_IMAGES, "steps": 3_000},
    "mnist": {**_IMAGES, "steps": 5_000, "batch_size": 128, "widths": (300, 100)},
    "fashion-mnist": {**_IMAGES, "steps": 5_000, "batch_size": 128, "widths": (300, 100)},
    "modular": {
        "model": "transformer",
        "widths": (128, 512),
        "steps": 2_000,
        "batch_size": 512,
        "lr": 3e-3,
        "weight_decay": 1.0,
        "beta2": 0.98,
        "warmup": 10,
        "evaluate_every": 50,
    },
    "parity": {
        "widths": (200, 200),
        "steps": 2_000,
        "batch_size": 128,
        "weight_decay": 0.5,
        "evaluate_every": 50,
    },
    "imdb": {
        "model": "lstm",
        "widths": (64, 128),
        "text_length": 100,
        "train_samples": 3_000,
        "dropout": 0.3,
        "steps": 600,
        "batch_size": 50,
        "lr": 2e-3,
        "clip": 5.0,
        "schedule": "cosine",
    },
    "kjv": {
        "model": "gpt",
        "widths": (128, 512),
        "activation": "gelu",
        "text_length": 64,
        "batch_size": 16,
        "steps": 2_000,
        "lr": 2e-3,
        "weight_decay": 0.1,
        "beta2": 0.99,
        "clip": 1.0,
        "schedule": "cosine",
        "warmup": 50,
        "evaluate_every": 500,
    },
    "qm9": {
        "model": "gnn",
        "widths": (32, 16, 32),
        "loss": "mse",
        "train_samples": 200,
        "batch_size": 32,
        "steps": 2_000,
        "weight_decay": 0.01,
    },
    "dummy": {"steps": 2_000, "schedule": "cosine", "weight_decay": 0.05, "warmup": 50},
}
"""By task name, in the order in which they are listed to users."""

OPTIMIZER_PRESETS: dict[str, Preset] = {
    "adamw": {},
    "adam": {"weight_decay": 0.0},
    "rmsprop": {"weight_decay": 0.0},
    "muon": {"momentum": 0.95, "beta2": 0.95},
    "sgd": {"lr": 0.05, "weight_decay": 5e-4},
}
"""The tasks' settings are for adamw. Its decoupled weight decay would drown the loss where it is an L2 term (chance on
digits), and its rates are far too small for plain gradients."""
