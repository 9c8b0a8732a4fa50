"""An exponential average of the weights that an optimizer writes: one line in any loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from surgecollapse.attaching.handle import Handle
from surgecollapse.controller.ownership import Ownership
from surgecollapse.torch_utils.modules import canonical_name, snapshot, unwrap_model
from surgecollapse.torch_utils.step_hooks import StepHooks, overflowed

if TYPE_CHECKING:
    from surgecollapse.controller.controller import Controller


class AveragedWeights(Handle):
    """Handle of :func:`average_weights`; a context manager that removes its hooks on exit.

    Attributes:
        steps: optimizer steps that entered the average.
    """

    def __init__(self, model: nn.Module, optimizer: Any, decay: float, controller: Controller | None) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be above 0 and below 1, got {decay:g}: without an average, call nothing")
        inner = unwrap_model(model)
        held = any(Ownership.holder(p) is not None for p in inner.parameters())
        if held and controller is None:
            raise ValueError(
                "a controller masks these parameters, and their average must obey its masks: pass controller="
            )
        self.steps = 0
        self._controller = controller
        self._blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        tensors = {**dict(inner.named_parameters()), **dict(inner.named_buffers())}
        self._live = {canonical_name(name): x for name, x in tensors.items() if x.is_floating_point()}
        self._average = {name: x.detach().clone() for name, x in self._live.items()}
        self._optimizer, self._skipped = StepHooks.chain(optimizer)[-1], False
        self._hooks = StepHooks(optimizer, self._before, self._after)

    def _before(self) -> None:
        self._skipped = overflowed(self._optimizer)

    @torch.no_grad()
    def _after(self) -> None:
        if self._skipped:
            return
        if self.steps == 0:
            for name, x in self._live.items():
                self._average[name].copy_(x)
        else:
            self._blend(list(self._average.values()), list(self._live.values()), self.steps)
        self.steps += 1
        self._obey()

    def _obey(self) -> None:
        """Set to zero in the average what the masks hold at zero in the net."""
        if self._controller is not None:
            for name, mask in self._controller.masks.items():
                self._average[name].mul_(mask)

    @property
    def average(self) -> dict[str, Tensor]:
        """Copies of the averages, by canonical name of the parameter or buffer."""
        return {name: x.clone() for name, x in self._average.items()}

    @torch.no_grad()
    def apply(self) -> None:
        """Write the average into the model, for good: at the end of training, after ``controller.finalize()``.

        Does nothing before the first step.
        """
        if self.steps:
            self._obey()
            for name, x in self._live.items():
                x.copy_(self._average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average as its weights for the length of a block, and after it bitwise what it had before.

        Evaluate inside it; training steps belong outside.
        """
        before = {name: x.detach().clone() for name, x in self._live.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, x in self._live.items():
                    x.copy_(before[name])

    def remove(self) -> None:
        """Stop averaging; the average stays as it is."""
        self._hooks.remove()

    def state_dict(self) -> dict[str, Any]:
        """The average and how many steps it is of; ``weights_only``-loadable."""
        return snapshot({"steps": self.steps, "average": self.average})

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: if the averages are of other parameters.
        """
        different = sorted(set(state["average"]) ^ set(self._average))
        if different:
            raise ValueError(f"the saved average is of another model: only one of the two has {different[0]!r}")
        for name, x in self._average.items():
            x.copy_(state["average"][name])
        self.steps = state["steps"]


def average_weights(
    model: nn.Module, optimizer: Any, *, decay: float, controller: Controller | None = None
) -> AveragedWeights:
    """Average the weights over the steps of an optimizer: θ̄ ← dθ̄ + (1 − d)θ after each, from θ̄ = θ after the first.

    The iterates of a high learning rate swing about the weights that it heads for. Their average is nearer to these
    (Polyak and Juditsky 1992, SIAM J. Control Optim. 30(4); the exponential form as in
    ``torch.optim.swa_utils.get_ema_multi_avg_fn``). It forgets with a time constant of 1/(1 − d) steps and lags by d/(1
    − d) of them. Training with it is bitwise the training without it: only what one evaluates differs. Buffers of a
    floating dtype, as the statistics of batch norms, are averaged too.

    Pruned nets: a weight that the masks close is zero in the average at once, and one that they open enters it from
    zero. So the average is as sparse as the net. :meth:`AveragedWeights.apply` comes after ``finalize()``.

    Args:
        model: the module whose weights are averaged; ``torch.compile`` and DDP wrappers are looked through.
        optimizer: the optimizer whose ``step()`` the loop calls; of several, the one that is stepped last.
        decay: d, above 0 and below 1.
        controller: what ``attach`` returned, if the model is pruned; attach first.

    Returns:
        A handle with ``applied()`` to evaluate, ``apply()`` to keep the average, and ``state_dict()`` for checkpoints.

    Raises:
        TypeError: if ``optimizer`` is none.
        ValueError: for a decay out of range, LBFGS, or a model with masks and no ``controller``.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> averaged = surgecollapse.average_weights(model, optimizer, decay=0.5)
    >>> for _ in range(3):  # the weight becomes 1, 2, 3
    ...     model.weight.grad = -torch.ones(1, 1)
    ...     optimizer.step()
    >>> with averaged.applied():
    ...     model.weight.item()
    2.25
    >>> model.weight.item()
    3.0
    """
    return AveragedWeights(model, optimizer, decay, controller)
