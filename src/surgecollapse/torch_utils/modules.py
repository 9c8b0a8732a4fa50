"""What the engine needs to know of ``torch.nn`` modules: names, kinds, hooks that copy safely, undisturbed passes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from surgecollapse.torch_utils.sharded_modules import gather_again

_WRAPPER_SEGMENTS = frozenset({"_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_INNER_NAMES = ("_orig_mod", "_forward_module")
"""Where ``torch.compile`` and Lightning Fabric keep the module that they call."""
_ACTIVATION_WORDS = ("relu", "gelu", "silu", "swish", "mish", "tanh", "sigmoid", "activation", "elu", "softplus")

State = TypeVar("State")


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the module inside ``DistributedDataParallel``, ``DataParallel``, ``torch.compile`` and Fabric wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif (inner := called_inside(model)) is not None:
            model = inner
        else:
            return model


def called_inside(model: nn.Module) -> nn.Module | None:
    """The module that a wrapper of ``torch.compile`` or Fabric calls; ``None`` of any other module."""
    return next((model._modules[name] for name in _INNER_NAMES if name in model._modules), None)


def canonical_name(name: str) -> str:
    """Strip the segments that wrappers put into parameter and module names.

    >>> canonical_name("_orig_mod.layers.0._checkpoint_wrapped_module.weight")
    'layers.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_SEGMENTS)


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` normalizes: its scale is not a connection and is never pruned by default."""
    return "norm" in type(module).__name__.lower()


def is_embedding(module: nn.Module) -> bool:
    """Whether ``module`` looks up rows by index; a head tied to it counts as an embedding too."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) or "embedding" in type(module).__name__.lower()


def is_activation(module: nn.Module) -> bool:
    """Whether ``module`` is an elementwise nonlinearity without prunable weights."""
    if isinstance(module, nn.MultiheadAttention) or next(module.children(), None) is not None:
        return False
    name = type(module).__name__.lower()
    return "soft" not in name.replace("softplus", "") and any(word in name for word in _ACTIVATION_WORDS)


def has_channels_first(module: nn.Module) -> bool:
    """Whether the output of ``module`` has its units on axis 1 (convolutions)."""
    return isinstance(module, nn.modules.conv._ConvNd)


def is_transformed() -> bool:
    """Whether ``torch.func`` (``vmap``, ``grad`` …) runs the present pass: nothing may be drawn or kept inside it."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_recomputed() -> bool:
    """Whether the present forward pass runs inside a backward pass, as gradient checkpointing repeats one there."""
    return torch._C._current_graph_task_id() != -1


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor inside nested tuples, lists, mappings and other objects (a model's inputs or outputs).

    Of objects that are no containers (dataclasses, distributions, graphs) the attributes are looked through, in their
    order; modules and functions are not.
    """
    yield from _tensors_in(value, set())


def first_axis(tensor: Tensor | None) -> int | None:
    """Length of a tensor's first axis, also of a nested one; ``None`` without a tensor, or without axes."""
    return tensor.size(0) if tensor is not None and tensor.dim() else None


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, tuple | list):
        items = value
    elif _is_record(value) and id(value) not in seen:
        seen.add(id(value))
        items = attributes_of(value).values()
    for item in items:
        yield from _tensors_in(item, seen)


def _is_record(value: Any) -> bool:
    """Whether a value is an object with attributes of its own: no module, class, function or plain value."""
    plain = (nn.Module, type, ModuleType, FunctionType, MethodType)
    return not isinstance(value, plain) and (hasattr(value, "__dict__") or is_dataclass(value))


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes of a batch object or a dataclass, with slots or without."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in fields(value) if hasattr(value, field.name)}
        return named | getattr(value, "__dict__", {})
    return dict(getattr(value, "__dict__", {}))


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Rebuild nested tuples, lists, mappings and other objects with every tensor replaced.

    Args:
        value: what a model is called with; objects (``BatchEncoding``, ``Data`` of PyTorch Geometric, dataclasses) are
            deep-copied, modules and functions are kept as they are.
        function: gives the tensor to put there.

    >>> map_tensors({"x": (torch.ones(2), "label")}, lambda tensor: 2 * tensor)
    {'x': (tensor([2., 2.]), 'label')}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping) and not _is_record(value):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [map_tensors(item, function) for item in value]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if _is_record(value):
        with _Replacing(function):
            return copy.deepcopy(value)
    return value


class _Replacing(TorchFunctionMode):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Puts another tensor in the place of each that is deep-copied."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace a copy; do everything else as it is."""
        del types
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = self._function(tensor)
        return memo[id(tensor)]


def snapshot(value: State) -> State:
    """A copy of a state that nothing trains: every tensor is cloned, and every container is a new one.

    >>> import torch
    >>> live = {"average": [torch.zeros(1)]}
    >>> taken = snapshot(live)
    >>> _ = live["average"][0].add_(1)
    >>> taken
    {'average': [tensor([0.])]}
    """
    taken: State = map_tensors(value, lambda tensor: tensor.detach().clone())
    return taken


def _changed(pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The pairs of tensors that differ (NaN does from itself), with one host sync."""
    if not pairs:
        return []
    home = pairs[0][0].device
    flags: list[bool] = torch.stack([(now != before).any().to(home) for now, before in pairs]).tolist()
    return [pair for pair, flag in zip(pairs, flags, strict=True) if flag]


@contextmanager
def evaluating(model: nn.Module, *, only: type[nn.Module] = nn.Module) -> Iterator[None]:
    """Put every module (of a kind) into eval mode; afterwards each has its own training flag again.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    >>> with evaluating(net):
    ...     net[0].training
    False
    >>> net[0].training, net[1].training
    (True, False)
    """
    modes = [(module, module.training) for module in model.modules() if isinstance(module, only)]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


_undisturbed = [0]


def is_undisturbed() -> bool:
    """Whether a pass is under way that :func:`undisturbed` runs: what acts on training must leave it alone.

    >>> with undisturbed(nn.Linear(2, 2)):
    ...     is_undisturbed()
    True
    >>> is_undisturbed()
    False
    """
    return _undisturbed[0] > 0


@contextmanager
def undisturbed(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Run passes in eval mode, without gradient and eagerly; leave no trace.

    With ``training`` every module stays in the mode that it is in, but for batch norms: they would need several samples
    and the other processes. The training flag of every module and every buffer are exactly what they were before. So is
    the global random state of the CPU and of the devices that the model lives on.
    """
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    fastpath = torch.backends.mha.get_fastpath_enabled()
    compiled = (
        "torch._dynamo" in sys.modules
    )  # whatever is compiled, the model, a part of it or a function that it calls
    # The fused path of nn.MultiheadAttention skips submodules, and with them the hooks that a reading needs.
    torch.backends.mha.set_fastpath_enabled(False)
    _undisturbed[0] += 1
    try:
        with (
            evaluating(model, only=nn.modules.batchnorm._BatchNorm if training else nn.Module),
            torch.random.fork_rng(devices=devices),
            torch.no_grad(),
        ):
            if compiled:
                with torch.compiler.set_stance("force_eager"):
                    yield
            else:
                yield
    finally:
        _undisturbed[0] -= 1
        torch.backends.mha.set_fastpath_enabled(fastpath)
        gather_again(model)
        with torch.no_grad():
            for module, name, buffer, _ in buffers:
                module._buffers[name] = buffer  # a forward pass may have put another tensor there
            for buffer, before in _changed([(buffer, before) for _, _, buffer, before in buffers]):
                buffer.copy_(before)
