"""Loss, optimizer and learning rate of a configuration."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgecollapse.functional import softmax_cross_entropy_float64
from surgecollapse.gradients.equalize import EqualizeSpectrum
from surgecollapse.gradients.grokfast import Grokfast, GrokfastMA
from surgecollapse.gradients.orthograd import OrthoGrad
from surgecollapse.lab.config import ConfigError
from surgecollapse.lab.config.optimizer import (
    AdamOptimizer,
    AdamWOptimizer,
    LionOptimizer,
    MuonOptimizer,
    SGDOptimizer,
)
from surgecollapse.lab.config.transforms import ExponentialFilter, WindowFilter
from surgecollapse.lab.data.streamed import StreamedData
from surgecollapse.lab.references import called, found_part, is_reference
from surgecollapse.lab.training.lion import Lion
from surgecollapse.lab.training.muon import Muon
from surgecollapse.lab.training.outputs import as_rows
from surgecollapse.losses import StableMaxCrossEntropy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.config.optimizer import AnyOptimizer
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.protocols import GradientTransform


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weights n/(K·n_k), so that every class weighs the same in sum; 0 for a class without samples.

    Args:
        labels: int64 classes (n,).
        num_classes: K counts the classes that occur.

    Returns:
        float32 weights (num_classes,), with mean 1 over the samples.

    >>> balanced_weights(torch.tensor([0, 0, 0, 1]), 3).tolist()
    [0.6666666865348816, 2.0, 0.0]
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), torch.zeros_like(counts))


class LiveLoss:
    """The loss of a run, whose options a person may change while it trains.

    Args:
        config: the run.
        data: its data.

    Attributes:
        options: what was changed: ``label_smoothing``, ``class_weights``.
    """

    def __init__(self, config: RunConfig, data: Data) -> None:
        self._config = config
        self.options: dict[str, Any] = {}
        self._loss = make_loss(config, data)

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        return self._loss(outputs, labels)

    def change(self, options: Mapping[str, Any], data: Data) -> None:
        """Have these options from now on; none of them: what the configuration says.

        Raises:
            ValueError: if the loss has no such options.
        """
        name = loss_name(self._config, data)
        if options.get("label_smoothing") and name not in ("cross_entropy", "stablemax"):
            raise ValueError(f"loss {name!r} has no label smoothing: cross_entropy and stablemax have")
        if options.get("class_weights") == "balanced" and (
            is_reference(name) or data.y_train.is_floating_point() or isinstance(data, StreamedData)
        ):
            raise ValueError("class weights are for classes of data in memory, and a loss of the library")
        self._loss = make_loss(self._config, data, **options)
        self.options = dict(options)


def make_loss(
    config: RunConfig, data: Data, *, label_smoothing: float = 0.0, class_weights: str | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits (n, K) and labels (n,), a mean over samples; ``mse`` compares with one-hots.

    Of labels with more axes, such as text, the mean over all positions: logits (n, …, K), or (n, K, …) as torch's own
    losses have them. Of labels that are numbers, the mean of the squared errors. A user's own loss is called as it is.

    Args:
        config: the run.
        data: its data.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: ``balanced`` or ``none``; by default what the configuration says.

    Raises:
        ConfigError: if a loss of the user's own is not there or cannot be called.
    """
    if is_reference(config.run.loss):
        return _own_loss(config.run.loss)
    if data.y_train.is_floating_point():
        return lambda outputs, labels: (outputs.reshape(labels.shape) - labels).square().mean()
    loss = _loss_of_rows(config, data, label_smoothing, class_weights or config.run.class_weights)
    if data.y_train.ndim == 1:
        return loss
    return lambda logits, labels: loss(*as_rows(logits, labels))


def loss_name(config: RunConfig, data: Data) -> str:
    """The loss that a run has: what ``auto`` stands for with these labels."""
    if config.run.loss != "auto":
        return config.run.loss
    return "mse" if data.y_train.is_floating_point() else "cross_entropy"


def guessed_classes(config: RunConfig, data: Data) -> int | None:
    """The number K of classes for which guessing has the loss ln K; ``None`` for another loss than cross-entropy."""
    entropies = ("cross_entropy", "cross_entropy_float64", "stablemax")
    return (data.num_classes or None) if loss_name(config, data) in entropies else None


def _own_loss(reference: str) -> Callable[[Tensor, Tensor], Tensor]:
    part = found_part(reference, "loss")
    if isinstance(part, type):
        part = called(part, reference, {})
    if not callable(part):
        raise ConfigError(f"{reference} is a {type(part).__name__}: expected a function of outputs and targets")
    loss: Callable[[Tensor, Tensor], Tensor] = part
    return loss


def _loss_of_rows(config: RunConfig, data: Data, smoothing: float, balance: str) -> Callable[[Tensor, Tensor], Tensor]:
    weights = None
    if balance == "balanced":
        outputs = data.vocabulary if config.model.name == "decoder" else data.num_classes
        weights = balanced_weights(data.y_train, outputs).to(getattr(torch, config.run.precision))
    name = loss_name(config, data)
    if name == "cross_entropy":
        return nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)
    if name == "stablemax":
        return StableMaxCrossEntropy(weights, label_smoothing=smoothing)
    if name == "cross_entropy_float64":
        return partial(softmax_cross_entropy_float64, weight=weights)

    def squared(logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        one_hot = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        errors = (logits - one_hot).square().mean(dim=1)
        if weights is None:
            return errors.mean()
        return (weights[labels] * errors).sum() / weights[labels].sum()

    return squared


def make_transforms(config: RunConfig, model: nn.Module | None = None) -> list[GradientTransform]:
    """The gradient transforms of a configuration, in the declared order.

    ``equalize_spectrum`` acts on the matrices of :func:`equalized`; without a model, on all.
    """
    transforms: list[GradientTransform] = []
    chosen = config.transforms
    if isinstance(chosen, ExponentialFilter):
        transforms.append(Grokfast(chosen.grokfast_alpha, chosen.grokfast_lamb))
    elif isinstance(chosen, WindowFilter):
        transforms.append(GrokfastMA(chosen.grokfast_window, chosen.grokfast_lamb))
    if chosen.orthograd != "none":
        transforms.append(OrthoGrad(rescale=chosen.orthograd == "rescaled"))
    if chosen.equalize_spectrum:
        transforms.append(EqualizeSpectrum(parameters=None if model is None else equalized(model)))
    return transforms


def equalized(model: nn.Module) -> list[Tensor]:
    """The matrices whose gradients ``equalize_spectrum`` changes: of the MLPs in a transformer, and all elsewhere.

    The authors of egalitarian gradient descent choose them so.
    """
    matrices = {name: p for name, p in model.named_parameters() if p.ndim >= 2}
    return [p for name, p in matrices.items() if "mlp" in name.split(".")] or list(matrices.values())


def bounded_rows(model: nn.Module) -> list[Tensor]:
    """The weights whose rows ``max_row_norm`` bounds: all but those of the modules ``tokens`` and ``head``.

    The authors of Clip to Grok leave these out, since the logits must be able to grow.
    """
    free = [p for name in ("tokens", "head") for p in getattr(model, name, nn.Module()).parameters()]
    return [p for p in model.parameters() if not any(p is kept for kept in free)]


def make_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a configuration over all parameters of the model.

    ``muon`` moves the hidden matrices by Muon and embeddings, norms, biases and the output layer by AdamW. With
    ``muon_tokens`` Muon moves the table of tokens, too, but not that of positions. Embeddings have a group of their own
    where ``embedding_lr`` is not 1, and the table of positions where ``position_lr`` is not. A group's ``factor``
    multiplies the rate.
    """
    chosen = config.optimizer
    if isinstance(chosen, MuonOptimizer):
        return _muon(chosen, model)
    parameters: Any = list(model.parameters())
    apart = _tables(chosen, model)
    if any(group["factor"] != 1.0 for group in apart):
        tables = [table for group in apart for table in group["params"]]
        rest = [p for p in parameters if not any(p is table for table in tables)]
        parameters = [{"params": rest, "factor": 1.0}, *apart]
    common: dict[str, Any] = {"lr": chosen.lr, "weight_decay": chosen.weight_decay}
    if isinstance(chosen, AdamWOptimizer | AdamOptimizer):
        kind = torch.optim.AdamW if isinstance(chosen, AdamWOptimizer) else torch.optim.Adam
        return kind(parameters, betas=(chosen.momentum, chosen.beta2), eps=chosen.eps, **common)
    if isinstance(chosen, LionOptimizer):
        return Lion(parameters, betas=(chosen.momentum, chosen.beta2), **common)
    if isinstance(chosen, SGDOptimizer):
        return torch.optim.SGD(parameters, momentum=chosen.momentum, nesterov=chosen.momentum > 0, **common)
    return torch.optim.RMSprop(parameters, momentum=chosen.momentum, alpha=chosen.beta2, **common)


def _tables(chosen: AnyOptimizer, model: nn.Module) -> list[dict[str, Any]]:
    """Groups of embedding tables: all, or positions apart where they have a rate of their own."""
    positions = getattr(model, "positions", None) if chosen.position_lr != 1.0 else None
    found = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    groups = [
        {"params": [table.weight for table in found if table is not positions], "factor": chosen.embedding_lr},
        {
            "params": [table.weight for table in found if table is positions],
            "factor": chosen.embedding_lr * chosen.position_lr,
        },
    ]
    return [group for group in groups if group["params"]]


def _muon(chosen: MuonOptimizer, model: nn.Module) -> Muon:
    tables = _tables(chosen, model)
    head: Any = getattr(model, "head", None)
    apart = [*(table for group in tables for table in group["params"]), *([] if head is None else [head.weight])]
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    for p in model.parameters():
        if not any(p is weight for weight in apart):
            (matrices if p.ndim == 2 else vectors).append(p)
    tokens: Any = getattr(model, "tokens", None) if chosen.muon_tokens else None
    by_muon = [] if tokens is None else [tokens.weight]
    for group in tables:
        group["params"] = [table for table in group["params"] if not any(table is moved for moved in by_muon)]
    decay = chosen.weight_decay if chosen.decay_vectors else 0.0
    groups: list[dict[str, Any]] = [
        {"params": matrices, "kind": "muon", "factor": chosen.muon_lr},
        {"params": [] if head is None else [head.weight], "factor": 1.0},
        {"params": vectors, "factor": 1.0, "weight_decay": decay},
        *tables,
        {"params": by_muon, "kind": "muon", "factor": chosen.embedding_lr},
    ]
    return Muon(
        [],
        [group for group in groups if group["params"]],
        chosen.lr,
        weight_decay=chosen.weight_decay,
        momentum=chosen.momentum,
        betas=(chosen.muon_beta1, chosen.beta2),
    )


def rate_factor(step: int, total: int, *, schedule: str, warmup: int, hold: int = 0) -> float:
    """Learning rate of one step over its peak: linear warm-up, then constant, or down to 0 at ``total``.

    A function of the step alone, so that there is nothing to save.

    Args:
        step: steps completed before this one, from 0.
        total: steps of the whole run.
        schedule: ``constant``, ``cosine`` or ``linear``.
        warmup: steps of warm-up; the first of them has factor 1/warmup.
        hold: step until which the rate stays at its peak before it falls, if that is after the warm-up.

    Returns:
        A factor in [0, 1].

    >>> [rate_factor(step, 10, schedule="linear", warmup=2) for step in (0, 1, 2, 6)]
    [0.5, 1.0, 1.0, 0.5]
    >>> [rate_factor(step, 10, schedule="linear", warmup=2, hold=6) for step in (0, 2, 6, 7, 8)]
    [0.5, 1.0, 1.0, 0.75, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    start = max(warmup, hold)
    progress = max(0, step - start) / max(1, total - start)
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
