"""Runs passive monitors: at their cadence, within their budget, without a trace in the training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgecollapse.events import Measurement
from surgecollapse.functional.projections import widest
from surgecollapse.observe.budget import GUESS, BudgetKeeper, BudgetReport
from surgecollapse.observe.monitor_context import MonitorContexts, part_of
from surgecollapse.observe.stopwatch import Stopwatch
from surgecollapse.protocols import Monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series


CONTEXT = 0.5
"""Training steps that a pass of the probe batch is thought to take, before it was timed."""


class Watch:
    """Shows monitors the net just before optimizer steps, and emits what they measure.

    Training with it is bitwise the training without it. Monitors get no gradient, and the global random state is kept.
    The probe batch passes in eval mode with buffers and modes kept. All numbers of an event are read back to the host
    at once.

    Args:
        model: the unwrapped model.
        monitors: what to run.
        contexts: builds what they see.
        emit: takes each :class:`~surgecollapse.events.Measurement`.
        every: steps between two events.
        limit: most that they may take of the training time, see :class:`~surgecollapse.observe.budget.BudgetKeeper`;
            ``None`` keeps the cadence.
    """

    def __init__(
        self,
        model: nn.Module,
        monitors: Sequence[Monitor],
        contexts: MonitorContexts,
        emit: Callable[[Measurement], None],
        *,
        every: int = 50,
        limit: float | None = 0.02,
    ) -> None:
        self.monitors, self.contexts = list(monitors), contexts
        self._model, self._emit = model, emit
        self._keeper = BudgetKeeper(every, limit)
        self._next, self._count = every, 0
        self._prepared: dict[str, Stopwatch] = {}
        self._left: float | None = None
        self._hook = 0.0

    @property
    def every(self) -> int:
        """Steps between two events, as kept; setting it asks for another cadence."""
        return self._keeper.every

    @every.setter
    def every(self, every: int) -> None:
        last = self._next - self._keeper.every
        self._keeper.ask(every)
        self._next = last + self._keeper.every

    def report(self) -> BudgetReport:
        """What the monitors cost, and what was done about it."""
        return self._keeper.report()

    @torch.no_grad()
    def before_step(
        self,
        step: int,
        optimizers: Sequence[Optimizer],
        live: Callable[[], Mapping[str, float]],
        masks: Callable[[], Mapping[str, Tensor]] = dict,
    ) -> None:
        """Do what is due just before an optimizer step, with the gradients as the loop leaves them.

        Args:
            step: the step about to be made, from 1.
            optimizers: the innermost ones.
            live: gives the share of each prunable weight that its mask leaves open.
            masks: gives the masks that hold weights at zero.
        """
        began = time.perf_counter()
        self.contexts.first_step_done()
        if self._left is not None:
            self._keeper.step_took(began - self._left, self._hook)
        quiet = step + 1 < self._next
        if step >= self._next and not self._keeper.wait(self._parts()):
            self._event(step, optimizers, live(), masks())
        if step + 1 >= self._next:
            self._next = step + 1 + min(self._keeper.wait(self._parts()), self._keeper.asked)  # then asked again
        if step + 1 == self._next:
            self._prepare(step, optimizers)
        self._left = time.perf_counter()
        self._hook = self._left - began if quiet else 0.0  # otherwise the event's parts were timed, one by one

    def _parts(self) -> dict[str, float]:
        """What the next event consists of, and the training steps that each may take before it was ever timed."""
        guesses = {monitor.name: getattr(monitor, "first_cost", GUESS[1]) for monitor in self._due()}
        return {"scene": CONTEXT, **guesses, "record": 0.0}

    def _due(self) -> list[Monitor]:
        return [monitor for monitor in self.monitors if self._count % _period(monitor) == 0]

    def _prepare(self, step: int, optimizers: Sequence[Optimizer]) -> None:
        """Call ``prepare`` of the monitors whose turn comes with the next step."""
        self._prepared.clear()
        due = [monitor for monitor in self._due() if hasattr(monitor, "prepare")]
        if due:
            context = self.contexts.build(step, optimizers, {}, {"gradients"} & _needs(due))
            for monitor in due:
                prepare: Any = getattr(monitor, "prepare", None)
                with self._timed(monitor.name, self._prepared):
                    prepare(context)

    def _event(
        self, step: int, optimizers: Sequence[Optimizer], live: Mapping[str, float], masks: Mapping[str, Tensor]
    ) -> None:
        due, watches = self._due(), dict[str, Stopwatch]()
        series: list[tuple[str, str | None, Tensor | float]] = []
        with self._timed("scene", watches), self._random_kept():
            context = self.contexts.build(step, optimizers, live, _needs(due), masks)
            for monitor in due:
                with self._timed(monitor.name, watches):
                    series += _flat(monitor.measure(self._part(context, monitor)))
            numbers = _stacked([value for _, _, value in series]) if series else torch.empty(0)
        found: list[float] = numbers.tolist()  # the one host sync
        began = time.perf_counter()
        for (name, layer, _), value in zip(series, found, strict=True):
            if math.isfinite(value):
                self._emit(Measurement(step=step, name=name, value=value, layer=layer))
        seconds = {name: watch.seconds() for name, watch in watches.items()}
        seconds["scene"] = max(0.0, 2 * seconds["scene"] - sum(seconds.values()))  # what was not a monitor's
        for name, watch in self._prepared.items():
            seconds[name] += watch.seconds()
        seconds["record"] = time.perf_counter() - began
        layers = max(len(context.activations), sum(weight.ndim >= 2 for weight in context.weights.values()))
        self._settle(step, seconds, layers)

    def _part(self, context: MonitorContext, monitor: Monitor) -> MonitorContext:
        turns = self._keeper.turns
        return part_of(context, self._count // _period(monitor) % turns, turns) if _rotates(monitor) else context

    def _settle(self, step: int, seconds: Mapping[str, float], layers: int) -> None:
        """Let the keeper choose the next event, and say what it did."""
        rotating = {monitor.name for monitor in self.monitors if _rotates(monitor)}
        periods = {monitor.name: _period(monitor) for monitor in self.monitors}
        self._keeper.event_took(seconds, rotating=rotating, layers=layers, periods=periods)
        self._count += 1
        self._next = step + self._keeper.every
        report = self._keeper.report()
        for name, value in (("share", report.share), ("cadence", report.every), ("turns", report.turns)):
            self._emit(Measurement(step=step, name=f"budget/{name}", value=value))

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self._model.parameters()), torch.device("cpu"))

    @contextmanager
    def _timed(self, name: str, watches: dict[str, Stopwatch]) -> Iterator[None]:
        watches[name] = Stopwatch(self._device)
        yield
        watches[name].stop()

    @contextmanager
    def _random_kept(self) -> Iterator[None]:
        """Give back the global random state, whatever a monitor draws."""
        devices = sorted({p.device.index or 0 for p in self._model.parameters() if p.device.type == "cuda"})
        with torch.random.fork_rng(devices=devices):
            yield

    def state_dict(self) -> dict[str, Any]:
        """When the next event is due, and the state of the monitors that have one."""
        return {
            "next": self._next,
            "count": self._count,
            **self._keeper.state_dict(),
            "scenes": self.contexts.state_dict(),  # the key that checkpoints have
            "monitors": {m.name: m.state_dict() for m in self.monitors if hasattr(m, "state_dict")},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; monitors that were not there then start afresh."""
        self._next, self._count = state["next"], state["count"]
        self._keeper.load_state_dict(state)
        self.contexts.load_state_dict(state["scenes"])
        for monitor in self.monitors:
            if monitor.name in state["monitors"]:
                monitor.load_state_dict(state["monitors"][monitor.name])  # type: ignore[attr-defined]
        self._left = None


def _period(monitor: Monitor) -> int:
    return int(getattr(monitor, "period", 1))


def _rotates(monitor: Monitor) -> bool:
    return bool(getattr(monitor, "rotates", False))


def _needs(monitors: Sequence[Monitor]) -> set[str]:
    return {need for monitor in monitors for need in monitor.needs}


def _flat(found: Mapping[str, Series]) -> Iterator[tuple[str, str | None, Tensor | float]]:
    for name, series in found.items():
        if isinstance(series, Mapping):
            for layer, value in series.items():
                yield name, layer, value
        else:
            yield name, None, series


def _stacked(values: Sequence[Tensor | float]) -> Tensor:
    """All numbers in one tensor on the device, in float64 where there is such a thing."""
    home = next((value.device for value in values if isinstance(value, Tensor)), torch.device("cpu"))
    wide = widest(home)
    return torch.stack([torch.as_tensor(value, dtype=wide, device=home) for value in values])
