"""How the engine attaches to an optimizer's step: hooks, closures, wrappers and gradient scaling.

Each case below was tested against torch; the conformance suite (``tests/contract``) holds one test a row.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from surgecollapse.torch_utils.shards import local

_OPTIMIZER_FILE = inspect.getfile(Optimizer)
_LOST = 2
"""Steps that may begin without one that ends: an exception inside a step, and a second try."""
_INNER_NAMES = ("optimizer", "base_optimizer", "inner_optimizer", "_optimizer", "optim")
_THIN = frozenset(("accelerate", "lightning", "lightning_fabric", "pytorch_lightning"))
"""Packages whose wrappers write no weights after the step of the optimizer inside."""


class StepHooks:
    """Calls ``before`` and ``after`` around each step of one optimizer.

    * Plain, ``foreach`` and fused steps: pre-hook, update, post-hook.
    * ``step(closure)``: the closure is wrapped, so that ``before`` runs after its backward pass.
    * Wrappers (Lookahead, Accelerate …): ``before`` on the innermost optimizer, ``after`` on the outermost, since
      wrappers write weights after the inner step. One that takes no hooks, as it never ran ``Optimizer.__init__``, has
      its ``step`` wrapped.
    * Wrappers that step in two calls (SAM's ``first_step`` and ``second_step``): around the inner optimizer's step.
    * LBFGS evaluates its closure many times within a step: refused.
    * ``ZeroRedundancyOptimizer`` steps a share of the weights on each rank, and its consolidated state has no room for
      that of others: refused.
    """

    def __init__(self, optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
        chain = self.chain(optimizer)
        # Under torch.compile(optimizer.step) the hooks run between graphs, not inside one.
        disable: Any = torch.compiler.disable
        self._before, self._after = disable(before), disable(after)
        self._nested: Callable[[Optimizer], bool] = disable(is_within_a_step)
        self._name, self._begun, self._outer_steps = type(chain[0]).__name__, 0, False
        self._calls, self._removed = 0, False
        self._handles: list[RemovableHandle | _WrappedStep] = [chain[-1].register_step_pre_hook(self._pre)]
        outer = self._outermost(chain)
        self._outer_takes_hooks = _takes_hooks(outer)
        if self._outer_takes_hooks:
            self._handles.append(outer.register_step_post_hook(self._post))
        else:
            self._handles.append(_WrappedStep(outer, self._outer_begins, self._outer_ends))
        if outer is not chain[-1]:
            if self._outer_takes_hooks:
                self._handles.append(outer.register_step_pre_hook(self._outer_begins))
            self._handles.append(chain[-1].register_step_post_hook(self._inner_ends))

    @staticmethod
    def chain(optimizer: Any) -> list[Any]:
        """Return ``optimizer`` and the optimizers that it wraps, outermost first.

        Raises:
            TypeError: if the innermost is no ``torch.optim.Optimizer``.
            ValueError: if one of them is LBFGS or a ``ZeroRedundancyOptimizer``.
        """
        chain = [optimizer]
        while True:
            inner = _inner(chain[-1])
            if inner is None or inner in chain:
                break
            chain.append(inner)
        if not isinstance(chain[-1], Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer or wrap one, got {type(optimizer).__name__}: "
                "pass the optimizer whose step() changes the weights"
            )
        if not _takes_hooks(chain[-1]):
            raise TypeError(
                f"{type(chain[-1]).__name__} takes no step hooks, since it never ran Optimizer.__init__(): call "
                "super().__init__(params, defaults) in it, or pass the optimizer inside of it"
            )
        if any(isinstance(item, LBFGS) for item in chain):
            raise ValueError(
                "LBFGS calls its closure many times within one step, so weights cannot be masked in between: "
                "use a first-order optimizer (SGD, Adam, AdamW, RMSprop, Adagrad, Lion …)"
            )
        if any(type(item).__name__ == "ZeroRedundancyOptimizer" for item in chain):
            raise ValueError(
                "ZeroRedundancyOptimizer holds the moments of a share of the weights on each rank, so that they can "
                "neither be reset where the mask changes nor saved with it: use an ordinary optimizer under "
                "DistributedDataParallel"
            )
        return chain

    @property
    def running(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._begun > 0

    @staticmethod
    def _outermost(chain: list[Any]) -> Any:
        """The outermost optimizer that may write weights.

        A wrapper of Accelerate writes none; one that has copied the attributes of the inner optimizer (Fabric) has that
        one's hooks.
        """
        for item in chain[:-1]:
            if _takes_hooks(item):
                shared = item._optimizer_step_post_hooks is chain[-1]._optimizer_step_post_hooks
                return chain[-1] if shared else item
            if type(item).__module__.partition(".")[0] not in _THIN and callable(getattr(item, "step", None)):
                return item
        return chain[-1]

    def _outer_begins(self, *_: Any) -> None:
        self._outer_steps = True

    def _outer_ends(self) -> None:
        self._outer_steps = False
        if self._begun:  # otherwise it left the optimizer inside alone, as in gradient accumulation
            self._post()

    def _inner_ends(self, optimizer: Optimizer, *_: Any) -> None:
        """End the step here, where the wrapper's own step() is not what the loop calls (SAM in two calls)."""
        if not self._outer_steps and not self._nested(optimizer):
            self._post()

    def _pre(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._removed or self._nested(optimizer):
            return None
        if self._begun and self._outer_steps and not self._outer_takes_hooks:
            self._begun = 0  # one more step of the optimizer inside, within one of its wrapper
            self._call(self._after)
        self._begun += 1
        if self._begun > _LOST:
            raise RuntimeError(
                f"{self._begun} steps of {self._name} began and none ended, so no mask was applied: its step() does "
                "not run the hooks of torch.optim.Optimizer. Attach with hooks=False, and call before_step() and "
                "after_step() around each step"
            )
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._call(self._before)
            return None

        def closure_then_before() -> Any:
            loss = closure()
            self._call(self._before)
            return loss

        if len(args) > 1:
            return (args[0], closure_then_before, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_then_before}

    def _post(self, optimizer: Optimizer | None = None, *_: Any) -> None:
        if self._removed or (optimizer is not None and self._nested(optimizer)):
            return
        self._begun, self._outer_steps = 0, False
        self._call(self._after)

    def _call(self, told: Callable[[], None]) -> None:
        self._calls += 1
        try:
            told()
        finally:
            self._calls -= 1

    def remove(self) -> None:
        """Remove the hooks; if one of them asks for it, they stay and do nothing, since torch iterates over them."""
        self._removed = True
        if self._calls:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _WrappedStep:
    """Wraps ``step`` of one optimizer that takes no hooks, until it is removed; its copies step as ever."""

    def __init__(self, optimizer: Any, begins: Callable[[], None], ends: Callable[[], None]) -> None:
        self._optimizer, self._before = weakref.ref(optimizer), vars(optimizer).get("step")
        original, self._active = optimizer.step, True

        @functools.wraps(original)
        def step(its: Any, *args: Any, **kwargs: Any) -> Any:
            if its is not self._optimizer():
                return type(its).step(its, *args, **kwargs)
            if not self._active:
                return original(*args, **kwargs)
            begins()
            result = original(*args, **kwargs)
            ends()
            return result

        self._wrapped = optimizer.step = MethodType(step, optimizer)  # schedulers look for the function of a method

    def remove(self) -> None:
        """Give the optimizer its own ``step`` back, unless something else has wrapped this one."""
        optimizer, self._active = self._optimizer(), False
        if optimizer is None or vars(optimizer).get("step") is not self._wrapped:
            return
        if self._before is None:
            del optimizer.step
        else:
            optimizer.step = self._before


def _takes_hooks(optimizer: Any) -> bool:
    return hasattr(optimizer, "_optimizer_step_post_hooks")


def _inner(optimizer: Any) -> Optimizer | None:
    """The optimizer that another one wraps: by the usual names, or the only one that one without hooks has."""
    attributes = getattr(optimizer, "__dict__", {})
    named = [attributes[name] for name in _INNER_NAMES if isinstance(attributes.get(name), Optimizer)]
    if named or _takes_hooks(optimizer):
        return named[0] if named else None
    found = [value for value in attributes.values() if isinstance(value, Optimizer)]
    return found[0] if len(found) == 1 else None


def is_within_a_step(optimizer: Optimizer) -> bool:
    """Whether the hook that asks runs for a ``super().step()`` inside of the optimizer's own step.

    torch wraps the ``step`` of every class of which an optimizer was made. So a subclass whose step calls that of its
    base runs the hooks twice: once for each class. Only the outer one is the step that the loop made. Frames take
    microseconds, so that they are walked only where the class has two such steps of its own. One that was inherited and
    wrapped twice (of ``AdamW``, then of ``Adam``) is one.
    """
    steps_of = (vars(cls).get("step") for cls in type(optimizer).__mro__)
    if len({getattr(step, "__wrapped__", step) for step in steps_of if hasattr(step, "hooked")}) < 2:
        return False
    steps, frame = 0, inspect.currentframe()
    while frame is not None and steps < 2:
        code = frame.f_code
        if code.co_name == "wrapper" and code.co_filename == _OPTIMIZER_FILE:
            steps += frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return steps > 1


def parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    """Yield the parameters of all groups, in order."""
    for group in optimizer.param_groups:
        yield from group["params"]


def overflowed(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer under ``GradScaler`` is about to skip this step because of an inf gradient.

    Costs a host sync, and only where ``GradScaler`` left its mark.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


def moves_nothing(optimizer: Optimizer) -> bool:
    """Whether every learning rate and every gradient of the step that comes is zero."""
    rates = [group.get("lr", 1.0) for group in optimizer.param_groups]
    if not rates or any(bool(rate) for rate in rates):
        return False
    grads = [local(p.grad) for p in parameters_of(optimizer) if p.grad is not None]
    return bool(grads) and not any(bool(grad.any()) for grad in grads)


def unscale(optimizer: Optimizer) -> None:
    """Divide gradients that ``GradScaler`` left scaled for a fused kernel, and tell the kernel so.

    A fused optimizer gets scaled gradients and divides by ``optimizer.grad_scale`` itself. Code that needs true
    gradients in a pre-hook must divide first *and* clear the mark, else the kernel divides again.
    """
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    grads = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
    inverse = torch.as_tensor(scale).double().reciprocal().float()
    for grad in map(local, grads):
        grad.mul_(inverse.to(grad.device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]
