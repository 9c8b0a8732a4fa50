"""``plan``: what a run will take, before it is begun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.cli.output import say, write_table
from surgecollapse.errors import ConfigError
from surgecollapse.lab.config import make_config, read_config
from surgecollapse.lab.references import missing_parts, parts_of

if TYPE_CHECKING:
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.planning.estimate import Plan


def plan(
    experiment: str,
    /,
    *,
    gpus: int = 1,
    gpu: str = "h100",
    precision: str | None = None,
    price: float | None = None,
    input_shape: str | None = None,
    classes: int = 0,
    vocabulary: int = 0,
    samples: int | None = None,
) -> int:
    """Say what a run will take: operations, memory of each rank, bytes communicated, hours and cost.

    The model is traced without computing anything. With --input-shape the data need not be there.

    Args:
        experiment: A task, a published experiment, a TOML file of keys, or a Python file of your own.
        gpus: Ranks, all in one machine, that share the batch.
        gpu: v100, a100-40gb, a100, h100 or h200; cpu: this machine's, on which each operation is timed now.
        precision: mixed (16-bit arithmetic over float32 weights) or float32; by default as the run's
            mixed_precision says.
        price: Of one processor for an hour; without it no cost is said.
        input_shape: Of one input, as in 3,224,224, where the data are not there.
        classes: Number of classes, with --input-shape.
        vocabulary: Number of different tokens, with --input-shape; inputs are then rows of tokens.
        samples: Number of training samples, with --input-shape.
    """
    from surgecollapse.lab.planning.hardware import hardware
    from surgecollapse.lab.planning.plan import plan_run

    if precision not in (None, "mixed", "float32"):
        raise ConfigError(f"precision = {precision!r}: expected mixed or float32")
    config = _config(experiment)
    processor = None if gpu == "cpu" else hardware(gpu)
    data = _shapes(input_shape, classes, vocabulary, samples, config)
    found = plan_run(
        config,
        processor,
        gpus=gpus,
        mixed=None if precision is None else precision == "mixed",
        price=price,
        data=data,
        samples=samples,
    )
    _show(found)
    if processor is None:
        say(f"cpu: each operation was timed here, on {config.run.threads} thread(s); no reading of data, no evaluation")
        return 0
    say(f"{processor.name}: {processor.source}")
    say("assumed: 70% of the arithmetic and 80% of the traffic that the processor is made for; no reading of data")
    return 0


def _config(experiment: str) -> RunConfig:
    file = Path(experiment)
    if file.suffix == ".toml":
        return read_config(file)
    if file.suffix == ".py":
        parts: dict[str, Any] = dict(parts_of(file))
        if missing := missing_parts(file, parts):
            raise ConfigError(missing)
        return make_config(**parts)
    return make_config(task=experiment)


def _shapes(
    input_shape: str | None, classes: int, vocabulary: int, samples: int | None, config: RunConfig
) -> Data | None:
    from surgecollapse.lab.planning.plan import shapes_only

    if input_shape is None:
        if classes or vocabulary or samples:
            raise ConfigError("--classes, --vocabulary and --samples go with --input-shape: give it, or drop them")
        return None
    try:
        shape = tuple(int(side) for side in input_shape.split(","))
    except ValueError as error:
        raise ConfigError(f"--input-shape {input_shape}: expected whole numbers as in 3,224,224") from error
    if any(side < 1 for side in shape) or samples is None or samples < 1:
        raise ConfigError(f"--input-shape {input_shape}: expected numbers from 1, and --samples beside it")
    return shapes_only(shape, classes=classes, vocabulary=vocabulary, name=config.data.label)


def _show(plan: Plan) -> None:
    from surgecollapse.report.summary import readable_bytes

    a, b = plan.forward / plan.batch, plan.backward / plan.batch
    total = sum(plan.memory.values())
    parts = ", ".join(f"{name} {readable_bytes(int(size))}" for name, size in plan.memory.items())
    fits = "" if not plan.available else f" of {readable_bytes(int(plan.available))}"
    rows = [
        ("parameters", f"{plan.parameters:,}, prunable {plan.prunable:,}"),
        ("steps", f"{plan.steps:,} of {plan.batch * plan.gpus:,} samples, {plan.batch:,} a rank"),
        (
            "operations of a sample",
            f"{_flops(a)} forward, {_flops(b)} backward",
        ),
        (
            f"  at {plan.sparsity:.0%} sparsity",
            f"{_flops(plan.sparse_forward / plan.batch)} forward, {_flops(plan.sparse_backward / plan.batch)} backward",
        ),
        ("operations of the run", _flops((plan.forward + plan.backward) * plan.gpus * plan.steps)),
        ("memory of a rank", f"{readable_bytes(int(total))}{fits}: {parts}"),
        ("sent by a rank", f"{readable_bytes(int(plan.communicated))} a step"),
        ("speed", f"{plan.samples_per_second:,.0f} samples a second, {1e3 * plan.step_seconds:,.1f} ms a step"),
        ("time", f"{plan.hours:,.2f} hours" if plan.hours >= 1 else f"{60 * plan.hours:,.2f} minutes"),
    ]
    if plan.cost is not None:
        rows.append(("cost", f"{plan.cost:,.2f}"))
    write_table(("", "plan"), rows)
    if plan.available and total > plan.available:
        say("it does not fit: lower the batch, take more GPUs, or set --gradient-checkpointing")


def _flops(value: float) -> str:
    for unit, name in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")):
        if value >= unit:
            return f"{value / unit:,.2f} {name}"
    return f"{value / 1e6:,.2f} MFLOP"
