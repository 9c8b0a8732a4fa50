"""Gradient checkpointing of any model: activations inside its blocks are computed again in the backward pass."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from surgecollapse.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a model: members of a ``Sequential``, ``ModuleList`` or ``ModuleDict`` that have parts themselves.

    Of blocks inside blocks the outer ones count.

    >>> layer = lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> list(blocks_of(nn.Sequential(nn.Flatten(), layer(), layer(), nn.Linear(2, 1))))
    ['1', '2']
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if not isinstance(module, _LISTS) or any(name == block or name.startswith(f"{block}.") for block in found):
            continue
        for part, block in module.named_children():
            if next(block.children(), None) is not None and next(block.parameters(), None) is not None:
                found[f"{name}.{part}" if name else part] = block
    return found


@contextmanager
def around_blocks(
    model: nn.Module, enter: Callable[[tuple[Any, ...]], object], leave: Callable[[], object]
) -> Iterator[None]:
    """Be told, for the length of a block of code, of every pass of a block of the model.

    Args:
        model: the network.
        enter: called before, with its inputs.
        leave: called after.
    """

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        enter(inputs)

    def after(*_: object) -> None:
        leave()

    hooks = [block.register_forward_pre_hook(before) for block in blocks_of(model).values()]
    hooks += [block.register_forward_hook(after) for block in blocks_of(model).values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class RecomputedBlocks:
    """The blocks of a model, which keep their inputs alone until the backward pass.

    Results are those without it, bitwise. Random numbers are drawn again as they were. A second pass would move buffers
    such as the running statistics of batch norm once more, so they stay as the first pass left them.

    Args:
        model: the network.
        name: of the model, for errors.

    Raises:
        ConfigError: if it has no blocks.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self._blocks = list(blocks_of(model).values())
        if not self._blocks:
            raise ConfigError(
                f"gradient_checkpointing: model {name} has no blocks; expected modules of several layers in a "
                "Sequential or ModuleList. Drop it, or build the model of blocks"
            )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the forward passes of a block of code keep inputs alone."""
        with ExitStack() as stack:
            for block in self._blocks:
                own = {"forward": block.__dict__["forward"]} if "forward" in block.__dict__ else {}
                stack.callback(block.__dict__.update, own)
                stack.callback(block.__dict__.pop, "forward")
                block.forward = partial(_recomputed, block, block.forward)
            yield


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    again = _BuffersThen(block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again), **kwargs)


class _BuffersThen:
    """Inside it, a block has the buffers that it had when this was made.

    Other tensors take their places instead of being written to, since the backward pass may hold the present ones.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._then = [(module, name, buffer.clone()) for module, name, buffer in _buffers(block)]
        self._now: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        self._now = _buffers(self._block)
        _put([(module, name, buffer.clone()) for module, name, buffer in self._then])

    def __exit__(self, *_: object) -> None:
        _put(self._now)


def _buffers(block: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (module, name, buffer)
        for module in block.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _put(buffers: list[tuple[nn.Module, str, Tensor]]) -> None:
    for module, name, buffer in buffers:
        module._buffers[name] = buffer
