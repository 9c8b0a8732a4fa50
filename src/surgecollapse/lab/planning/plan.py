"""From a configuration to a plan, without its data if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data
from surgecollapse.lab.planning.estimate import Plan, estimated
from surgecollapse.lab.planning.step_trace import traced
from surgecollapse.lab.training.flops import multiplications
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Kind
    from surgecollapse.lab.planning.hardware import Hardware

_KINDS: dict[int, Kind] = {1: "vector", 2: "series", 3: "image"}


def plan_run(
    config: RunConfig,
    processor: Hardware,
    *,
    gpus: int = 1,
    mixed: bool = True,
    price: float | None = None,
    data: Data | None = None,
    samples: int | None = None,
) -> Plan:
    """Plan the run of a configuration; its batch is shared by all ranks.

    Args:
        config: the run.
        processor: each rank's own.
        gpus: ranks, in one machine.
        mixed: automatic mixed precision, else float32.
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
    batch = -(-whole // gpus)
    with torch.device("meta"):
        model = config.model.build(found)
        x = torch.empty((batch, *found.input_shape), dtype=found.x_train.dtype)
        y = torch.empty((batch, *found.y_train.shape[1:]), dtype=found.y_train.dtype)
    try:
        counts = multiplications(model, x)
        trace = traced(model, x, y, make_loss(config, found))
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
        processor,
        parameters=sum(p.numel() for p in model.parameters()),
        prunable=sum(weights[name].numel() for name in names if name in weights),
        sparsity=0.0 if method.ends_dense else float(getattr(method, "sparsity", 0.0)),
        prunable_share=sum(counts[name] for name in names) / max(1, sum(counts.values())),
        optimizer=config.optimizer.name,
        batch=batch,
        gpus=gpus,
        steps=config.run.total_steps(count),
        mixed=mixed,
        price=price,
    )


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
