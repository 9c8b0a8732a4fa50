"""From a configuration to a plan, without its data if need be."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data
from surgecollapse.lab.planning.clock import best_time, called_operations, timed
from surgecollapse.lab.planning.estimate import Plan, StepTimes, estimated, modeled_times
from surgecollapse.lab.planning.step_trace import traced
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.flops import multiplications
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss, make_optimizer
from surgecollapse.lab.training.recomputing import RecomputedBlocks
from surgecollapse.torch_utils.threads import torch_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Kind
    from surgecollapse.lab.planning.hardware import Hardware

_KINDS: dict[int, Kind] = {1: "vector", 2: "series", 3: "image"}


def plan_run(
    config: RunConfig,
    processor: Hardware | None,
    *,
    gpus: int = 1,
    mixed: bool | None = None,
    price: float | None = None,
    data: Data | None = None,
    samples: int | None = None,
) -> Plan:
    """Plan the run of a configuration; its batch is shared by all ranks.

    Args:
        config: the run.
        processor: each rank's own; ``None`` for the CPU of this machine, on which operations are timed.
        gpus: ranks, in one machine.
        mixed: automatic mixed precision, else float32; by default what the configuration says.
        price: of one processor for an hour.
        data: what it trains on, of which only shapes matter; by default they are loaded.
        samples: training samples, where ``data`` has not all of them.

    Raises:
        ConfigError: if the batch is smaller than the number of ranks, or the model cannot be traced.
    """
    found = load_data(config) if data is None else data
    count = samples or found.train_size
    whole = min(config.run.batch_size or count, count)
    if gpus < 1 or whole < gpus:
        raise ConfigError(f"gpus = {gpus}: expected from 1 to the batch of {whole} samples")
    if processor is None and gpus > 1:
        raise ConfigError(f"gpus = {gpus}: this machine's CPU is planned for one process")
    mixed = config.run.mixed_precision != "none" if mixed is None else mixed
    batch = -(-whole // gpus)

    with torch.device("meta"):
        model = config.model.build(found)
        x = torch.empty((batch, *found.input_shape), dtype=found.x_train.dtype)
        y = torch.empty((batch, *found.y_train.shape[1:]), dtype=found.y_train.dtype)
    loss, again = make_loss(config, found), config.run.gradient_checkpointing
    if again:
        RecomputedBlocks(model, config.model.label)  # refuses a model without blocks
    parameters = sum(p.numel() for p in model.parameters())
    try:
        counts = multiplications(model, x)
        trace = traced(model, x, y, loss)
        if processor is None:
            times = _times_here(config, found, x, y, loss, mixed=mixed, again=again)
        else:
            times = modeled_times(
                trace, processor, parameters=parameters, optimizer=config.optimizer.name, mixed=mixed, again=again
            )
    except (NotImplementedError, RuntimeError, TypeError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(
            f"model {config.model.label} cannot be traced without computing ({line}): avoid operations whose shapes "
            "depend on values"
        ) from error
    names = list(counts)[:-1]  # the last layer puts out the answers, and stays dense
    weights = dict(model.named_parameters())
    method = config.method
    return estimated(
        trace,
        times,
        memory=_memory_here() if processor is None else processor.memory,
        link=math.inf if processor is None else processor.link,
        parameters=parameters,
        prunable=sum(weights[name].numel() for name in names if name in weights),
        sparsity=0.0 if method.ends_dense else float(getattr(method, "sparsity", 0.0)),
        prunable_share=sum(counts[name] for name in names) / max(1, sum(counts.values())),
        optimizer=config.optimizer.name,
        batch=batch,
        gpus=gpus,
        steps=config.run.total_steps(count),
        mixed=mixed,
        again=again,
        price=price,
    )


def _times_here(
    config: RunConfig,
    data: Data,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    mixed: bool,
    again: bool,
) -> StepTimes:
    """Times of this machine's CPU, on the threads of the run."""
    with torch_threads(config.run.threads), torch.random.fork_rng(devices=[]):
        model = build_model(config, data)
        operations, sums = called_operations(model, x, y, loss, mixed=mixed)
        optimizer = make_optimizer(config, model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        update = best_time(optimizer.step)
        forward, backward, repeated = timed(operations, sums)
    return StepTimes(forward=forward, backward=backward + repeated * again, update=update)


def _memory_here() -> float:
    """Bytes of this machine's memory; 0 where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return 0.0
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def shapes_only(shape: Sequence[int], *, classes: int, vocabulary: int = 0, name: str = "data") -> Data:
    """Data of which only the shapes are known.

    Args:
        shape: of one input.
        classes: of the labels; 0 for numbers.
        vocabulary: number of different tokens; with one, inputs are rows of tokens and each has a label, the next.
        name: of the task.
    """
    tokens = vocabulary > 0
    with torch.device("meta"):
        x = torch.empty((1, *shape), dtype=torch.int64 if tokens else torch.float32)
        y = torch.empty((1, *shape) if tokens else (1,), dtype=torch.int64 if classes or tokens else torch.float32)
    tensors: dict[str, Any] = {f"x_{part}": x for part in ("train", "validation", "test")}
    tensors |= {f"y_{part}": y for part in ("train", "validation", "test")}
    return Data(
        name=name,
        kind="text" if tokens else _KINDS.get(len(shape), "other"),
        num_classes=vocabulary or classes,
        vocabulary=vocabulary,
        description="shapes only",
        source="--input-shape",
        **tensors,
    )
