"""What a model answers, beside the labels: rows of logits, and whether a net of a user fits its data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgecollapse.lab.config import ConfigError
from surgecollapse.lab.data.streamed import StreamedData
from surgecollapse.lab.references import is_reference, label
from surgecollapse.torch_utils.modules import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data

_ROWS = 2
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a model raises over inputs of another form than it was written for."""


def as_rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One row of logits for each label: classes lie on the last axis, or as torch's losses have them on the second.

    Args:
        logits: (n, K); (n, …, K) or (n, K, …) beside labels of more axes.
        labels: (n, …).

    Returns:
        Logits (N, K) and labels (N,).

    Raises:
        ValueError: if the shapes do not belong together.

    >>> rows, labels = as_rows(torch.zeros(2, 5, 7, 7), torch.zeros(2, 7, 7, dtype=torch.int64))
    >>> rows.shape, labels.shape
    (torch.Size([98, 5]), torch.Size([98]))
    """
    if logits.ndim != labels.ndim + 1:
        raise ValueError(f"outputs of shape {tuple(logits.shape)} beside labels of shape {tuple(labels.shape)}")
    if logits.shape[:-1] != labels.shape:
        logits = logits.movedim(1, -1)
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"no axis of classes in outputs {tuple(logits.shape)} of labels {tuple(labels.shape)}")
    return (logits, labels) if labels.ndim == 1 else (logits.flatten(0, -2), labels.flatten())


def right_share(answers: Tensor, labels: Tensor, tolerance: float = 0.0) -> float:
    """Share of the labels whose class has the largest output, over all positions of text. NaN never counts.

    Where labels are numbers, the share of the answers that are as near as ``tolerance``.

    Args:
        answers: outputs (…, K); (…, 1) or (…) for numbers.
        labels: int64 (…), or floating point.
        tolerance: largest error of a right answer.

    >>> right_share(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([1, 1]))
    0.5
    >>> right_share(torch.tensor([[torch.nan, 2.0], [3.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    >>> right_share(torch.tensor([[70.2], [64.0]]), torch.tensor([70.0, 66.0]), tolerance=1.0)
    0.5
    """
    if labels.is_floating_point():
        if answers.numel() != labels.numel():  # of a loss of the user's own
            return 0.0
        return ((answers.reshape(labels.shape) - labels).abs() <= tolerance).double().mean().item()
    if answers.ndim != labels.ndim + 1:
        return 0.0
    rows, labels = as_rows(answers, labels)
    right = (rows.argmax(dim=-1) == labels) & ~rows.isnan().any(dim=-1)
    return right.double().mean().item()


def fitted(config: RunConfig, model: nn.Module, data: Data, loss: Callable[[Tensor, Tensor], Tensor]) -> Data:
    """Check that data, model and loss of a user belong together, on two samples.

    Args:
        config: the run.
        model: the net; neither it nor the random state is changed.
        data: what it reads.
        loss: of outputs and labels.

    Returns:
        The data; their number of classes, where only the model says it, is that of its outputs.

    Raises:
        ConfigError: in one line, what came and what was expected.
    """
    if not any(map(is_reference, (config.data.task, config.model.name, config.run.loss))) and not isinstance(
        data, StreamedData
    ):
        return data
    x, y = data.x_train[:_ROWS], data.y_train[:_ROWS]
    outputs = _answer(model, x, config.model.label)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model {config.model.label} has no parameter that is trained")
    _check_settings(config, data)
    if is_reference(config.run.loss):
        _check_loss(loss, outputs, y, config.run.loss)
    elif y.is_floating_point():
        if outputs.numel() != y.numel():
            raise ConfigError(
                f"model {config.model.label} gives outputs {tuple(outputs.shape)} for labels {tuple(y.shape)} that are "
                "numbers: expected as many outputs as labels, or a loss of your own"
            )
    else:
        return _with_classes(config, data, outputs, y)
    return data


def _answer(model: nn.Module, x: Tensor, name: str) -> Tensor:
    said = f"inputs {tuple(x.shape)} of {x.dtype}"
    try:
        with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs: Any = model(x)
    except _FAULTS as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"model {name} cannot read {said}: {line}") from error
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"model {name} gives a {type(outputs).__name__} for {said}: expected a tensor; wrap the model in a module "
            "that returns one, such as its logits"
        )
    if not outputs.ndim or len(outputs) != len(x):
        raise ConfigError(f"model {name} gives {tuple(outputs.shape)} for {said}: expected one row for each sample")
    return outputs


def _check_settings(config: RunConfig, data: Data) -> None:
    numbers = data.y_train.is_floating_point()
    if numbers and not is_reference(config.run.loss) and config.run.loss not in ("auto", "mse"):
        raise ConfigError(f"loss = {config.run.loss!r} is for classes, and the labels are numbers: drop it")
    for key, value in (("forecast", config.run.forecast), ("class_weights", config.run.class_weights)):
        if value != "none" and (numbers or isinstance(data, StreamedData)):
            raise ConfigError(f"{key} = {value!r} is for classes of data in memory: drop it")


def _check_loss(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, y: Tensor, name: str) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            value: Any = loss(outputs, y)
    except _FAULTS as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        shapes = f"outputs {tuple(outputs.shape)} and labels {tuple(y.shape)} of {y.dtype}"
        raise ConfigError(f"loss {label(name)} failed on {shapes}: {line}") from error
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        came = f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"{value!r}"
        raise ConfigError(f"loss {label(name)} gave {came}: expected a tensor with one number, the mean over samples")


def _with_classes(config: RunConfig, data: Data, outputs: Tensor, y: Tensor) -> Data:
    try:
        rows, _ = as_rows(outputs, y)
    except ValueError as error:
        raise ConfigError(
            f"model {config.model.label} does not fit: {error}; expected logits (n, classes) for class labels (n,), or "
            "floating point labels, or a loss of your own"
        ) from error
    there = rows.shape[-1]
    if data.num_classes > there:
        raise ConfigError(
            f"model {config.model.label} gives {there} logits, and the labels of {data.name} go up to "
            f"{data.num_classes - 1}: expected {data.num_classes} logits"
        )
    return data if data.num_classes else replace(data, num_classes=there)
