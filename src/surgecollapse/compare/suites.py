"""The suites, as data: which nets are trained on what, and at which sparsities."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgecollapse.errors import ConfigError
from surgecollapse.lab.config.keys import flat
from surgecollapse.lab.references import missing_parts, parts_of


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One net on one task."""

    label: str
    """Names it in tables and files; unique in its suite."""
    title: str
    settings: Mapping[str, Any]
    """Keys of :class:`~surgecollapse.lab.config.RunConfig`, ``task`` among them."""
    sparsities: tuple[float, ...]

    @property
    def tuned_at(self) -> float:
        """The sparsity at which methods are tuned: .9, or the nearest that the entry has (the lower of two).

        >>> Entry(label="a", title="a", settings={}, sparsities=(0.8, 0.95)).tuned_at
        0.95
        """
        return min(self.sparsities, key=lambda sparsity: (round(abs(sparsity - 0.9), 9), sparsity))


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a comparison is run on."""

    name: str
    description: str
    entries: tuple[Entry, ...]


_OF_METHODS = ("seed", "policy", "policy_options", "sparsity")
"""Keys of a file that the methods of a comparison set."""

_MNIST1D: dict[str, Any] = {
    "task": "mnist1d",
    "optimizer": "adamw",
    "lr": 1e-2,
    "schedule": "cosine",
    "warmup": 0,
    "weight_decay": 0.1,
    "steps": 4_000,
    "batch_size": 100,
    "dropout": 0.0,
}
_MLP = Entry(
    label="mnist1d-mlp",
    title="MNIST-1D, MLP 40-256-256-10",
    settings={**_MNIST1D, "model": "mlp", "widths": (256, 256)},
    sparsities=(0.8, 0.9, 0.95, 0.98),
)
_CNN = Entry(
    label="mnist1d-cnn",
    title="MNIST-1D, CNN of 3 × 64 channels",
    settings={**_MNIST1D, "model": "cnn", "widths": (64, 64, 64)},
    sparsities=(0.9, 0.95),
)
_NOISE = {"label_noise": 0.2}
_IMAGES: dict[str, Any] = {"optimizer": "adamw", "schedule": "cosine", "batch_size": 128, "dropout": 0.0}

_GPT = Entry(
    label="kjv-gpt",
    title="King James text, GPT of 1 M parameters",
    settings={
        "task": "kjv",
        "model": "gpt",
        "widths": (128, 512),
        "activation": "gelu",
        "text_length": 64,
        "optimizer": "adamw",
        "lr": 1e-2,
        "schedule": "cosine",
        "warmup": 50,
        "weight_decay": 0.1,
        "beta2": 0.99,
        "clip": 1.0,
        "steps": 1_000,
        "batch_size": 16,
        "dropout": 0.0,
    },
    sparsities=(0.9,),
)

_ALL = (
    Suite(
        name="smoke",
        description="8×8 digits and a small MLP: about a minute, to see how it works",
        entries=(
            Entry(
                label="digits-mlp",
                title="Digits, MLP 64-64-64-10",
                settings={"task": "digits", "widths": (64, 64), "steps": 400, "every": 10, "warmup": 0, "dropout": 0.0},
                sparsities=(0.9,),
            ),
        ),
    ),
    Suite(name="quick", description="MNIST-1D: an MLP at four sparsities, a CNN at two", entries=(_MLP, _CNN)),
    Suite(name="quick-mlp", description="the MLP of quick", entries=(_MLP,)),
    Suite(name="quick-cnn", description="the CNN of quick", entries=(_CNN,)),
    Suite(
        name="noise",
        description="quick with 20% of the training labels wrong, at 90%",
        entries=(
            Entry(
                label="mnist1d-mlp-noise",
                title="MNIST-1D, 20% label noise, MLP",
                settings={**_MLP.settings, **_NOISE},
                sparsities=(0.9,),
            ),
            Entry(
                label="mnist1d-cnn-noise",
                title="MNIST-1D, 20% label noise, CNN",
                settings={**_CNN.settings, **_NOISE},
                sparsities=(0.9,),
            ),
        ),
    ),
    Suite(
        name="full",
        description="MNIST (MLP, CNN), Fashion-MNIST (CNN), King James text (GPT), IMDb (LSTM); needs --data-dir",
        entries=(
            Entry(
                label="mnist-mlp",
                title="MNIST, LeNet-300-100",
                settings={**_IMAGES, "task": "mnist", "model": "mlp", "widths": (300, 100), "lr": 3e-3, "steps": 4_000},
                sparsities=(0.9, 0.98),
            ),
            Entry(
                label="mnist-cnn",
                title="MNIST, CNN 16-32",
                settings={**_IMAGES, "task": "mnist", "model": "cnn", "widths": (16, 32), "lr": 1e-2, "steps": 1_500},
                sparsities=(0.9, 0.98),
            ),
            Entry(
                label="fashion-cnn",
                title="Fashion-MNIST, CNN 16-32",
                settings={
                    **_IMAGES,
                    "task": "fashion-mnist",
                    "model": "cnn",
                    "widths": (16, 32),
                    "lr": 2e-2,
                    "steps": 2_000,
                },
                sparsities=(0.9,),
            ),
            _GPT,
            Entry(
                label="imdb-lstm",
                title="IMDb 25k, own split, LSTM of 2 × 128",
                settings={
                    "task": "imdb",
                    "model": "lstm",
                    "widths": (64, 128),
                    "readout": "mean",
                    "vocabulary": 2_000,
                    "text_length": 80,
                    "train_samples": None,
                    "optimizer": "adamw",
                    "lr": 1e-2,
                    "schedule": "cosine",
                    "warmup": 0,
                    "weight_decay": 0.0,
                    "clip": 5.0,
                    "steps": 600,
                    "batch_size": 50,
                    "dropout": 0.0,
                },
                sparsities=(0.9,),
            ),
        ),
    ),
    Suite(
        name="long-text",
        description="the GPT of full for 4,000 steps instead of 1,000: do cycles pay when there is time to learn?",
        entries=(replace(_GPT, settings={**_GPT.settings, "lr": 3e-3, "steps": 4_000}),),
    ),
)

SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}
"""By name, in the order in which they are listed to users."""


def suite_of(file: Path) -> Suite:
    """A suite of one entry: the task and the net of a configuration, or of a user's own project.

    Args:
        file: a TOML file of keys, or a Python file that defines ``data``, ``model`` (or ``net``) and, if need be,
            ``loss``.

    Raises:
        ConfigError: if the file cannot be read, or lacks a part.
    """
    if file.suffix == ".py":
        settings: dict[str, Any] = dict(parts_of(file))
        if missing := missing_parts(file, settings):
            raise ConfigError(missing)
    else:
        try:
            settings = flat(tomllib.loads(file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"cannot read the configuration {file}: {reason}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file} is not a TOML file: {error}") from error
        settings = {key: value for key, value in settings.items() if key not in _OF_METHODS}
        if "task" not in settings:
            raise ConfigError(f"{file} names no task: add `task` to it")
    entry = Entry(label=file.stem, title=file.stem, settings=settings, sparsities=(0.9,))
    return Suite(name=file.stem, description=f"what {file} trains", entries=(entry,))
