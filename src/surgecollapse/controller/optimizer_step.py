"""Around each optimizer's step: rates → unscaled gradients → transforms → growth signal → masks, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from surgecollapse.controller.components import Components
from surgecollapse.gradients.chain import TransformChain
from surgecollapse.gradients.effects import Effects
from surgecollapse.protocols import GradientTransform
from surgecollapse.torch_utils.step_hooks import moves_nothing, overflowed, parameters_of, unscale


class OptimizerSteps:
    """Prepares gradients and learning rates for a step, and puts rates and closed weights right after it.

    Args:
        optimizers: innermost ones, in the order in which they step.
        transforms: of final gradients, in their order.

    Attributes:
        effects: what the transforms did to the gradients of a step that was read.

    Raises:
        TypeError: if an item is no transform.
        ValueError: if transforms are not in the declared order, also after those that an optimizer has already.
    """

    def __init__(self, optimizers: Sequence[Optimizer], transforms: Sequence[GradientTransform]) -> None:
        self._optimizers = optimizers
        self._transforms, self.effects = TransformChain(transforms), Effects()
        for optimizer in optimizers:
            self._transforms.check_after_standing(optimizer)
        self._rates: dict[int, list[Any]] = {}
        self._skipped: set[int] = set()

    def skips(self, index: int, *, rehearsal: bool = False) -> bool:
        """Whether an optimizer is about to skip its step for an overflow; to be asked before each step.

        Args:
            index: of the optimizer.
            rehearsal: no training batch was seen yet, so that a step which moves nothing is not counted either. With
                such a step ``torch.distributed.checkpoint`` has an optimizer make its state.
        """
        self._skipped.discard(index)
        if overflowed(self._optimizers[index]) or (rehearsal and moves_nothing(self._optimizers[index])):
            self._skipped.add(index)
        return index in self._skipped

    def skipped(self, index: int) -> bool:
        """Whether the step that an optimizer is at, or has just ended, changes nothing."""
        return index in self._skipped

    def prepare(
        self,
        index: int,
        components: Components,
        *,
        rates: Callable[[Sequence[float]], list[float] | None],
        until_due: int,
    ) -> None:
        """Do what belongs before a step that will be made.

        Args:
            index: of the optimizer.
            components: what is masked, and what observes it.
            rates: gives the learning rates of all groups, of all optimizers, for this one step from the scheduled ones,
                or ``None`` for these. Schedulers see nothing of them.
            until_due: steps until the next reading, 0: this one is read; negative, if it is too far ahead to be known.
        """
        optimizer = self._optimizers[index]
        self._set_rates(index, rates)
        tracked = components.tracked(index, until_due)
        due = until_due == 0 and index <= components.primary  # an optimizer behind it still ends the step that was read
        shadow = components.actor.shadow
        if shadow.active:
            shadow.put(components.groups[index], check=due)
        counters = None if components.actor.frozen else components.actor.writer.counters
        if len(self._transforms) or tracked or due or counters is not None:
            unscale(optimizer)
            if index == 0:
                self.effects.clear()
            self._transforms.apply(optimizer, self.effects if due else None)
            if due:
                components.observer.see_gradients([p.grad for p in parameters_of(optimizer) if p.grad is not None])
            components.signal.update(tracked)
            if counters is not None:
                counters.before_step(components.groups[index])
        if shadow.active:
            shadow.scale_gradients(components.groups[index])
            return
        components.weights.mask_gradients(components.groups[index])
        components.zero_preservation.before_step(index, components.groups[index])
        ramp = components.actor.writer.ramp
        if ramp is not None:
            ramp.before_step(components.groups[index])

    def put_right(self, index: int, components: Components, *, check: bool) -> None:
        """Do what belongs after a step: the loop's learning rates are back, closed weights are zero.

        Args:
            index: of the optimizer.
            components: what is masked.
            check: look whether closed weights had other values.
        """
        shadow = components.actor.shadow
        for group, rate in zip(self._optimizers[index].param_groups, self._rates.pop(index, ()), strict=False):
            group["lr"] = rate
        if shadow.active and index not in self._skipped:
            shadow.take(components.groups[index], last=index == components.primary, check=check)
            return
        ramp = components.actor.writer.ramp
        if ramp is not None and index not in self._skipped:
            ramp.after_step(components.groups[index])
        components.zero_preservation.after_step(index, components.groups[index], check=check)

    def _set_rates(self, index: int, rates: Callable[[Sequence[float]], list[float] | None]) -> None:
        """Put other rates into an optimizer's groups, and keep the scheduled ones."""
        scheduled = [
            rate
            for number, optimizer in enumerate(self._optimizers)
            for rate in self._rates.get(number, [group["lr"] for group in optimizer.param_groups])
        ]
        wanted = rates(scheduled)
        if wanted is None:
            return
        groups = self._optimizers[index].param_groups
        first = sum(len(optimizer.param_groups) for optimizer in self._optimizers[:index])
        self._rates.setdefault(index, [group["lr"] for group in groups])
        for group, rate in zip(groups, wanted[first:], strict=False):
            group["lr"] = rate

    def state_dict(self) -> list[dict[str, Any]]:
        """State of the transforms."""
        return self._transforms.state_dict(self._parameters())

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: if the number of transforms differs.
        """
        self._transforms.load_state_dict(state, self._parameters())

    def _parameters(self) -> list[Tensor]:
        return [p for optimizer in self._optimizers for p in parameters_of(optimizer)]
