"""One training step on the meta device: its operations, and the values they move. Nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from surgecollapse.lab.training.recomputing import around_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

_FREE = ("empty", "detach", "alias", "lift_fresh", "_unsafe_view", "zeros_like", "ones_like", "new_empty")
"""Operations that move nothing, or what the next one overwrites."""
_TWICE = ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm", "_batch_norm", "batch_norm_backward")
"""Operations that read their inputs twice: statistics over the whole batch come before what they are for."""
_BACKWARD = 2.5
"""Operations of the backward pass of fused attention over those of its forward pass: it recomputes the scores (Dao
2023, arXiv 2307.08691, section 4.1)."""


@dataclass(frozen=True)
class Operation:
    """One operation: multiplications and additions of matrices, and values that it reads and writes."""

    flops: float
    values: float
    """Floating-point values that are read and written."""
    forward: bool
    in_block: bool = False
    """Whether gradient checkpointing makes it again in the backward pass."""


@dataclass
class StepTrace:
    """What a training step consists of."""

    operations: list[Operation] = field(default_factory=list)
    saved: float = 0.0
    """Floating-point values that the forward pass keeps for the backward pass, without the parameters."""
    saved_outside: float = 0.0
    """Of them, what gradient checkpointing keeps: inputs of blocks, and what no block keeps."""
    saved_in_block: float = 0.0
    """Of them, what the block keeps that keeps most."""

    def flops(self, *, forward: bool) -> float:
        """Multiplications and additions of one of the passes."""
        return sum(one.flops for one in self.operations if one.forward is forward)


def traced(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> StepTrace:
    """Trace a training step.

    Scaled dot-product attention is counted as one fused operation that keeps no scores.

    Args:
        model: on the meta device.
        x: a batch of inputs on the meta device.
        y: its labels there.
        loss: of outputs and labels.
    """
    trace = StepTrace()
    recorder = _Recorder(trace)
    kept = _Kept(trace, {p.untyped_storage()._cdata for p in model.parameters()}, recorder)
    with (
        around_blocks(model, kept.enter, kept.leave),
        recorder,
        _FusedAttention(recorder),
        torch.autograd.graph.saved_tensors_hooks(kept, lambda t: t),
    ):
        value = loss(model.train()(x), y)
        recorder.forward = False
        value.backward()  # type: ignore[no-untyped-call]
    return trace


class _Kept:
    """Counts what the backward pass needs, each storage once."""

    def __init__(self, trace: StepTrace, own: set[int], recorder: _Recorder) -> None:
        self._trace, self._own, self._recorder = trace, own, recorder
        self._all: set[int] = set()
        self._outside: set[int] = set()
        self._alive: list[Tensor] = []
        self._block = 0.0

    def __call__(self, tensor: Tensor) -> Tensor:
        storage, values = self._of(tensor)
        if storage not in self._own and storage not in self._all:
            self._all.add(storage)
            self._trace.saved += values
            if self._recorder.in_block:
                self._block += values
            else:
                self._add_outside(storage, values)
        return tensor

    def _of(self, tensor: Tensor) -> tuple[int, float]:
        self._alive.append(tensor)  # or another tensor would take its storage's number
        return tensor.untyped_storage()._cdata, tensor.numel() * tensor.element_size() / 4

    def _add_outside(self, storage: int, values: float) -> None:
        if storage not in self._outside:
            self._outside.add(storage)
            self._trace.saved_outside += values

    def enter(self, inputs: tuple[Any, ...]) -> None:
        """Note that a block begins, which keeps its inputs."""
        self._recorder.in_block = True
        for tensor in tree_leaves(inputs):
            if isinstance(tensor, Tensor):
                self._add_outside(*self._of(tensor))

    def leave(self) -> None:
        """Note that it ends."""
        self._recorder.in_block = False
        self._trace.saved_in_block = max(self._trace.saved_in_block, self._block)
        self._block = 0.0


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, trace: StepTrace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.forward, self.in_block = True, False

    def add(self, flops: float, tensors: list[Tensor]) -> None:
        """Note an operation that reads or writes these tensors."""
        values = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
        self.trace.operations.append(Operation(flops, values, self.forward, self.in_block))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name.startswith(_FREE):
            return out
        count = flop_registry.get(func.overloadpacket)
        flops = 0.0 if count is None else float(count(*args, **(kwargs or {}), out_val=out))
        read = {id(leaf): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        again = list(read.values()) if name.startswith(_TWICE) else []
        if name == "convolution_backward":  # gradients of the inputs and of the weights are two kernels
            again = [args[0]]
        self.add(flops, [*read.values(), *written, *again])
        return out


class _FusedAttention(TorchFunctionMode):
    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            q, k, v = (given[name] for name in ("query", "key", "value"))
            return _Attention.apply(q, k, v, self._recorder)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, recorder: _Recorder) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out)
        ctx.recorder = recorder
        ctx.flops = 2.0 * out.numel() * key.shape[-2] + 2.0 * query.numel() * key.shape[-2]
        recorder.add(ctx.flops, [query, key, value, out])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, out = ctx.saved_tensors
        found = tuple(torch.empty_like(one) for one in (query, key, value))
        ctx.recorder.add(_BACKWARD * ctx.flops, [query, key, value, out, gradients[0], *found])
        return (*found, None)
