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


@dataclass
class StepTrace:
    """What a training step consists of."""

    operations: list[Operation] = field(default_factory=list)
    saved: float = 0.0
    """Floating-point values that the forward pass keeps for the backward pass, without the parameters."""

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
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own and storage not in kept:
            kept.add(storage)
            alive.append(tensor)  # or another tensor would take its storage's number
            trace.saved += tensor.numel() * tensor.element_size() / 4
        return tensor

    alive: list[Tensor] = []
    with recorder, _FusedAttention(recorder), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        value = loss(model.train()(x), y)
        recorder.forward = False
        value.backward()  # type: ignore[no-untyped-call]
    return trace


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, trace: StepTrace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.forward = True

    def add(self, flops: float, tensors: list[Tensor]) -> None:
        """Note an operation that reads or writes these tensors."""
        values = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
        self.trace.operations.append(Operation(flops, values, self.forward))

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
