"""Tasks: real data that ordinary installs bring, and the generated tasks of the literature.

Every task gives three disjoint sets; what is learned from data (means, scales) is learned on the training
set, and the test set is never used before the end. All randomness comes from generators of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from surgecollapse.errors import unknown
from surgecollapse.lab.config import ConfigError
from surgecollapse.lab.config.presets import TASK_PRESETS
from surgecollapse.lab.data.dataset import Data, generator
from surgecollapse.lab.data.images import digits, from_idx, mnist5k
from surgecollapse.lab.data.imdb import imdb
from surgecollapse.lab.data.kjv import kjv
from surgecollapse.lab.data.mnist1d import mnist1d
from surgecollapse.lab.data.qm9 import qm9
from surgecollapse.lab.data.synthetic import dummy, modular, parity
from surgecollapse.plugins import find, fitting, offered

if TYPE_CHECKING:
    from pathlib import Path

    from surgecollapse.lab.config import RunConfig

__all__ = ["Data", "dummy", "load_data", "load_task", "modular", "parity", "with_label_noise"]


def load_task(
    name: str,
    *,
    seed: int,
    data_dir: Path | None = None,
    train_samples: int | None = None,
    label_noise: float = 0.0,
    standardize: bool = True,
    qm9_first_molecules: bool = False,
    representation: Literal["tokens", "pairs"] = "tokens",
    operation: str = "add",
    modulus: int = 97,
    train_fraction: float = 0.5,
    parity_bits: int = 3,
    noise_bits: int = 40,
    noise: float = 2.5,
    vocabulary: int = 1_000,
    text_length: int = 500,
    drop_stop_words: bool = False,
) -> Data:
    """Load or generate a task; the same arguments give the same tensors.

    Args:
        name: a key of ``TASK_PRESETS``, or a name that a package registered under the entry-point group
            ``surgecollapse.tasks``.
        seed: of the split, of generated data, of ``train_samples`` and of ``label_noise``, each by its own
            generator.
        data_dir: where the IDX files of mnist and fashion-mnist lie, the standard download of imdb or qm9, or the
            text of kjv.
        train_samples: keep that many training samples, drawn at random.
        label_noise: share of the training labels replaced by another class, in [0, 1].
        standardize: of digits and the MNISTs: subtract the training mean and divide by the training deviation (before
            ``train_samples`` are drawn); else pixels lie in [0, 1].
        qm9_first_molecules: of qm9: train and validate on the first molecules of the files.
        representation: of modular arithmetic: ``tokens`` ``x op y =``, or ``pairs``, two one-hots side by
            side.
        operation: of modular arithmetic: ``add``, ``sub``, ``mul`` or ``div``.
        modulus: of modular arithmetic.
        train_fraction: share of the samples for training, in modular arithmetic and parity, in (0, 1).
        parity_bits: relevant bits of sparse parity.
        noise_bits: irrelevant bits of sparse parity.
        noise: standard deviation of the input noise of dummy.
        vocabulary: words of imdb that are known.
        text_length: words of a review of imdb that are read; characters of a window of kjv.
        drop_stop_words: read the known words of imdb alone, but for stop words.

    Raises:
        ConfigError: for an unknown task or a setting that leaves a set empty.
        MissingDataError: if files or packages are missing, with how to get them.
        TypeError: if what a package registered gives no :class:`Data`.
    """
    if name == "digits":
        data = digits(seed, standardize)
    elif name == "mnist5k":
        data = mnist5k(seed, standardize)
    elif name == "mnist1d":
        data = mnist1d()
    elif name in ("mnist", "fashion-mnist"):
        data = from_idx(name, data_dir, seed, standardize)
    elif name == "modular":
        data = modular(operation, modulus, train_fraction, representation, seed)
    elif name == "parity":
        data = parity(parity_bits, noise_bits, 2_000, train_fraction, seed)
    elif name == "imdb":
        data = imdb(
            seed,
            data_dir=data_dir,
            vocabulary=vocabulary,
            length=text_length,
            samples=train_samples,
            drop_stop_words=drop_stop_words,
        )
        train_samples = None
    elif name == "qm9":
        data = qm9(seed, data_dir=data_dir, samples=train_samples, first_molecules=qm9_first_molecules)
        train_samples = None
    elif name == "kjv":
        data = kjv(data_dir=data_dir, length=text_length)
    elif name == "dummy":
        data = dummy(noise, 10_000, seed)
    else:
        data = _offered(name, seed, data_dir)
    return with_label_noise(_limited(data, train_samples, seed), label_noise, seed)


def _offered(name: str, seed: int, data_dir: Path | None) -> Data:
    """The task that a package offers under this name."""
    if name not in offered("tasks"):
        raise ConfigError(unknown("task", name, [*TASK_PRESETS, *offered("tasks")]))
    data: Data = fitting("tasks", name, find("tasks", "task", name, {})(seed, data_dir), lambda d: isinstance(d, Data))
    return data


def load_data(config: RunConfig) -> Data:
    """Load the task of a configuration, in the representation and the precision that its model reads."""
    representation: Literal["tokens", "pairs"] = "pairs" if config.model.name == "mlp" else "tokens"
    settings: dict[str, Any] = dict(config.data)
    data = load_task(settings.pop("task"), seed=config.run.seed, representation=representation, **settings)
    if config.run.precision == "float32" or not data.x_train.is_floating_point():
        return data
    x_train, x_validation, x_test = (x.double() for x in (data.x_train, data.x_validation, data.x_test))
    return replace(data, x_train=x_train, x_validation=x_validation, x_test=x_test)


def with_label_noise(data: Data, share: float, seed: int) -> Data:
    """The data with ``round(share·n)`` training labels replaced, each by another class drawn uniformly."""
    count = round(share * len(data.y_train))
    if count == 0:
        return data
    draws = generator(seed, "label noise")
    rows = torch.randperm(len(data.y_train), generator=draws)[:count]
    shift = torch.randint(1, data.num_classes, (count,), generator=draws)
    labels = data.y_train.clone()
    labels[rows] = (labels[rows] + shift) % data.num_classes
    return replace(data, y_train=labels, description=f"{data.description}; {share:.0%} of training labels wrong")


def _limited(data: Data, train_samples: int | None, seed: int) -> Data:
    if train_samples is None:
        return data
    if train_samples > len(data.x_train):
        raise ConfigError(f"train_samples = {train_samples}: {data.name} has {len(data.x_train)} training samples")
    rows = torch.randperm(len(data.x_train), generator=generator(seed, "subset"))[:train_samples]
    return replace(
        data,
        x_train=data.x_train[rows],
        y_train=data.y_train[rows],
        description=f"{data.description}; {train_samples} of the training samples used",
    )
