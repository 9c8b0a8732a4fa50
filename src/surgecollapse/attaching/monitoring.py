"""Monitors without surge-collapse: on any model, dense ones too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.attaching.handle import Handle
from surgecollapse.controller.options import Monitoring, Readings
from surgecollapse.events import Measurement
from surgecollapse.observe.budget import BudgetReport
from surgecollapse.observe.monitor_context import MonitorContexts
from surgecollapse.observe.monitors import Monitors, make_monitors
from surgecollapse.observe.probe import Probe
from surgecollapse.observe.watch import Watch
from surgecollapse.protocols import Recorder
from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import is_transformed, snapshot, unwrap_model
from surgecollapse.torch_utils.step_hooks import StepHooks, overflowed


class WatchedTraining(Handle):
    """Handle of :func:`watch_training`; a context manager.

    Attributes:
        step: completed optimizer steps.
        watch: runs the monitors; ``watch.every`` may be set.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        recorders: Sequence[Recorder],
        readings: Readings,
        monitoring: Monitoring,
    ) -> None:
        self._model, self._recorders = unwrap_model(model), recorders
        given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        self.optimizers = [StepHooks.chain(item)[-1] for item in given]
        self.step = 0
        self._skipped = False
        self._probe = Probe(readings.probe)
        contexts = MonitorContexts(
            self._model, self._probe, sites=readings.sites, rows=readings.rows, criterion=monitoring.criterion
        )
        monitors = make_monitors(monitoring.monitors)
        self.watch = Watch(self._model, monitors, contexts, self._record, every=readings.every, limit=monitoring.budget)
        self._first_batch = Hooks()
        self._first_batch.before(model, self._see_batch)
        self._steps = [
            StepHooks(item, partial(self._before, i), partial(self._after, i)) for i, item in enumerate(given)
        ]

    def note(
        self,
        loss: Tensor | float | None = None,
        targets: Tensor | None = None,
        *,
        validation_loss: Tensor | float | None = None,
    ) -> None:
        """Tell the monitors this step's loss and labels before the optimizer's step, or a validation loss any time.

        All are optional: without both losses the generalization gap is not recorded.
        """
        self.watch.contexts.note(targets, loss=loss, validation_loss=validation_loss)

    def report(self) -> BudgetReport:
        """What the monitors cost, and what was done about it."""
        return self.watch.report()

    def _see_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled() and not is_transformed():
            self._probe.capture(args, kwargs)
            self.watch.contexts.see_batch(args, kwargs)

    def _before(self, index: int) -> None:
        if index:
            return
        self._first_batch.remove()
        self._skipped = overflowed(self.optimizers[0])
        if not self._skipped:
            self.watch.before_step(self.step + 1, self.optimizers, dict)

    def _after(self, index: int) -> None:
        if index == len(self.optimizers) - 1 and not self._skipped:
            self.step += 1

    def _record(self, measurement: Measurement) -> None:
        for recorder in self._recorders:
            recorder.record(measurement)

    def remove(self) -> None:
        """Remove every hook."""
        for hooks in self._steps:
            hooks.remove()
        self._first_batch.remove()

    def state_dict(self) -> dict[str, Any]:
        """The probe batch, when the next event is due, and the monitors' own state; ``weights_only``-loadable."""
        return snapshot({"step": self.step, "probe": self._probe.state_dict(), "watch": self.watch.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.step = state["step"]
        self._probe.load_state_dict(state["probe"])
        self.watch.load_state_dict(state["watch"])
        if self.step:
            self._first_batch.remove()


def watch_training(
    model: nn.Module,
    optimizer: Any,
    *,
    monitors: Monitors = "default",
    recorders: Sequence[Recorder] = (),
    every: int = 50,
    budget: float | None = 0.02,
    probe: Any = None,
    sites: Sequence[str] | None = None,
    rows: int = 128,
    criterion: Callable[[Any, Tensor], Tensor] | None = None,
) -> WatchedTraining:
    """Measure a net while any loop trains it, and change nothing.

    For nets that are not pruned; with surge-collapse, give the monitors to :func:`surgecollapse.attach`. Training with
    it is bitwise the training without it. Call it before :func:`surgecollapse.transform_gradients`, so that the
    monitors see gradients before transforms.

    Args:
        model: the module that the loop calls; ``torch.compile`` and DDP wrappers are looked through.
        optimizer: the optimizer whose ``step()`` the loop calls, or a list of them, stepped in that order.
        monitors: ``default``, names (see :data:`surgecollapse.observe.monitors.MONITORS`), objects of the protocol
            :class:`surgecollapse.protocols.Monitor`, or a sequence of these.
        recorders: objects with ``record(event)``; they get every :class:`~surgecollapse.events.Measurement`.
        every: steps between two events; where the monitors would cost more than ``budget``, more.
        budget: most that the monitors may take of the training time; ``None`` keeps the cadence.
        probe: a batch as the model is called (tensor, tuple of arguments, dict of keyword arguments); default: the
            first 64 rows of the first training batch.
        sites: patterns on module names to read instead of the activations that follow hidden layers.
        rows: most rows of the probe batch to read at a site.
        criterion: loss of the model's output and the targets, for monitors that need one.

    Returns:
        A handle with ``note``, ``report``, ``state_dict``, ``load_state_dict`` and ``remove``.

    Raises:
        TypeError: if something is no optimizer or no monitor.
        ValueError: for LBFGS, an unknown monitor, or options out of range.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> recorder = surgecollapse.MemoryRecorder()
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> with surgecollapse.watch_training(
    ...     model, optimizer, monitors=["units", "norms"], recorders=[recorder], every=5, budget=None
    ... ):
    ...     for _ in range(10):
    ...         optimizer.zero_grad()
    ...         torch.nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
    ...         optimizer.step()
    >>> sorted({event.name for event in recorder.events if "budget" not in event.name})
    ['norm/gradient', 'norm/update', 'norm/update_ratio', 'norm/weight', 'units/dead', 'units/dormant']
    """
    readings = Readings(every=every, rows=rows, probe=probe, sites=sites)
    return WatchedTraining(
        model, optimizer, recorders, readings, Monitoring(monitors, budget=budget, criterion=criterion)
    )
