"""Gradient transforms alone: one line in any loop, on dense nets too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgecollapse.attaching.handle import Handle
from surgecollapse.controller.ownership import Ownership
from surgecollapse.errors import warn_user
from surgecollapse.events import Measurement
from surgecollapse.gradients.chain import TransformChain
from surgecollapse.gradients.effects import Effects
from surgecollapse.protocols import GradientTransform, Recorder
from surgecollapse.torch_utils.carried_state import CarriedState
from surgecollapse.torch_utils.modules import snapshot
from surgecollapse.torch_utils.step_hooks import StepHooks, overflowed, parameters_of, unscale

STATE_VERSION = 1
CARRIED = "surgecollapse.transforms"
"""Key in ``optimizer.state_dict()``: a list, one entry a call of :func:`transform_gradients`."""


class TransformedGradients(Handle):
    """Handle of :func:`transform_gradients`: its state belongs into the checkpoint; a context manager."""

    def __init__(
        self, optimizer: Any, transforms: Sequence[GradientTransform], recorders: Sequence[Recorder], every: int
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._optimizer = StepHooks.chain(optimizer)[-1]
        if any(Ownership.holder(p) is not None for p in parameters_of(self._optimizer)):
            raise ValueError(
                "a controller masks these parameters already, and masking comes after every transform: pass the "
                "transforms to attach(..., transforms=[...]), or call transform_gradients before attach"
            )
        self._chain, self._effects = TransformChain(transforms), Effects()
        self._chain.check_after_standing(self._optimizer)
        self._recorders, self._every, self._step = recorders, every, 0
        self._hooks = StepHooks(optimizer, self._before_step, lambda: None)
        self._chain.stand_before(self._optimizer)
        self._carried = CarriedState(self._optimizer, CARRIED, self.state_dict, self._load_carried)

    def _before_step(self) -> None:
        """Do all that belongs before a step: nothing at all if the step is about to be skipped for an overflow."""
        if not len(self._chain) or overflowed(self._optimizer):
            return
        unscale(self._optimizer)
        self._step += 1
        due = bool(self._recorders) and self._step % self._every == 0
        self._chain.apply(self._optimizer, self._effects if due else None)
        for name, value in self._effects.read().items() if due else ():
            for recorder in self._recorders:
                recorder.record(Measurement(step=self._step, name=name, value=value))

    def remove(self) -> None:
        """Take the transforms off again; the optimizer is what it was."""
        self._hooks.remove()
        self._chain.leave(self._optimizer)
        self._carried.remove()

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of all transforms, by position of the parameters in the optimizer; ``weights_only``-loadable.

        It travels inside ``optimizer.state_dict()``, too.
        """
        state = self._chain.state_dict(list(parameters_of(self._optimizer)))
        return snapshot({"version": STATE_VERSION, "transforms": state, "step": self._step})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: if the number of transforms or of parameters differs, or the version is newer.
        """
        if state.get("version", STATE_VERSION) > STATE_VERSION:
            raise ValueError(
                f"the state of the transforms has version {state['version']}, this library reads {STATE_VERSION}"
            )
        self._chain.load_state_dict(snapshot(state["transforms"]), list(parameters_of(self._optimizer)))
        self._step = state.get("step", 0)  # not in checkpoints of version 0.1.0

    def _load_carried(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.load_state_dict(state)
        elif self._chain.state_dict([]):
            warn_user(
                f"the optimizer state that was loaded holds no state of gradient transforms ({CARRIED!r}): they go on "
                "as they are. Save optimizer.state_dict() after transform_gradients, or load the handle's own state"
            )


def transform_gradients(
    optimizer: Any, transforms: Sequence[GradientTransform], *, recorders: Sequence[Recorder] = (), every: int = 50
) -> TransformedGradients:
    """Transform the final gradients of any optimizer before each of its steps.

    The optimizer's groups, schedulers, betas, closures and state dict stay what they were. Under ``GradScaler`` the
    transforms see unscaled gradients, and nothing at all on a step that overflows; with gradient accumulation they run
    once per step.

    Args:
        optimizer: the optimizer whose ``step()`` the loop calls; wrappers are looked through.
        transforms: in the declared order filter → project → clip.
        recorders: objects with ``record(event)``; they get what the transforms do to the gradients, see
            :class:`~surgecollapse.gradients.effects.Effects`.
        every: steps between two such measurements.

    Returns:
        A handle with ``state_dict``, ``load_state_dict`` and ``remove``.

    Raises:
        TypeError: if something is no optimizer or no transform.
        ValueError: for LBFGS, a wrong order, also after transforms of an earlier call, or parameters that a controller
            masks already.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Linear(2, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> with surgecollapse.transform_gradients(optimizer, []) as handle:
    ...     handle.state_dict()
    {'version': 1, 'transforms': [], 'step': 0}
    """
    return TransformedGradients(optimizer, transforms, recorders, every)
