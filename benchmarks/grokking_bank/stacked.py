"""Runs that differ in nothing but their seed, trained as one batched model: ten of them cost less than ten runs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from surgecollapse.forecast.times import GENERALIZE, IN_A_ROW
from surgecollapse.lab.config import ConfigError, as_mapping, flat_values, layered
from surgecollapse.lab.data.dataset import training_sample
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.environment import finish_work, training_device
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss, make_optimizer, make_transforms, rate_factor
from surgecollapse.lab.training.outputs import right_share
from surgecollapse.lab.training.sampler import batches_of
from surgecollapse.report.analyses.modular_progress import questions

if TYPE_CHECKING:
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data

STACKABLE = ("mlp", "autoregressive", "transformer", "gnn")
"""Models that can be batched over their weights."""
_ROWS = 2_048


@dataclass(kw_only=True)
class StackedRun:
    """One run of a stack: its evaluations, and how it ended."""

    config: RunConfig
    steps: list[int] = field(default_factory=list)
    """Of the evaluations."""
    accuracy_train: list[float] = field(default_factory=list)
    accuracy_validation: list[float] = field(default_factory=list)
    loss_train: list[float] = field(default_factory=list)
    loss_validation: list[float] = field(default_factory=list)
    accuracy: float = float("nan")
    """On the test set, at its end."""
    loss: float = float("nan")
    """Likewise."""
    seconds: float = 0.0
    """Its share of the time of all training steps."""

    @property
    def reached_goal(self) -> bool:
        """Whether enough evaluations on end had the accuracy at which the run is to stop."""
        goal = GENERALIZE if self.config.run.until == "grokked" else self.config.run.stop_at_accuracy
        last = self.accuracy_validation[-IN_A_ROW:]
        return goal is not None and len(last) == IN_A_ROW and min(last) >= goal


def train_stacked(configs: Sequence[RunConfig], tell: Callable[[int], None] = lambda _: None) -> list[StackedRun]:
    """Train runs that differ in their seed alone, all at once.

    Each is the run that :func:`surgecollapse.lab.training.run.train` would make of its configuration, to float
    rounding: the same data, initial weights, batches, transforms and stops. It leaves nothing on the disk; there are no
    monitors and no checkpoints, and it cannot be resumed.

    Args:
        configs: without policy, dropout, clipping, class weights, early stopping, forecast, averages of weights or
            weighted batches; no Muon.
        tell: called with the step after each evaluation.

    Returns:
        One for each configuration, in their order.

    Raises:
        ConfigError: for configurations that cannot be stacked.
    """
    _check(configs)
    with torch.random.fork_rng(devices=[]):
        stack = _Stack(configs)
        while stack.runs:
            stack.train_step()
            if stack.step % stack.config.run.evaluate_every == 0 or stack.step == stack.total:
                stack.evaluate()
                tell(stack.step)
                stack.drop_finished()
    return stack.all


def _check(configs: Sequence[RunConfig]) -> None:
    if not configs:
        raise ConfigError("no runs given: expected one configuration for each")
    first = configs[0]
    if any(layered(as_mapping(config), {"seed": first.run.seed}) != first for config in configs):
        raise ConfigError("stacked runs differ in their seed alone: train others apart")
    plain: dict[str, Any] = {
        "policy": "none",
        "dropout": 0.0,
        "clip": None,
        "class_weights": "none",
        "early_stopping": 0,
    }
    plain |= {"early_stopping": 0, "forecast": "none", "ema_decay": 0.0, "scale_partial_batches": False}
    plain |= {"sam_rho": 0.0, "equalize_spectrum": False, "max_row_norm": None}
    values = flat_values(as_mapping(first))
    for key, value in plain.items():
        if values.get(key, value) != value:
            raise ConfigError(f"{key} = {values[key]!r} cannot be stacked: expected {value!r}, or train apart")
    if first.model.name not in STACKABLE or first.optimizer.name == "muon":
        raise ConfigError(
            f"model {first.model.name!r} with {first.optimizer.name!r} cannot be stacked: expected one of "
            f"{', '.join(STACKABLE)} and no muon, or train apart"
        )


class _Stack:
    """The nets and the rows of all runs that are still going on, with a leading dimension for the runs."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self.config = configs[0]
        self.runs = self.all = [StackedRun(config=config) for config in configs]
        self._device = training_device(self.config)
        self._data = [load_data(config).to(self._device) for config in configs]
        nets = [build_model(config, data).to(self._device) for config, data in zip(configs, self._data, strict=True)]
        self._loss = make_loss(self.config, self._data[0])
        size = len(self._data[0].x_train)
        self._batches = [batches_of(config, size) for config in configs]
        self.total, self.step = self.config.run.total_steps(size), 0
        self._shape = copy.deepcopy(nets[0]).to("meta")
        self._first = _take_first(self._shape) if self._data[0].kind == "pairs" else None
        if self._first is not None:
            self._data = [_as_numbers(data) for data in self._data]
        self._net = _stacked(nets)
        self._parameters = list(self._net.parameters())
        self._optimizer = make_optimizer(self.config, self._net)
        self._transforms = make_transforms(self.config)
        # Transforms see each run's own tensors: what is a norm of one, or not finite in one, is not that of all.
        self._own = [[parameter.detach()[i] for parameter in self._parameters] for i in range(len(nets))]
        self._gather()

    def _gather(self) -> None:
        self._x, self._y = (torch.stack([getattr(d, name) for d in self._data]) for name in ("x_train", "y_train"))

    def logits(self, x: Tensor) -> Tensor:
        """Outputs of every net for its own rows (runs, n, …)."""
        weights: dict[str, Tensor] = dict(self._net.named_parameters())
        if self._first is not None:
            x = _sums_of_columns(weights.pop(f"{self._first}.weight"), weights.pop(f"{self._first}.bias", None), x)

        def one(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self._shape, weights, (x,))  # type: ignore[no-any-return]

        with sdpa_kernel(SDPBackend.MATH):  # the fused attention of the CPU has no batched form
            return vmap(one)(weights, x)

    def train_step(self) -> None:
        """One step of every run."""
        began = time.perf_counter()
        config, (x, y) = self.config, self._rows()
        rate = config.optimizer.lr * rate_factor(
            self.step,
            self.total,
            schedule=config.optimizer.schedule,
            warmup=config.optimizer.warmup,
            hold=config.optimizer.lr_hold_steps,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        self._optimizer.zero_grad()
        # A mean over the rows of all runs, times their number: the sum of the runs' own losses.
        loss = self._loss(self.logits(x).flatten(0, 1), y.flatten()) * len(self.runs)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._transforms:
            self._transform()
        self._optimizer.step()
        self.step += 1
        if self.step % config.run.evaluate_every == 0 or self.step == self.total:
            finish_work(self._device)
        spent = (time.perf_counter() - began) / len(self.runs)
        for run in self.runs:
            run.seconds += spent

    def _transform(self) -> None:
        gradients = [parameter.grad.unbind() for parameter in self._parameters if parameter.grad is not None]
        of_run = list(zip(*gradients, strict=True))
        params, grads = [p for own in self._own for p in own], [g for own in of_run for g in own]
        for transform in self._transforms:
            transform(params, grads)

    def _rows(self) -> tuple[Tensor, Tensor]:
        rows = torch.stack([next(batches) for batches in self._batches]).to(self._device, non_blocking=True)
        if rows.shape[1] == self._x.shape[1]:
            return self._x, self._y
        which = torch.arange(len(rows), device=self._device).unsqueeze(1)
        return self._x[which, rows], self._y[which, rows]

    @torch.no_grad()
    def evaluate(self) -> None:
        """Accuracy and loss of every run on its training and validation rows."""
        train = training_sample(self._data[0])
        found = [
            self._score([d.x_train[train] for d in self._data], [d.y_train[train] for d in self._data]),
            self._score([d.x_validation for d in self._data], [d.y_validation for d in self._data]),
        ]
        for run, (accuracy_train, loss_train), (accuracy, loss) in zip(self.runs, *found, strict=True):
            run.steps.append(self.step)
            run.accuracy_train.append(accuracy_train)
            run.loss_train.append(loss_train)
            run.accuracy_validation.append(accuracy)
            run.loss_validation.append(loss)

    def _score(self, x: list[Tensor], y: list[Tensor]) -> list[tuple[float, float]]:
        parts = zip(*(torch.split(rows, _ROWS) for rows in x), strict=True)
        logits = torch.cat([self.logits(torch.stack(part)) for part in parts], 1)
        return [
            (right_share(answers, labels, self._data[0].tolerance), self._loss(answers, labels).item())
            for answers, labels in zip(logits, y, strict=True)
        ]

    @torch.no_grad()
    def drop_finished(self) -> None:
        """Test the runs that are over, and go on with the others."""
        ended = [self.step == self.total or run.reached_goal for run in self.runs]
        if not any(ended):
            return
        scores = self._score([d.x_test for d in self._data], [d.y_test for d in self._data])
        for run, over, (accuracy, loss) in zip(self.runs, ended, scores, strict=True):
            if over:
                run.accuracy, run.loss = accuracy, loss
        going = [i for i, over in enumerate(ended) if not over]
        self.runs, self._data = [self.runs[i] for i in going], [self._data[i] for i in going]
        self._batches, self._own = [self._batches[i] for i in going], [self._own[i] for i in going]
        if going:
            self._shrink(going)
            self._gather()

    def _shrink(self, going: list[int]) -> None:
        """Keep the weights and the optimizer's memory of some runs; the objects stay, as memories are kept by them."""
        for k, parameter in enumerate(self._parameters):
            state = self._optimizer.state[parameter]
            state.update({key: value[going] for key, value in state.items() if _of_runs(value, parameter)})
            parameter.grad = None
            parameter.data = parameter.data[going]
            for i, own in enumerate(self._own):
                own[k].data = parameter.data[i]


def _of_runs(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _stacked(nets: Sequence[nn.Module]) -> nn.Module:
    """A net of the same names whose parameters have a leading dimension for the nets; it cannot be called."""
    whole = copy.deepcopy(nets[0])
    for name, together in stack_module_state(list(nets))[0].items():
        owner, _, last = name.rpartition(".")
        setattr(whole.get_submodule(owner), last, nn.Parameter(together.detach()))
    return whole


def _take_first(shape: nn.Module) -> str | None:
    """Take the first linear layer out of a perceptron on two one-hots; its name, or ``None`` where there is none."""
    for name, module in shape.named_modules():
        if isinstance(module, nn.Linear) and name != "head":
            owner, _, last = str(name).rpartition(".")
            setattr(shape.get_submodule(owner), last, nn.Identity())
            return str(name)
    return None


def _sums_of_columns(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """What a linear layer makes of two one-hots: the sum of two columns, without multiplying all the zeros.

    Args:
        weight: (runs, hidden, 2·modulus).
        bias: (runs, hidden).
        x: numbers of the columns (runs, n, 2).

    Returns:
        (runs, n, hidden).
    """
    runs, hidden, columns = weight.shape
    places = x + columns * torch.arange(runs, device=x.device).view(-1, 1, 1)
    table = weight.mT.reshape(-1, hidden)
    sums = nn.functional.embedding_bag(places.flatten(0, 1), table, mode="sum").view(runs, -1, hidden)
    return sums if bias is None else sums + bias.unsqueeze(1)


def _as_numbers(data: Data) -> Data:
    """Two one-hots as the two places of their ones."""

    def places(x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        first, second = questions(x, half)
        return torch.stack([first, second + half], 1)

    return replace(
        data, x_train=places(data.x_train), x_validation=places(data.x_validation), x_test=places(data.x_test)
    )
