"""Hooks on modules that no copy, pickle or script of a model ever carries along."""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_SIDES = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
_OVERRIDDEN = ("__deepcopy__", "__reduce_ex__", "values")


class ModuleHook:
    """A module hook of this library. Inside a graph that ``torch.compile`` traces it does nothing.

    Compiled code may keep a hook that was removed: it is retired, and does nothing either.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function: Callable[..., Any] | None = function

    def __call__(self, *args: Any) -> Any:
        """Call the function, unless a compiler is tracing."""
        if torch.compiler.is_compiling():
            return None
        return self._run(*args)

    def _run(self, *args: Any) -> Any:
        return None if self._function is None else self._function(*args)

    def retire(self) -> None:
        """Do nothing from now on."""
        self._function = None


class EagerHook(ModuleHook):
    """A module hook that runs on real tensors under ``torch.compile``, too: the graph breaks before it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        disable: Any = torch.compiler.disable
        self._between: Callable[..., Any] = disable(self._run)

    def __call__(self, *args: Any) -> Any:
        """Call the function, between two graphs; while a model is exported do nothing."""
        if torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling():
            return None
        return self._between(*args)


class Hooks:
    """A set of module hooks that are removed together; copies and pickles of it are empty."""

    def __init__(self) -> None:
        self._held: list[tuple[RemovableHandle, ModuleHook, weakref.ref[nn.Module]]] = []

    def __len__(self) -> int:
        return len(self._held)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hooks:
        return Hooks()

    def __reduce__(self) -> tuple[type[Hooks], tuple[()]]:
        return Hooks, ()

    def before(self, module: nn.Module, function: Callable[..., Any], *, eager: bool = False) -> None:
        """Call ``function(module, args, kwargs)`` before each forward of ``module``.

        ``eager``: in a compiled model, too, whose graph then breaks before it.
        """
        hook = EagerHook(function) if eager else ModuleHook(function)
        self._hold(module, module.register_forward_pre_hook(hook, with_kwargs=True), hook)

    def after(self, module: nn.Module, function: Callable[..., Any], *, always: bool = False) -> None:
        """Call ``function(module, args, output)`` after each forward of ``module``; ``always``: one that fails, too."""
        hook = ModuleHook(function)
        self._hold(module, module.register_forward_hook(hook, always_call=always), hook)

    def _hold(self, module: nn.Module, handle: RemovableHandle, hook: ModuleHook) -> None:
        self._held.append((handle, hook, weakref.ref(module)))
        _leave_out_of_copies(module)

    def remove(self) -> None:
        """Remove all of them."""
        for handle, hook, _ in self._held:
            handle.remove()
            hook.retire()
        for module in {id(m): m for _, _, ref in self._held if (m := ref()) is not None}.values():
            if not _own_ids(module):
                _restore(module)
        self._held.clear()


def _own_ids(module: nn.Module) -> set[int]:
    """Ids of the hooks of this library on a module."""
    found = (dict.items(getattr(module, name)) for name in _HOOKS)
    return {key for items in found for key, hook in items if isinstance(hook, ModuleHook)}


def _leave_out_of_copies(module: nn.Module) -> None:
    """Let deep copies, pickles and scripts of a module see its other hooks alone.

    All three ask the dictionaries of hooks themselves (by attributes that an instance may override), so that nothing
    of the module changes: neither its class nor the dictionaries, which the handles of other hooks refer to.
    """
    known = weakref.ref(module)
    for name in (*_HOOKS, *_SIDES):
        hooks = getattr(module, name, None)
        if not isinstance(hooks, OrderedDict) or "values" in vars(hooks):
            continue

        def others(hooks: OrderedDict[int, Any] = hooks) -> OrderedDict[int, Any]:
            here = known()
            own = set() if here is None else _own_ids(here)
            return OrderedDict((key, value) for key, value in dict.items(hooks) if key not in own)

        vars(hooks)["__deepcopy__"] = lambda memo, others=others: copy.deepcopy(others(), memo)
        vars(hooks)["__reduce_ex__"] = lambda _protocol, others=others: (OrderedDict, (list(others().items()),))
        vars(hooks)["values"] = lambda others=others: others().values()


def _restore(module: nn.Module) -> None:
    for name in (*_HOOKS, *_SIDES):
        for override in _OVERRIDDEN:
            vars(getattr(module, name, OrderedDict())).pop(override, None)
