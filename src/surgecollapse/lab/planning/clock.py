"""How long the operations of a training step take on this processor: each is traced, and timed by itself."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from surgecollapse.lab.training.recomputing import around_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_REPEATS = 4
_LEAST = 2e-3
"""Seconds of which a measurement has at least about as many; short operations are timed several at once."""
_MOST = 16
_NOTHING = ("detach", "alias", "lift_fresh")
"""Operations that take no time. Those of ``prim`` are questions, such as for the device."""


@dataclass(frozen=True)
class Called:
    """One operation of a forward pass and what it is called with, none of which holds values."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_block: bool

    @property
    def key(self) -> Any:
        """Equal for operations that take equally long."""
        return self.function, _form(self.args), _form(tuple(sorted(self.kwargs.items())))


def called_operations(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    mixed: bool = False,
) -> tuple[list[Called], list[Called]]:
    """The operations of a training step's forward pass on the CPU, as they are called there; nothing is computed.

    Also the sums of gradients in the backward pass, which belong to no operation of the forward pass.

    Args:
        model: on the CPU.
        x: a batch of inputs, of which only shape and type matter; it may be on the meta device.
        y: its labels, likewise.
        loss: of outputs and labels.
        mixed: under automatic mixed precision.
    """
    from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

    without_values = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(without_values):
        copied = copy.deepcopy(model)
    with without_values:
        inputs, labels = (torch.empty(one.shape, dtype=one.dtype) for one in (x, y))
        recorder = _Calls()
        with (
            around_blocks(copied, recorder.enter, recorder.leave),
            recorder,
            torch.autocast("cpu", torch.bfloat16, enabled=mixed),
        ):
            loss(copied.train()(inputs), labels)
        return recorder.found, list(recorder.sums())


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Called] = []
        self._in_block = False

    def enter(self, _inputs: object) -> None:
        """Note that a block begins."""
        self._in_block = True

    def leave(self) -> None:
        """Note that it ends."""
        self._in_block = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace != "prim" and not func.overloadpacket.__name__.startswith(_NOTHING):
            self.found.append(Called(func, args, kwargs or {}, self._in_block))
        return out

    def sums(self) -> Iterator[Called]:
        """The sums of gradients in the backward pass: one for each further use of a tensor."""
        used: set[int] = set()
        for one in self.found:
            for tensor in tree_leaves((one.args, one.kwargs)):
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    if id(tensor) in used:
                        yield Called(torch.ops.aten.add_.Tensor, (tensor.detach(), tensor.detach()), {}, False)
                    used.add(id(tensor))


def timed(operations: Iterable[Called], sums: Iterable[Called]) -> tuple[float, float, float]:
    """Seconds of the forward pass, of the backward pass, and of what in blocks is in the forward pass.

    Each distinct operation, and its derivative by autograd, is measured once, on made-up tensors of the same shapes.
    On one thread it is this thread's time that counts, so that other processes of the machine do not.
    """
    known: dict[Any, tuple[float, float]] = {}

    def seconds(one: Called) -> tuple[float, float]:
        key = one.key
        if key not in known:
            known[key] = _measured(one)
        return known[key]

    forward = backward = again = 0.0
    for one in operations:
        first, second = seconds(one)
        forward, backward, again = forward + first, backward + second, again + first * one.in_block
    return forward, backward + sum(seconds(one)[0] for one in sums), again


def best_time(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """The least seconds that some work took, after a first time that does not count."""
    clock = _clock()
    work()
    found = []
    for _ in range(repeats):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)


def _clock() -> Callable[[], float]:
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def _measured(one: Called) -> tuple[float, float]:
    clock, copies, found, least = _clock(), 1, [], _least_value(one)
    for number in range(_REPEATS + 1):
        sets = [_materialized(one, least) for _ in range(copies)]
        began = clock()
        outputs = [one.function(*args, **kwargs) for args, kwargs, _ in sets]
        forward = (clock() - began) / copies
        answers = [t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.grad_fn is not None]
        leaves, backward = [leaf for *_, own in sets for leaf in own], 0.0
        if answers and leaves:
            ones = [torch.ones_like(t) for t in answers]
            began = clock()
            torch.autograd.grad(answers, leaves, ones, allow_unused=True)
            backward = (clock() - began) / copies
        if number:
            found.append((forward, backward))
        else:
            copies = max(1, min(_MOST, int(_LEAST / max(forward + backward, 1e-7))))
    return min(f for f, _ in found), min(b for _, b in found)


def _least_value(one: Called) -> float:
    """Of made-up numbers: negative ones, too, unless the operation is not defined for them.

    An operation that branches by the sign, as ReLU does in plain instructions, is fast where all signs are the same.
    """
    args, kwargs, _ = _materialized(one, -0.9)
    try:
        outputs = tree_leaves(one.function(*args, **kwargs))
    except (RuntimeError, ValueError):
        return 0.1
    numbers = [t for t in outputs if isinstance(t, Tensor) and t.is_floating_point()]
    return -0.9 if all(bool(t.isfinite().all()) for t in numbers) else 0.1


def _materialized(one: Called, least: float) -> tuple[Any, Any, list[Tensor]]:
    """Arguments with values: numbers from ``least`` to 0.9, of integers and truth values 0, which any index may be."""
    leaves: list[Tensor] = []
    changed = one.function._schema.is_mutable

    def made(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        steps = zip(value.shape, value.stride(), strict=True)
        length = 1 + sum((size - 1) * step for size, step in steps) if value.numel() else 0
        flat = torch.zeros(length, dtype=value.dtype)
        if flat.is_floating_point():
            flat.uniform_(least, 0.9)
        tensor = flat.as_strided(value.shape, value.stride())
        if not value.requires_grad or not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.requires_grad_())
        return tensor * 1 if changed else tensor  # a leaf must not be changed in place

    args, kwargs = tree_map(made, (one.args, one.kwargs))
    return args, kwargs, leaves


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), tuple(value.stride()), value.dtype, value.requires_grad
    return tuple(map(_form, value)) if isinstance(value, tuple | list) else repr(value)
