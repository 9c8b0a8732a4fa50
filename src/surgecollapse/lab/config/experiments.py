"""Published experiments by name: a task with every setting that its paper names.

An experiment is data, keys of :class:`surgecollapse.lab.config.RunConfig`; what is given beside it wins over it.
``surgecollapse run grokfast-modular --seed 3`` is the task ``modular`` with these settings.
"""

from __future__ import annotations

from surgecollapse.lab.config.presets import Preset

_PLAIN: Preset = {"policy": "none"}

_GROKFAST_MODULAR: Preset = {
    **_PLAIN,
    "task": "modular",
    "operation": "mul",
    "modulus": 97,
    "train_fraction": 0.5,
    "model": "decoder",
    "widths": (128, 512),
    "activation": "gelu",
    "optimizer": "adam",
    "lr": 1e-3,
    "momentum": 0.9,
    "beta2": 0.98,
    "warmup": 10,
    "batch_size": 512,
    "evaluate_every": 10,
    "checkpoint_every": 1_000,
    "stop_at_accuracy": 0.95,
}

_RECORD_125: Preset = {
    **_GROKFAST_MODULAR,
    "steps": 300,
    "optimizer": "muon",
    "lr": 6e-3,
    "muon_lr": 0.5,
    "muon_tokens": True,
    "muon_beta1": 0.8,
    "momentum": 0.75,
    "beta2": 0.95,
    "weight_decay": 2.0,
    "decay_vectors": False,
    "embedding_lr": 2.0,
    "embedding_scale": 0.2,
    "evaluate_every": 5,
}
_RECORD: Preset = {
    **_RECORD_125,
    "lr": 9e-3,
    "average_decay": 0.8,
    "weigh_batches": True,
    "position_lr": 1 / 3,
    "position_scale": 0.1,
}

_PRIETO_MODULAR: Preset = {
    **_PLAIN,
    "task": "modular",
    "operation": "add",
    "modulus": 113,
    "train_fraction": 0.4,
    "model": "mlp",
    "widths": (200, 200),
    "bias": False,
    "optimizer": "adamw",
    "lr": 1e-2,
    "weight_decay": 0.0,
    "beta2": 0.99,
    "eps": 1e-25,
    "batch_size": 0,
    "warmup": 0,
    "evaluate_every": 50,
    "checkpoint_every": 5_000,
}
_STABLEMAX: Preset = {"loss": "stablemax", "precision": "float64", "beta2": 0.999, "steps": 80_000}
_ORTHOGONAL: Preset = {"orthograd": "rescaled", "beta2": 0.999, "eps": 1e-8, "steps": 300, "evaluate_every": 10}
_ORTHOGONAL_SGD: Preset = {
    "optimizer": "sgd",
    "lr": 10.0,
    "momentum": 0.8,
    "weight_decay": 0.0,
    "eps": 1e-8,
    "orthograd": "rescaled",
    "loss": "stablemax",
    "precision": "float64",
    "steps": 400,
    "evaluate_every": 10,
}
_ORTHOGONAL_MUON: Preset = {**_ORTHOGONAL, "optimizer": "muon", "lr": 3e-2, "momentum": 0.5, "beta2": 0.95}
_PRODUCT: Preset = {"operation": "mul"}
_PRIETO_TRANSFORMER: Preset = {
    **_PRIETO_MODULAR,
    "model": "transformer",
    "widths": (128, 512),
    "bias": True,
    "lr": 1e-3,
    "steps": 5_000,
    "evaluate_every": 20,
    "checkpoint_every": 500,
}

_PRIETO_PARITY: Preset = {
    **_PRIETO_MODULAR,
    "task": "parity",
    "parity_bits": 3,
    "noise_bits": 40,
    "train_fraction": 0.5,
}

_MNIST: Preset = {
    **_PLAIN,
    "task": "mnist",
    "train_samples": 1_000,
    "standardize": False,
    "model": "mlp",
    "widths": (200, 200),
    "activation": "relu",
    "dropout": 0.0,
    "init_scale": 8.0,
    "loss": "mse",
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "batch_size": 200,
    "warmup": 0,
    "schedule": "constant",
    "steps": 100_000,
    "evaluate_every": 100,
    "checkpoint_every": 5_000,
}

_IMDB: Preset = {
    **_PLAIN,
    "task": "imdb",
    "train_samples": 750,
    "vocabulary": 1_000,
    "text_length": 500,
    "content_words": True,
    "model": "lstm",
    "widths": (64, 256),
    "dropout": 0.0,
    "init_scale": 6.0,
    "optimizer": "adamw",
    "lr": 3e-4,
    "weight_decay": 1.0,
    "batch_size": 50,
    "clip": 5.0,
    "warmup": 0,
    "schedule": "constant",
    "steps": 10_000,
    "evaluate_every": 100,
    "checkpoint_every": 500,
}
_IMDB_FILTER: Preset = {"weight_decay": 10.0, "grokfast": "ema", "grokfast_alpha": 0.98, "grokfast_lamb": 2.0}
_SMALL: Preset = {"text_length": 128, "widths": (64, 128), "steps": 6_000}

_QM9: Preset = {
    **_PLAIN,
    "task": "qm9",
    "train_samples": 50,
    "smallest": True,
    "model": "gnn",
    "widths": (32, 16, 32),
    "init_scale": 3.0,
    "loss": "mse",
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "batch_size": 32,
    "epochs": 50_000.0,
    "evaluate_every": 100,
    "checkpoint_every": 5_000,
}

EXPERIMENTS: dict[str, Preset] = {
    "grokfast-modular": {
        **_GROKFAST_MODULAR,
        "steps": 5_000,
        "weight_decay": 0.005,
        "grokfast": "ema",
        "grokfast_alpha": 0.98,
        "grokfast_lamb": 2.0,
    },
    "grokfast-modular-ma": {
        **_GROKFAST_MODULAR,
        "steps": 5_000,
        "weight_decay": 0.01,
        "grokfast": "ma",
        "grokfast_window": 100,
        "grokfast_lamb": 5.0,
    },
    "grokfast-modular-baseline": {**_GROKFAST_MODULAR, "steps": 100_000, "weight_decay": 0.0, "evaluate_every": 50},
    "grokfast-modular-adamw": {
        **_GROKFAST_MODULAR,
        "steps": 2_000,
        "optimizer": "adamw",
        "lr": 3e-3,
        "weight_decay": 1.0,
    },
    "grokfast-modular-muon": {
        **_GROKFAST_MODULAR,
        "steps": 600,
        "optimizer": "muon",
        "lr": 5e-3,
        "weight_decay": 2.0,
        "momentum": 0.95,
        "beta2": 0.95,
        "evaluate_every": 5,
    },
    "grokfast-modular-record": _RECORD,
    "grokfast-modular-record-125": _RECORD_125,
    "grokfast-mnist": {
        **_MNIST,
        "weight_decay": 2.0,
        "grokfast": "ema",
        "grokfast_alpha": 0.8,
        "grokfast_lamb": 0.1,
    },
    "grokfast-mnist-baseline": _MNIST,
    "grokfast-mnist-record": {
        **_MNIST,
        "optimizer": "muon",
        "lr": 1e-2,
        "weight_decay": 2.0,
        "momentum": 0.9,
        "beta2": 0.95,
        "steps": 1_000,
        "evaluate_every": 25,
    },
    "grokfast-imdb": {**_IMDB, **_IMDB_FILTER},
    "grokfast-imdb-baseline": _IMDB,
    "grokfast-imdb-small": {**_IMDB, **_IMDB_FILTER, **_SMALL},
    "grokfast-imdb-small-baseline": {**_IMDB, **_SMALL},
    "grokfast-qm9": {**_QM9, "grokfast": "ema", "grokfast_alpha": 0.9, "grokfast_lamb": 1.0},
    "grokfast-qm9-baseline": {**_QM9, "weight_decay": 0.0},
    "omnigrok-mnist": {**_MNIST, "precision": "float64"},
    "prieto-modular": {**_PRIETO_MODULAR, "steps": 80_000},
    "prieto-modular-float64": {**_PRIETO_MODULAR, "steps": 80_000, "loss": "cross_entropy_float64"},
    "prieto-modular-stablemax": {**_PRIETO_MODULAR, **_STABLEMAX},
    "prieto-modular-orthograd": {**_PRIETO_MODULAR, **_ORTHOGONAL},
    "prieto-modular-orthosgd": {**_PRIETO_MODULAR, **_ORTHOGONAL_SGD},
    "prieto-modular-record": {**_PRIETO_MODULAR, **_ORTHOGONAL_MUON},
    "prieto-product": {**_PRIETO_MODULAR, **_PRODUCT, "steps": 100_000},
    "prieto-product-float64": {**_PRIETO_MODULAR, **_PRODUCT, "steps": 100_000, "loss": "cross_entropy_float64"},
    "prieto-product-stablemax": {**_PRIETO_MODULAR, **_PRODUCT, **_STABLEMAX, "steps": 100_000},
    "prieto-product-orthograd": {**_PRIETO_MODULAR, **_PRODUCT, **_ORTHOGONAL},
    "prieto-product-orthosgd": {**_PRIETO_MODULAR, **_PRODUCT, **_ORTHOGONAL_SGD},
    "prieto-transformer": _PRIETO_TRANSFORMER,
    "prieto-transformer-decay": {**_PRIETO_TRANSFORMER, "weight_decay": 1.5},
    "prieto-transformer-stablemax": {**_PRIETO_TRANSFORMER, **_STABLEMAX},
    "prieto-transformer-orthograd": {**_PRIETO_TRANSFORMER, **_ORTHOGONAL, "steps": 5_000},
    "prieto-parity": {**_PRIETO_PARITY, "steps": 80_000},
    "prieto-parity-stablemax": {**_PRIETO_PARITY, **_STABLEMAX},
    "prieto-parity-float64": {**_PRIETO_PARITY, "steps": 80_000, "loss": "cross_entropy_float64"},
    "prieto-parity-orthograd": {**_PRIETO_PARITY, **_ORTHOGONAL, "steps": 1_000},
    "prieto-parity-record": {**_PRIETO_PARITY, **_ORTHOGONAL_MUON, "lr": 2e-2},
    "nanda-modular": {
        **_PLAIN,
        "task": "modular",
        "operation": "add",
        "modulus": 113,
        "train_fraction": 0.3,
        "model": "transformer",
        "widths": (128, 512),
        "activation": "relu",
        "loss": "cross_entropy_float64",
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 1.0,
        "momentum": 0.9,
        "beta2": 0.98,
        "batch_size": 0,
        "warmup": 10,
        "steps": 40_000,
        "evaluate_every": 100,
        "checkpoint_every": 2_000,
    },
}
"""By name: Grokfast (arXiv 2405.20233), Prieto et al. (2501.04697), Nanda et al. (2301.05217), Omnigrok (2210.01117).
In all of them the validation set is half of what is not for training, and the other half is the test set."""
