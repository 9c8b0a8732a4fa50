"""From a configuration to its data.

Every task gives three disjoint sets. What is learned from data (means, scales) is learned on the training set, and the
test set is never used before the end. All randomness comes from generators of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data, generator
from surgecollapse.lab.data.streamed import StreamedData, limited

if TYPE_CHECKING:
    from surgecollapse.lab.config import RunConfig


def load_data(config: RunConfig) -> Data:
    """Load the task of a configuration, in the representation and the precision that its model reads.

    ``train_samples`` and ``label_noise`` are drawn by generators of their own; images are standardized before.

    Raises:
        ConfigError: for a setting that leaves a set empty, or more samples than there are.
        MissingDataError: if files or packages are missing, with how to get them.
        TypeError: if what a package offers gives no :class:`Data`.
    """
    task, seed = config.data, config.run.data_seed
    data = task.load(seed, "pairs" if config.model.pairs_of_tokens else "tokens")
    if not task.draws_samples:
        data = _limited(data, task.train_samples, seed)
    data = with_label_noise(data, getattr(task, "label_noise", 0.0), seed)
    if config.run.precision == "float32" or not data.x_train.is_floating_point():
        return data
    names = [f"{letter}_{part}" for part in ("train", "validation", "test") for letter in "xy"]
    tensors = {name: getattr(data, name) for name in names}
    return replace(data, **{name: x.double() for name, x in tensors.items() if x.is_floating_point()})


def without_test(data: Data) -> Data:
    """The data with the validation set in the place of the test set, which is no longer there."""
    held = replace(data, x_test=data.x_validation, y_test=data.y_validation)
    return replace(held, test=held.validation) if isinstance(held, StreamedData) else held


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
    if isinstance(data, StreamedData):
        return limited(data, train_samples)
    if train_samples > len(data.x_train):
        raise ConfigError(f"train_samples = {train_samples}: {data.name} has {len(data.x_train)} training samples")
    rows = torch.randperm(len(data.x_train), generator=generator(seed, "subset"))[:train_samples]
    return replace(
        data,
        x_train=data.x_train[rows],
        y_train=data.y_train[rows],
        description=f"{data.description}; {train_samples} of the training samples used",
    )
