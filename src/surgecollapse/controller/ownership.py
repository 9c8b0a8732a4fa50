"""What ties a controller to a model and its optimizers: hooks, and the rule of one controller per parameter."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import is_transformed
from surgecollapse.torch_utils.shards import local
from surgecollapse.torch_utils.step_hooks import StepHooks, parameters_of

_holders: dict[int, tuple[weakref.ref[Tensor], weakref.ref[Ownership]]] = {}
_watching: weakref.WeakSet[Ownership] = weakref.WeakSet()
"""Those that look at the steps of every optimizer; a controller whose model and optimizer are gone leaves by itself."""
_LOST = 3
"""Different weights that batches may see before a loop whose optimizer never steps is refused."""


class Ownership:
    """Holds the parameters of a model for one controller, and the hooks on its optimizers' steps.

    Args:
        model: the module that the loop calls.
        optimizers: as given to ``attach``, wrappers included.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Any]) -> None:
        self._model, self._optimizers = model, optimizers
        self._own = {id(item) for given in optimizers for item in StepHooks.chain(given)}
        self._steps: list[StepHooks] = []
        self._first_batch = Hooks()
        self._foreign: weakref.WeakMethod[Callable[[Optimizer], None]] | None = None
        self._seen: set[tuple[float, ...]] = set()
        self._held: dict[int, weakref.ref[Tensor]] = {}

    @property
    def open(self) -> bool:
        """Whether this connection holds the parameters."""
        return bool(self._held)

    @staticmethod
    def holder(p: Tensor) -> Ownership | None:
        """The connection that holds a parameter, if any."""
        entry = _holders.get(id(p))
        return entry[1]() if entry is not None and entry[0]() is p else None

    def claim(self) -> None:
        """Hold the parameters, also those that the model got since it was called last.

        Raises:
            ValueError: if another controller holds one of them.
        """
        parameters = list(self._model.parameters())
        if any(self.holder(p) not in (None, self) for p in parameters):
            raise ValueError("these parameters already have a controller: call its detach() first")
        for p in parameters:
            _holders[id(p)] = (weakref.ref(p), weakref.ref(self))
            self._held[id(p)] = weakref.ref(p)

    def hook_steps(
        self, before: Callable[[int], None], after: Callable[[int], None], foreign: Callable[[Optimizer], None]
    ) -> None:
        """Call ``before(i)`` and ``after(i)`` around each step of optimizer i, ``foreign`` after that of another one.

        Another one is any optimizer that steps a parameter which this connection holds.

        Args:
            before: called with i before a step of optimizer i.
            after: called with i after it.
            foreign: a bound method, called with the other optimizer. It is held weakly, so that a controller whose
                model and optimizer are gone goes too.
        """
        for i, optimizer in enumerate(self._optimizers):
            self._steps.append(StepHooks(optimizer, partial(before, i), partial(after, i)))
        self._foreign = weakref.WeakMethod(foreign)
        _watching.add(self)
        _watch_every_optimizer()

    def _see(self, optimizer: Optimizer) -> None:
        tell = None if self._foreign is None else self._foreign()
        if tell is None or id(optimizer) in self._own or any(step.running for step in self._steps):
            return  # detached, or an attached optimizer or a part of one steps
        if any(self.holder(p) is self for p in parameters_of(optimizer)):
            tell(optimizer)

    def watch_first_batches(self, capture: Callable[[tuple[Any, ...], dict[str, Any]], None], *, eager: bool) -> None:
        """Hand every training batch to ``capture`` until :meth:`first_step_done`.

        Args:
            capture: takes the arguments and keyword arguments of the model.
            eager: under ``torch.compile``, too: the graph breaks before the model.

        Raises (from the forward pass):
            RuntimeError: if the weights keep changing although no attached optimizer ever steps.
        """

        def on_batch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not module.training or not torch.is_grad_enabled() or is_transformed():
                return
            capture(args, kwargs)
            self._seen.add(_fingerprint(module.parameters()))
            if len(self._seen) >= _LOST:
                raise RuntimeError(
                    "the weights keep changing but the attached optimizer never steps: attach to the optimizer whose "
                    "step() is called (a deepcopy of an optimizer loses its hooks: attach to the copy), or, in a loop "
                    "that writes weights by itself, use hooks=False and call before_step() and after_step()"
                )

        self._first_batch.before(self._model, on_batch, eager=eager)

    @property
    def saw_batch(self) -> bool:
        """Whether a training batch was seen."""
        return bool(self._seen)

    def first_step_done(self) -> None:
        """Stop watching: the optimizer's hooks fire."""
        self._first_batch.remove()

    def close(self) -> None:
        """Remove every hook and give up the claim on the parameters."""
        for hook in self._steps:
            hook.remove()
        self._steps.clear()
        self._first_batch.remove()
        _watching.discard(self)
        # By what was claimed, not by what the model holds now: layers may have been replaced since.
        for key in self._held:
            if key in _holders and _holders[key][1]() is self:
                del _holders[key]
        self._held.clear()


@cache
def _watch_every_optimizer() -> None:
    """Register the one hook on all optimizers, for good.

    torch iterates over its hooks while they run, and a controller may be collected, or detached, at any moment: a hook
    of its own that went with it would change what is iterated over.
    """
    disable: Any = torch.compiler.disable
    register_optimizer_step_post_hook(disable(_after_any_step))


def _after_any_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    for connection in tuple(_watching):
        connection._see(optimizer)


def check_trainable(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Refuse, in one sentence with the fix, what cannot be masked at all.

    Raises:
        ValueError: for sharded or lazy parameters, a container without a forward pass, or optimizers that step none of
            the model's parameters.
    """
    named = dict(model.named_parameters())
    lazy = [name for name, p in named.items() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"{_some(lazy)} have no shape yet (lazy layers): pass one batch through the model before the optimizer is "
            "built and attach is called"
        )
    flat = [name for name, p in named.items() if hasattr(p, "_is_flat_param")]
    if flat:
        raise ValueError(
            f"{_some(flat)} is a flat parameter of FullyShardedDataParallel, in which weights have no shape of their "
            "own: shard the model with torch.distributed.fsdp.fully_shard instead"
        )
    if isinstance(model, nn.ModuleDict | nn.ModuleList) and type(model).forward is nn.Module.forward:
        raise ValueError(
            f"{type(model).__name__} has no forward pass of its own, so nothing of its parts' use can be seen: attach "
            "to the module that the loop calls, or give the container a forward()"
        )
    if named and not any(p.requires_grad for p in named.values()):
        raise ValueError(
            "every parameter of the model is frozen (requires_grad=False), so that nothing is trained: unfreeze what "
            "is to be pruned before the optimizer is built and attach is called"
        )
    own = {id(p) for p in named.values()}
    if named and not any(id(p) in own for optimizer in optimizers for p in parameters_of(optimizer)):
        raise ValueError(
            "the optimizer steps none of the model's parameters (float32 master copies, or the model was rebuilt, "
            "wrapped or moved by a replacement of its parameters): build the optimizer from model.parameters(), and "
            "keep low-precision weights under torch.autocast instead of master copies"
        )


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


@torch.no_grad()
def _fingerprint(params: Iterable[Tensor]) -> tuple[float, ...]:
    """A few sums that a change of the weights moves, also one through ``.data``, which torch does not count."""
    trained = [local(p).detach() for p in params if p.requires_grad and p.numel()]
    ends = trained[:1] + trained[-1:]
    return tuple(p.sum(dtype=torch.float64 if p.is_floating_point() else None).item() for p in ends)
