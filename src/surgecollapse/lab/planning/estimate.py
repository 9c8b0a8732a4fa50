"""From a traced step and a processor's data sheet to bytes, hours and cost.

The time of an operation is the largest of what its arithmetic, its traffic and its start take::

    t = max(flops / (0.7·peak), bytes / (0.8·bandwidth), launch)

and that of a step their sum, the update of the weights, and what of the all-reduce the backward pass does not hide.
The factors are assumptions: what large kernels usually reach. On the CPU of this machine operations are timed instead
(:mod:`~surgecollapse.lab.planning.clock`). Nothing but the net is counted: no reading of data, no evaluation, no
readings of the controller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgecollapse.lab.planning.hardware import COMPUTE, TRAFFIC
from surgecollapse.lab.planning.step_trace import Operation, StepTrace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from surgecollapse.lab.planning.hardware import Hardware

_STATES = {"adamw": 2, "adam": 2, "sgd": 1, "rmsprop": 2, "muon": 2, "lion": 1}
"""Values that an optimizer keeps for each weight; of muon at most."""
_BYTES = 4
_BUCKET = 25e6
"""Bytes of the last bucket of gradients, whose all-reduce nothing hides (the default of DistributedDataParallel)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take."""

    parameters: int
    prunable: int
    sparsity: float
    batch: int
    """Samples of one rank in a step."""
    gpus: int
    steps: int
    forward: float
    """Floating-point operations of one rank in a step, dense; a multiplication and an addition are two."""
    backward: float
    sparse_forward: float
    """What remains of the forward pass at the final sparsity, for an engine that skips zeros."""
    sparse_backward: float
    memory: dict[str, float]
    """Bytes of one rank by what they are for."""
    communicated: float
    """Bytes that each rank sends in a step."""
    step_seconds: float
    available: float
    """Bytes of the processor's memory."""
    price: float | None = None
    """Of one processor for an hour."""

    @property
    def hours(self) -> float:
        """Of the whole run."""
        return self.step_seconds * self.steps / 3600

    @property
    def cost(self) -> float | None:
        """Of the whole run; ``None`` without a price."""
        return None if self.price is None else self.price * self.gpus * self.hours

    @property
    def samples_per_second(self) -> float:
        """Of all ranks together."""
        return self.batch * self.gpus / self.step_seconds


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Seconds of the parts of a step on one processor."""

    forward: float
    backward: float
    """With what gradient checkpointing makes again."""
    update: float


def modeled_times(
    trace: StepTrace, processor: Hardware, *, parameters: int, optimizer: str, mixed: bool, again: bool = False
) -> StepTimes:
    """Times by the data sheet of a processor.

    Args:
        trace: of the step.
        processor: what makes it.
        parameters: of the net.
        optimizer: its name.
        mixed: 16-bit arithmetic and activations over float32 weights (automatic mixed precision), else float32.
        again: with gradient checkpointing.
    """
    width = 2 if mixed else _BYTES
    peak = (processor.mixed if mixed else processor.float32) * COMPUTE
    bandwidth = processor.bandwidth * TRAFFIC

    def seconds(operations: Iterable[Operation]) -> float:
        return sum(max(one.flops / peak, width * one.values / bandwidth, processor.launch) for one in operations)

    made_again = [one for one in trace.operations if again and one.forward and one.in_block]
    return StepTimes(
        forward=seconds(one for one in trace.operations if one.forward),
        backward=seconds([*(one for one in trace.operations if not one.forward), *made_again]),
        update=parameters * _BYTES * (3 + 2 * _STATES.get(optimizer, 2)) / bandwidth,
    )


def estimated(
    trace: StepTrace,
    times: StepTimes,
    *,
    memory: float,
    link: float,
    parameters: int,
    prunable: int,
    sparsity: float,
    prunable_share: float,
    optimizer: str,
    batch: int,
    gpus: int,
    steps: int,
    mixed: bool,
    again: bool = False,
    price: float | None = None,
) -> Plan:
    """Plan a data-parallel run.

    Args:
        trace: of the step of one rank.
        times: of its parts.
        memory: bytes of each rank's processor.
        link: bytes in a second from one rank to the others.
        parameters: of the net.
        prunable: of them, those that are pruned.
        sparsity: at the end.
        prunable_share: share of the operations that are made with prunable weights.
        optimizer: its name.
        batch: samples of one rank.
        gpus: ranks, in one machine.
        steps: of the run.
        mixed: automatic mixed precision, else float32.
        again: with gradient checkpointing.
        price: of one processor for an hour.
    """
    states = _STATES.get(optimizer, 2)
    gradients = parameters * _BYTES
    sent = 2 * (gpus - 1) / gpus * gradients
    reduced = sent / (link * TRAFFIC) if gpus > 1 else 0.0
    last = min(_BUCKET, gradients) / gradients * reduced if gpus > 1 else 0.0
    made_again = sum(one.flops for one in trace.operations if again and one.forward and one.in_block)
    dense = trace.flops(forward=True), trace.flops(forward=False) + made_again
    kept = 1 - prunable_share * sparsity
    sparse = sparsity > 0 and prunable > 0
    activations = trace.saved_outside + trace.saved_in_block if again else trace.saved
    needed = {
        "weights": parameters * _BYTES,
        "gradients": gradients,
        "optimizer": states * parameters * _BYTES,
        "masks and growth signal": (1 + _BYTES) * prunable if sparse else 0,
        "activations": activations * (2 if mixed else _BYTES),
    }
    return Plan(
        parameters=parameters,
        prunable=prunable,
        sparsity=sparsity,
        batch=batch,
        gpus=gpus,
        steps=steps,
        forward=dense[0],
        backward=dense[1],
        sparse_forward=dense[0] * kept,
        sparse_backward=dense[1] * kept,
        memory={name: float(size) for name, size in needed.items() if size},
        communicated=float(sent),
        step_seconds=times.forward + times.backward + times.update + max(reduced - times.backward, last),
        available=memory,
        price=price,
    )
