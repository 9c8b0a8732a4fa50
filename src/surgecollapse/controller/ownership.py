"""What ties a controller to a model and its optimizers: hooks, and the rule of one controller per parameter."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.torch_utils.modules import Hooks, is_transformed
from surgecollapse.torch_utils.step_hooks import StepHooks

_holders: dict[int, tuple[weakref.ref[Tensor], weakref.ref[Connection]]] = {}


class Connection:
    """Holds the parameters of a model for one controller, and the hooks on its optimizers' steps.

    Args:
        model: the module that the loop calls.
        optimizers: as given to ``attach``, wrappers included.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Any]) -> None:
        self._model, self._optimizers = model, optimizers
        self._steps: list[StepHooks] = []
        self._first_batch = Hooks()
        self._versions: set[int] = set()
        self._held: list[int] = []

    @property
    def open(self) -> bool:
        """Whether this connection holds the parameters."""
        return bool(self._held)

    @staticmethod
    def holder(p: Tensor) -> Connection | None:
        """The connection that holds a parameter, if any."""
        entry = _holders.get(id(p))
        return entry[1]() if entry is not None and entry[0]() is p else None

    def claim(self) -> None:
        """Hold the parameters.

        Raises:
            ValueError: if another controller holds one of them.
        """
        parameters = list(self._model.parameters())
        if any(self.holder(p) not in (None, self) for p in parameters):
            raise ValueError("these parameters already have a controller: call its detach() first")
        for p in parameters:
            _holders[id(p)] = (weakref.ref(p), weakref.ref(self))
        self._held = [id(p) for p in parameters]

    def hook_steps(self, before: Callable[[int], None], after: Callable[[int], None]) -> None:
        """Call ``before(i)`` and ``after(i)`` around each step of optimizer i."""
        for i, optimizer in enumerate(self._optimizers):
            self._steps.append(StepHooks(optimizer, partial(before, i), partial(after, i)))

    def watch_first_batches(self, capture: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> None:
        """Hand every training batch to ``capture`` until :meth:`first_step_done`.

        Raises (from the forward pass):
            RuntimeError: if the weights keep changing although no attached optimizer ever steps.
        """

        def on_batch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not module.training or not torch.is_grad_enabled() or is_transformed():
                return
            capture(args, kwargs)
            self._versions.add(sum(p._version for p in module.parameters()))
            if self._steps and len(self._versions) > 2:
                raise RuntimeError(
                    "the weights keep changing but the attached optimizer never steps: attach to the optimizer whose "
                    "step() is called (a deepcopy of an optimizer loses its hooks: attach to the copy)"
                )

        self._first_batch.before(self._model, on_batch)

    def first_step_done(self) -> None:
        """Stop watching: the optimizer's hooks fire."""
        self._first_batch.remove()

    def close(self) -> None:
        """Remove every hook and let go of the parameters."""
        for hook in self._steps:
            hook.remove()
        self._steps.clear()
        self._first_batch.remove()
        # By what was claimed, not by what the model holds now: layers may have been replaced since.
        for key in self._held:
            if key in _holders and _holders[key][1]() is self:
                del _holders[key]
        self._held.clear()
