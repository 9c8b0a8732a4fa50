"""The control loop: observe → decide → act → record, once per optimizer step."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.other_nets import mask_other
from surgecollapse.act.prunable import UNOWNED
from surgecollapse.act.randomness import Generators
from surgecollapse.act.roles import Explanation
from surgecollapse.controller.advice import Advice
from surgecollapse.controller.carried import CarriedController
from surgecollapse.controller.command_handlers import CommandHandlers
from surgecollapse.controller.command_loop import CommandLoop
from surgecollapse.controller.components import Components
from surgecollapse.controller.optimizer_step import OptimizerSteps
from surgecollapse.controller.options import Options, check_sparsity
from surgecollapse.controller.ownership import Ownership, check_trainable
from surgecollapse.controller.reading_schedule import ReadingSchedule
from surgecollapse.controller.version_01 import current_state
from surgecollapse.events import (
    Action,
    Aim,
    Decision,
    Event,
    Exchange,
    Freeze,
    Intervention,
    Measurement,
    Plan,
    Prune,
    Reading,
    Regrow,
    SetNoise,
    Threshold,
    Warn,
    from_dict,
    to_dict,
)
from surgecollapse.observe.monitor_context import MonitorContexts
from surgecollapse.observe.monitors import make_monitors
from surgecollapse.observe.probe import PROBE_ROWS, Probe
from surgecollapse.observe.watch import Watch
from surgecollapse.policies import make_policy
from surgecollapse.policies.version_01 import class_of
from surgecollapse.protocols import Dataflow, Policy
from surgecollapse.record import CommandQueue
from surgecollapse.record.plot import plot_run
from surgecollapse.torch_utils.distributed import Ranks, shadow_when_joined
from surgecollapse.torch_utils.modules import snapshot, unwrap_model
from surgecollapse.torch_utils.step_hooks import StepHooks

if TYPE_CHECKING:
    from surgecollapse.commands import Command

logger = logging.getLogger(__name__)
STATE_VERSION = 2
_ROLES = ("rows", "noise", "growth")
_LEAST_ROWS = 2
"""Of a rank's probe batch: the fewest that have a spread."""
_APART = 1_000_003
"""Between the seeds of two roles: neighboring seeds of a study must not share a stream."""


class Controller:
    """Drives one training run; made by :func:`surgecollapse.attach`, which documents the options.

    Attributes:
        plan: target sparsity, total steps and cadence.
        policy: what decides.
        optimizers: the innermost optimizers, in the order in which they step.
        step: completed optimizer steps.
        phase: the state of training: ``dense | sparse | open | pump | hold | frozen``.
        decision: the last decision.
        events: every :class:`~surgecollapse.events.Intervention`, oldest first.
        readings: the last 1,000 readings.
        watch: runs the monitors, within their budget (``watch.report()``); ``None`` without any.
        finalized: whether :meth:`finalize` has been called.
        command_loop: takes what people ask of the run, see :meth:`request`.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=1_000) as controller:
    ...     controller.phase, controller.sparsity, sorted(controller.masks)
    ('dense', 0.0, ['0.weight', '2.weight'])
    """

    def __init__(self, model: nn.Module, optimizer: Any, options: Options) -> None:
        self._start(model, optimizer, options)
        self._advice.of_plan(self.plan, self.policy, from_dense=options.masks is None)
        if self._resolved:
            self._settle()
        self.reattach()

    def _start(
        self, model: nn.Module, optimizer: Any, options: Options, saved: Mapping[str, Any] | None = None
    ) -> None:
        """Set everything up except hooks; ``saved``: for a state that is loaded next."""
        options = replace(options, updates=options.updates.resolved())
        self._options, self._outer, self.model = options, model, unwrap_model(model)
        self._given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        self.optimizers: list[Optimizer] = [StepHooks.chain(item)[-1] for item in self._given]
        check_trainable(self.model, self.optimizers)
        self._carried = CarriedController(self.state_dict, self.load_state_dict)
        self._by_hand = self._layout_known = False
        self._advice = Advice()
        self.plan = Plan(
            sparsity=options.target.sparsity,
            total_steps=options.total_steps,
            every=options.readings.every,
            seed=options.seed,
        )
        self.policy: Policy = make_policy(options.policy)
        self.policy.start(self.plan)
        self.step, self.phase, self.finalized = 0, "dense", False
        self.decision: Decision | None = None
        self.events: list[Intervention] = []
        self.readings: deque[Reading] = deque(maxlen=1000)
        self._ranks = Ranks.of(model, options.process_group)
        self._checked = self._ranks.alone
        self._schedule = ReadingSchedule(self._falls_on)
        self._probe = Probe(options.readings.probe, rows=max(_LEAST_ROWS, PROBE_ROWS // self._ranks.size))
        self._probes: list[dict[str, Any]] = []  # of all ranks: one rank's checkpoint resumes them all
        self._random = {role: Generators(options.seed + _APART * i) for i, role in enumerate(_ROLES)}
        self._noise = InputNoise(model, self._random["noise"])
        self._ownership = Ownership(model, self._given)
        self._steps = OptimizerSteps(self.optimizers, options.transforms)
        self.watch = self._new_watch()
        self.command_loop = CommandLoop(self._record, self._ranks)
        self._handlers = CommandHandlers(self)
        self.command_loop.handlers.update(self._handlers.handlers())
        self._resolved = self._probe.known
        known = self._resolved and saved is None
        self._build(self._probe.dataflow(self.model) if known else None, None if saved is None else saved["engine"])

    def _settle(self) -> None:
        """Check what is prunable, once that is known, and take the first mask from the weights if asked to."""
        components = self._components
        components.actor.planner.check_target(self.plan.sparsity)
        components.warn_of_adapters()
        if self._options.target.include is None:
            self._advice.of_unstepped([row.name for row in components.explain() if row.reason == UNOWNED])
        if self._options.masks == "zeros":
            self._take_zeros()
        else:
            self._advice.of_zeros(components.weights)

    def _take_zeros(self) -> None:
        """Make the zeros of the weights the first mask; where they are the target already, the final one.

        Raises:
            ValueError: if the weights are sparser than the target, or a pattern is not that of the zeros.
        """
        weights = self._components.weights
        zeros, final = self._components.actor.planner.check_zeros(self.plan.sparsity)
        weights.take_zeros()
        self._log("join", f"the {zeros} zeros of the weights are the first mask, and stay closed")
        if final:
            self._handlers.aim_at(zeros / weights.size)
            reason = "the zeros of the weights are the final mask"
            self._carry_out(Decision(phase="frozen", reason=reason, actions=(Freeze(),)))
            self.finalized = True

    def _build(self, dataflow: Dataflow | None, saved: Mapping[str, Any] | None = None) -> None:
        growth = self._options.updates.growth or getattr(self.policy, "growth", "ema_gradient")
        self._components = Components(
            self.model,
            self.optimizers,
            self._options,
            dataflow=dataflow,
            growth=growth if isinstance(growth, str) else "ema_gradient",
            probe=self._probe,
            noise=self._noise,
            random=self._random,
            ranks=self._ranks,
            saved=saved,
        )
        self._components.actor.target = self.plan.sparsity
        for i, given in enumerate(self._given):
            if len(StepHooks.chain(given)) > 1:  # a wrapper writes weights of its own after the step
                self._components.zero_preservation.disable_fast_path(i)

    def _new_watch(self) -> Watch | None:
        options = self._options
        monitors = make_monitors(options.monitoring.monitors)
        if not monitors:
            return None
        scenes = MonitorContexts(
            self.model,
            self._probe,
            sites=options.readings.sites,
            rows=options.readings.rows,
            criterion=options.monitoring.criterion,
        )
        limit = options.monitoring.budget
        return Watch(self.model, monitors, scenes, self._record, every=self.plan.every, limit=limit)

    # ---- attaching --------------------------------------------------------------------------------------------

    def reattach(self) -> None:
        """Register the hooks (again): after :meth:`detach`, or on a copied or unpickled controller.

        Raises:
            ValueError: if another controller is attached to these parameters.
        """
        if self.attached:
            return
        self._ownership.claim()
        self._stop_shadowing = shadow_when_joined(self._outer, self._shadow_step, self._end_of_join)
        if self._options.hooks:
            self._ownership.hook_steps(self._before, self._after, self._see_foreign_step)
        if self.step == 0:
            # Under torch.compile the graph breaks before the model, but not if no batch is needed.
            self._ownership.watch_first_batches(self._see_first_batch, eager=not self._probe.known)
        self._carried.attach(self.optimizers[0])
        self._settle_shadow()
        self._components.weights.apply()
        self._noise.set(self._noise.std)
        commands = self._options.commands
        if commands is not None:
            self.command_loop.open(commands if isinstance(commands, CommandQueue) else CommandQueue(Path(commands)))
        self._arm()

    def _see_first_batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._probe.capture(args, kwargs)
        if self.watch is not None:
            self.watch.scenes.see_batch(args, kwargs)

    @property
    def attached(self) -> bool:
        """Whether this controller holds the parameters of its model."""
        return self._ownership.open

    def detach(self) -> None:
        """Remove every hook. Weights keep their values, masks are no longer enforced; attaching again is allowed."""
        self._ownership.close()
        self._carried.remove()
        self._stop_shadowing()
        self._components.observer.disarm()
        self._noise.suspend()
        self.command_loop.close()

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.step and not (self.finalized or self.frozen) and self.plan.sparsity > 0.0:
            self._advice.give(
                "left",
                f"the block of attach() ended before finalize(): {self.sparsity:.1%} of the weights are zero and "
                f"nothing keeps them so, where {self.plan.sparsity:.1%} were asked for. Call controller.finalize() "
                "inside it",
            )
        self.detach()

    def __getstate__(self) -> dict[str, Any]:
        options = replace(self._options, recorders=(), commands=None, process_group=None)  # open files do not travel
        return {"model": self._outer, "optimizer": self._given, "options": options, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild a copied or unpickled controller, detached: call :meth:`reattach` to go on with it."""
        self._start(state["model"], state["optimizer"], state["options"], saved=state["state"])
        self._load(state["state"], check=False)  # a detached one may have been trained on: reattach() masks it again

    # ---- one step ---------------------------------------------------------------------------------------------

    def note(
        self,
        loss: Tensor | float | None = None,
        targets: Tensor | None = None,
        *,
        validation_loss: Tensor | float | None = None,
    ) -> None:
        """Tell the controller this step's loss and labels, before the optimizer's step; all are optional.

        The loss is checked for being finite, and of the labels the target entropy is recorded. Nothing is read back
        to the host unless a reading is due. ``validation_loss`` is for the monitor of the generalization gap, at any
        time.
        """
        self._components.observer.note(loss, targets)
        if self.watch is not None:
            self.watch.scenes.note(targets, loss=loss, validation_loss=validation_loss)

    def before_step(self) -> None:
        """Do what the step's pre-hook does, for loops that call it themselves (``hooks=False``).

        Raises:
            RuntimeError: if it is called a second time without :meth:`after_step`.
        """
        if self._by_hand:
            raise RuntimeError("before_step() was called twice without after_step(): call both around each step")
        self._by_hand = True
        for i in range(len(self.optimizers)):
            self._before(i)

    def after_step(self) -> None:
        """Do what the step's post-hook does, for loops that call it themselves (``hooks=False``).

        Raises:
            RuntimeError: if :meth:`before_step` was not called.
        """
        if not self._by_hand:
            raise RuntimeError("after_step() was called without before_step(): call both around each step")
        self._by_hand = False
        for i in range(len(self.optimizers)):
            self._after(i)

    @torch.no_grad()
    def _before(self, index: int) -> None:
        self._carried.settle()
        self._resolve()
        self._check_ranks()
        self._begin()
        self._ownership.first_step_done()
        if self._steps.skips(index):
            return
        if self.watch is not None and index == 0:
            weights = self._components.weights
            self.watch.before_step(self.step + 1, self.optimizers, weights.shares, weights.all_held)
        until_due = self._schedule.next - (self.step + 1)
        self._steps.prepare(index, self._components, factor=self._handlers.factor, until_due=until_due)

    @torch.no_grad()
    def _after(self, index: int) -> None:
        components = self._components
        self._steps.put_right(index, components, check=self._due)
        if index != components.primary or self._steps.skipped(index):
            return
        self._end_step()

    def _end_step(self) -> None:
        """Count the step, and read, decide and act where that is due."""
        components = self._components
        self.step += 1
        self._check_optimizers()
        if self._schedule.next == self.step:
            self._observe_decide_act()
        components.observer.end_step()
        if not self.command_loop.by_hand:
            self.command_loop.boundary(self.step)
        if self.attached:  # a recorder may have detached it
            self._arm()

    def _see_foreign_step(self, optimizer: Optimizer) -> None:
        """Mask again what an optimizer wrote that this controller does not know."""
        weights = self._components.weights
        if weights.dense or not self._resolved:
            return
        weights.apply()
        self._advice.give(
            "foreign",
            f"{type(optimizer).__name__} steps parameters that this controller prunes, but is not attached: its steps "
            "are not counted, and masks are applied after each. Attach to it (after detach()), or pass both "
            "optimizers as a list",
        )

    def _check_optimizers(self) -> None:
        """Find an optimizer whose memory cannot be masked after its first step, not at the first collapse."""
        if self._layout_known or self.plan.sparsity == 0.0 or self._options.updates.optimizer_state == "keep":
            return
        self._layout_known = True
        self._components.check_optimizer_states()

    def _check_ranks(self) -> None:
        """Check once that all ranks were attached alike.

        Raises:
            ValueError: if they were not.
        """
        if self._checked:
            return
        shapes = [(name, tuple(p.shape)) for name, p in self._components.weights.params.items()]
        if not self._ranks.all_agree((self.plan, type(self.policy).__name__, self.step, shapes)):
            raise ValueError(
                "the ranks were attached with different arguments (seed, sparsity, total_steps, policy) or different "
                "prunable weights, so that their masks would differ: call attach with the same ones on every rank"
            )
        self._probes = self._ranks.gathered(snapshot(self._probe.state_dict()))
        self._checked = True

    @torch.no_grad()
    def _shadow_step(self) -> None:
        """Take part in a step that the other ranks make while this one has no data left."""
        if not self._resolved:
            raise RuntimeError(
                "this rank had no batch at all, so what is prunable is unknown here: pass Readings(probe=<a batch>)"
            )
        self._ranks.absent = True
        self._end_step()

    @torch.no_grad()
    def _end_of_join(self, is_last: bool) -> None:
        """After the last step of the longest rank: all ranks have its masks and state, as they have its weights."""
        self._ranks.absent = False
        source = int(self._ranks.highest(torch.tensor(self._ranks.rank if is_last else -1)))
        state = self._ranks.from_first(self.state_dict(), source=source)
        if self._ranks.rank != source:
            self._load(state, check=False)

    def _resolve(self) -> None:
        """Settle what is prunable, once the layer that produces the output can be found."""
        if self._resolved:
            return
        if not self._probe.known:
            raise RuntimeError(
                "no forward of the model in training mode was seen, so its output layer is unknown (a model that is "
                "compiled in place, or trained in eval mode, shows none): pass Readings(probe=<a batch, as the model "
                "is called>)"
            )
        noted = self._components.observer.noted
        self._components.observer.disarm()
        self._build(self._probe.dataflow(self.model))
        self._components.observer.note(*noted)
        self._resolved = True
        self._settle()

    def _begin(self) -> None:
        """Carry out what the policy decides before the first optimizer step."""
        if self.step == 0 and self.decision is None and getattr(self.policy, "from_start", False):
            decision = self._within_target(self.policy.decide(Reading(step=0, source="none")))
            self._record(decision)
            self._carry_out(decision)

    def _falls_on(self, step: int) -> bool:
        """Whether a reading falls on a step, as far as the policy knows now."""
        return step % self.plan.every == 0 or self.policy.due(step)

    def _arm(self) -> None:
        """Arm the reader if a reading falls on the next step; on others no hook exists."""
        self._schedule.look_ahead(self.step + 1, self._components.signal.window)  # the growth signal must know so far
        if self._due:
            self._components.observer.arm()

    @property
    def _due(self) -> bool:
        """Whether the step under way is due for a reading."""
        return self._schedule.next == self.step + 1

    def _observe_decide_act(self) -> None:
        self._rebind()
        reading = self._with_measures(self._components.observer.read(self.step, self._components.weights.sparsity))
        self.readings.append(reading)
        self._record(reading)
        for name, value in self._steps.effects.read().items():
            self._record(Measurement(step=self.step, name=name, value=value))
        if self._components.zero_preservation.found_values():
            self._log(
                "zeros",
                f"pruned weights had other values than zero at step {self.step}, from something that writes to weights "
                "through .data or sets moments: they are zero again, and from now on after every step",
            )
        self._settle_shadow()
        joined = self._components.join()
        if joined is not None:
            self._log("join", f"joined the optimizer, prunable from now on: {', '.join(joined) or 'no new weights'}")
        if self.finalized or self._handlers.held:
            return
        if not reading.finite:
            if not self._components.actor.shadow.active:
                self._components.actor.writer.restore_zeros()
            self._log(
                "skip",
                f"a gradient, an activation or the loss was not finite at step {self.step}: no decision was made",
            )
            return
        decision = self._within_target(self.policy.decide(reading))
        if decision.acts or decision.phase != self.phase:
            self._record(replace(decision, eligible=self._eligible(decision)))
        self._carry_out(decision)

    def _with_measures(self, reading: Reading) -> Reading:
        """The reading, with what the policy wants to see of the probe batch."""
        if self.frozen or "prediction_confidence" not in getattr(self.policy, "measures", ()):
            return reading
        found = self._components.observer.measure("prediction_confidence")
        return replace(reading, prediction_confidence=found if math.isfinite(found) else None)

    def _within_target(self, decision: Decision) -> Decision:
        """The decision; under a target of zero without what prunes, so that nothing is done to the net."""
        if self.plan.sparsity > 0.0:
            return decision
        kept = [action for action in decision.actions if not _masks(action)]
        return replace(decision, actions=tuple(kept))

    def _rebind(self) -> None:
        """Take up layers and parameters that were replaced since, and say so."""
        kept, lost = self._components.rebind()
        if not kept and not lost:
            return
        self._ownership.claim()
        if kept:
            self._log("join", f"other parameters stand under these names, and take over their masks: {', '.join(kept)}")
        if lost:
            self._log("join", f"these weights are gone or of another shape, and have no mask: {', '.join(lost)}")
        unstepped = self._components.unstepped()
        if lost or unstepped:
            self._advice.give(
                "replaced",
                f"weights were replaced (a new layer, or load_state_dict(assign=True)): "
                f"{', '.join([*lost, *unstepped])} are not pruned as planned, or no attached optimizer steps them. "
                "Build a new optimizer and attach "
                "again after detach()",
            )

    def _eligible(self, decision: Decision) -> int | None:
        """The first step at which the policy reads again and may act, as far as it knows."""
        earliest = getattr(self.policy, "earliest", lambda step: step + 1)(self.step)
        if earliest is None or decision.find(Freeze):
            return None
        first = max(earliest, self.step + 1)
        return next(filter(self._falls_on, range(first, first + self.plan.every)), None)

    def _carry_out(self, decision: Decision, signals: Mapping[str, Tensor] | None = None) -> None:
        self.decision, self.phase = decision, decision.phase
        if aim := decision.find(Aim):
            before = self.plan.sparsity
            self._handlers.aim_at(aim.sparsity)
            self._log("aim", f"target sparsity {before:g} → {aim.sparsity:g}: {decision.reason}")
        if warn := decision.find(Warn):
            self._log("warning", warn.message)
            self._advice.give("recovery", warn.message)
        signals = self._components.signal.values if signals is None else signals
        for event in self._components.actor.carry_out(decision, self.step, signals):
            self.events.append(event)
            self._record(event)
        self._components.forget_signal()

    def _log(self, kind: str, reason: str) -> None:
        """Record something that happened without a decision."""
        event = Intervention(
            step=self.step,
            kind=kind,
            phase=self.phase,
            reason=reason,
            sparsity_before=self._components.weights.sparsity,
            sparsity_after=self._components.weights.sparsity,
        )
        logger.info("step %d: %s: %s", self.step, kind, reason)
        self.events.append(event)
        self._record(event)

    def _record(self, event: Event) -> None:
        if isinstance(event, Decision):  # one of a person falls between two readings
            event = replace(event, step=self.step)
        for recorder in self._options.recorders:
            recorder.record(event)

    # ---- interventions ----------------------------------------------------------------------------------------

    def request(self, command: Command) -> None:
        """Ask for an intervention at the next step boundary; from any thread.

        What became of it is recorded as a :class:`~surgecollapse.events.Request`.

        >>> import torch, surgecollapse
        >>> from surgecollapse.commands import Collapse
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy="no_op")
        >>> controller.request(Collapse(fraction=0.25))
        >>> model(torch.ones(4, 4)).sum().backward()
        >>> optimizer.step()
        >>> controller.sparsity
        0.25
        """
        self.command_loop.request(command)

    def carry_out(self, decision: Decision) -> list[Intervention]:
        """Do what a decision says, now and whatever the policy thinks: between two optimizer steps.

        Returns:
            What was done, in order.

        Raises:
            ValueError: if it asks for something impossible, or before the first step, when what is prunable is unknown.
        """
        if not self._resolved and not all(isinstance(action, SetNoise) for action in decision.actions):
            raise ValueError("what is prunable is not known before the first step")
        done = len(self.events)
        self._record(decision)
        self._carry_out(decision)
        self._arm_again()
        return self.events[done:]

    def open_weights(self, layers: Sequence[str] = ()) -> tuple[int, int]:
        """Number of prunable weights that are open, and of all, in the layers that match (all of them if empty).

        Raises:
            ValueError: if a pattern matches no prunable layer.
        """
        part = self._components.weights.only(layers)
        return part.live, part.size

    def reachable(self, sparsity: float, layers: Sequence[str] = ()) -> tuple[float, int]:
        """The sparsity that a collapse to this one reaches (a pattern may bound it), and the weights it leaves open."""
        planner = self._components.actor.planner
        sparsity = planner.reachable(sparsity)
        return sparsity, planner.wanted(sparsity, layers)

    def check_sparsity(self, sparsity: float) -> None:
        """Check that a target could be reached here.

        Raises:
            ValueError: if it is out of range, leaves less than the minimum density, or does not fit the pattern.
        """
        check_sparsity(sparsity)
        self._options.target.check_room(sparsity)
        self._components.actor.planner.check_target(sparsity)

    def replace_policy(self, policy: Policy, plan: Plan) -> None:
        """Go on with another policy or plan, in the same state."""
        self.plan, self.policy = plan, policy
        self._components.actor.target = plan.sparsity
        self._schedule.restart(self.step)
        self._arm_again()

    def _arm_again(self) -> None:
        """Arm the reader after what a person asked for: a pass of the probe batch disarms it."""
        if self.attached and self._resolved:
            self._arm()

    @property
    def resolved(self) -> bool:
        """Whether it is known which weights are prunable: from the first step on, or with a probe."""
        return self._resolved

    @property
    def stopping(self) -> bool:
        """Whether a person asked the loop to end: ask it after each step, then call :meth:`finalize`."""
        return self.command_loop.stopping

    # ---- results and state ------------------------------------------------------------------------------------

    def finalize(self) -> None:
        """End with exactly the target sparsity: stop the pump, collapse to the target if need be, freeze the mask.

        The mask goes on being enforced, so that fine-tuning keeps it. Calling it again applies the mask again, as
        after a load of older weights.
        """
        self._carried.settle()
        self._resolve()
        self._rebind()
        self._apply_masks()
        if self.finalized:
            return
        components, target, total = self._components, self.plan.sparsity, self.plan.total_steps
        reached = components.actor.planner.at(target)
        early = f" at step {self.step} of {total}" if total and self.step < total else ""
        reason = f"finalize{early}: exact target {target:g}, final mask"
        done = self.frozen and reached
        components.actor.frozen &= reached  # a mask that was frozen, or changed since, at another sparsity is not final
        saliency, signals = None, components.signals_at_hand()
        if not done and self._options.updates.saliency == "taylor" and not signals:
            saliency, reason = "magnitude", f"{reason}; by magnitude, since no gradient is at hand"
        prune = () if done else (Prune(target, saliency=saliency),)
        decision = Decision(phase="frozen", reason=reason, actions=(*prune, SetNoise(0.0), Freeze()))
        self._carry_out(decision, signals)
        self.finalized = True

    def _apply_masks(self) -> None:
        """Put closed weights that have a value back to zero, and say so."""
        weights = self._components.weights
        self._settle_shadow()
        found = weights.disobeying()
        if found:
            self._components.actor.writer.restore_zeros()
            self._log(
                "zeros",
                f"closed weights had values ({', '.join(f'{name}: {n}' for name, n in found.items())}), from older "
                "weights that were loaded or from something else that writes to weights: they are zero again",
            )

    def _settle_shadow(self) -> None:
        """Take up what was written to weights under a threshold, and say so."""
        self._components.actor.shadow.settle()
        if found := self._components.actor.shadow.found_values():
            self._log(
                "zeros",
                f"something else wrote to weights under the threshold ({', '.join(dict.fromkeys(found))}): their "
                "shadow takes these values up",
            )

    @property
    def frozen(self) -> bool:
        """Whether the mask is final."""
        return self._components.actor.frozen

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that are zero now, counted; :meth:`open_weights` says what the masks hold."""
        weights = self._components.weights
        return weights.zeros() / weights.size if weights.size else 0.0

    @property
    def sparsity_total(self) -> float:
        """Share of all parameters of the model that are zeros of prunable weights."""
        return self._components.weights.zeros() / sum(p.numel() for p in self.model.parameters())

    @property
    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks by parameter name, true where a weight is open."""
        weights = self._components.weights
        return {name: weights.mask(name) for name in weights.params}

    def apply_masks(self, other: nn.Module | Mapping[str, Tensor]) -> None:
        """Put the closed weights of another net of the same architecture to zero, in place.

        Args:
            other: a copy of the model (an average of its weights, a teacher), wrapped or not, or its state dict.

        Raises:
            ValueError: if a weight is missing there, or has another shape.

        >>> import torch, surgecollapse
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> target = surgecollapse.Target(0.5, include="weight")
        >>> readings = surgecollapse.Readings(probe=torch.ones(1, 2))
        >>> with surgecollapse.attach(model, optimizer, target, policy="no_op", readings=readings) as controller:
        ...     controller.finalize()
        ...     average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2, bias=False))
        ...     controller.apply_masks(average)
        >>> int((average.module.weight == 0).sum())
        2
        """
        mask_other(self._components.weights.all_held(), other)

    def __str__(self) -> str:
        total = "" if self.plan.total_steps is None else f"/{self.plan.total_steps}"
        weights, zero = self._components.weights, f"{self.sparsity:.1%}"
        masked = f"{weights.sparsity:.1%}"
        shown = f"{zero} of {weights.size:,} weights zero"
        if weights.sparsity and masked != zero:  # regrown at zero and not trained since, or written to
            shown += f" ({masked} masked)"
        phase = "frozen" if self.frozen else self.phase
        return f"step {self.step}{total}, {phase}, {shown}, {len(self.events)} interventions"

    def __repr__(self) -> str:
        return f"<Controller: {self}>"

    def plot(self) -> Any:
        """Draw sparsity, entropy and interventions over the steps; a matplotlib figure, which a notebook shows.

        Raises:
            ImportError: without matplotlib, with what to install.
        """
        return plot_run(self.readings, self.events)

    def explain(self) -> Explanation:
        """Say of every parameter what it is for, whether it is pruned, and why; prints as a table.

        Before the first batch the layers that produce the output are not known.

        >>> import torch, surgecollapse
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> readings = surgecollapse.Readings(probe=torch.ones(2, 4))
        >>> controller = surgecollapse.attach(model, optimizer, 0.5, 1_000, readings=readings)
        >>> print(controller.explain())
        parameter  shape   role          prunable  reason
        0.weight   (8, 4)  linear        yes       weight of a linear layer
        0.bias     (8,)    bias          no        is a bias
        2.weight   (2, 8)  output layer  no        belongs to a layer that produces the model's output
        2.bias     (2,)    bias          no        is a bias
        """
        return self._components.explain()

    @property
    def noise_std(self) -> float:
        """Standard deviation of the input noise; 0 while there is none."""
        return self._noise.std

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of all that a bitwise resume needs, in values that ``torch.load(weights_only=True)`` takes.

        It travels inside ``optimizer.state_dict()`` too (of the first optimizer), under the key
        ``surgecollapse.controller``, and is loaded with it. The weights are not in it: load ``model.state_dict()``
        first.
        """
        return snapshot(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "plan": to_dict(self._handlers.given_plan),
            "policy": {"name": type(self.policy).__name__, "state": self.policy.state_dict()},
            "step": self.step,
            "phase": self.phase,
            "finalized": self.finalized,
            "resolved": self._resolved,
            "engine": self._components.state_dict(),
            "probe": self._probe.state_dict(),
            **({"probes": self._probes} if self._probes else {}),
            "random": {role: generators.state_dict() for role, generators in self._random.items()},
            "noise_std": self._noise.std,
            "decision": None if self.decision is None else to_dict(self.decision),
            "transforms": self._steps.state_dict(),
            "events": [to_dict(event) for event in self.events],
            **({} if self.watch is None else {"watch": self.watch.state_dict()}),
            **({"interventions": changed} if (changed := self._handlers.state_dict()) else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. Load the model and the optimizer first.

        Raises:
            ValueError: if the state is foreign: another version, policy, plan, model, choice of prunable weights, or
                masks that close weights which have a value.
        """
        self._load(current_state(state), check=True)
        self._carried.forget()

    def _load(self, state: Mapping[str, Any], *, check: bool) -> None:
        self._check_state(state)
        state = snapshot(state)
        if check:
            self._components.check_masks(state["engine"])
        probes = state.get("probes", [])
        self._probes = probes if len(probes) == self._ranks.size else []
        self._probe.load_state_dict(self._probes[self._ranks.rank] if self._probes else state["probe"])
        self._resolved = state["resolved"]
        self._components.observer.disarm()
        found = state["engine"]["dataflow"]
        self._build(None if found is None else Dataflow.from_dict(found), saved=state["engine"])
        self._components.load_state_dict(state["engine"])
        for role, generators in self._random.items():
            generators.load_state_dict(state["random"][role])
        self._handlers.load_state_dict(state.get("interventions", {}))
        self.policy.load_state_dict(state["policy"]["state"])
        self._steps.load_state_dict(state["transforms"])
        self.step, self.phase, self.finalized = state["step"], state["phase"], state["finalized"]
        self._schedule.restart(self.step)
        self.decision = None if state["decision"] is None else from_dict(state["decision"])
        self.events = [from_dict(event) for event in state["events"]]
        self._noise.std = state["noise_std"]
        if self.watch is not None and "watch" in state:
            self.watch.load_state_dict(state["watch"])
        self._components.observer.disarm()  # what was armed for the step of another state
        if self.attached:
            self._noise.set(state["noise_std"])
            self._arm()

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping) or not {"version", "engine", "policy"} <= set(state):
            raise ValueError("this is not the state of a surgecollapse controller: pass what state_dict() returned")
        if state["version"] != STATE_VERSION:
            raise ValueError(f"controller state has version {state['version']}, this library reads {STATE_VERSION}")
        here = {**self._state(), **self._components.state_dict()}
        if missing := sorted(set(here) - {*state, *state["engine"], "watch", "interventions", "shadow", "probes"}):
            raise ValueError(f"this controller state lacks {', '.join(missing)}: the checkpoint is damaged")
        name = type(self.policy).__name__
        if class_of(state["policy"]["name"]) != name:
            raise ValueError(f"this state belongs to the policy {state['policy']['name']}, but {name} is attached")
        given = self._handlers.given_plan
        if (plan := from_dict(state["plan"])) != given:
            raise ValueError(f"this state was saved under {plan}, but this controller was attached with {given}")


def _masks(action: Action) -> bool:
    """Whether an action opens or closes weights under the mask."""
    match action:
        case Prune():
            return action.keep_mask
        case Regrow():
            return action.source != "zeros"
    return isinstance(action, Exchange | Threshold)
