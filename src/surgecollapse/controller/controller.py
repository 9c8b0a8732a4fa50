"""The control loop: observe → decide → act → record, once per optimizer step."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.randomness import Generators
from surgecollapse.act.roles import Explanation
from surgecollapse.controller.command_handlers import Interventions
from surgecollapse.controller.command_loop import Steering
from surgecollapse.controller.components import Engine
from surgecollapse.controller.optimizer_step import OptimizerSteps
from surgecollapse.controller.options import Options, check_sparsity
from surgecollapse.controller.ownership import Connection
from surgecollapse.controller.reading_schedule import Timetable
from surgecollapse.controller.version_01 import current_state
from surgecollapse.events import (
    Decision,
    Event,
    Freeze,
    Intervention,
    Measurement,
    Plan,
    Prune,
    Reading,
    SetNoise,
    from_dict,
    to_dict,
)
from surgecollapse.observe.monitor_context import MonitorContexts
from surgecollapse.observe.monitors import make_monitors
from surgecollapse.observe.probe import Probe
from surgecollapse.observe.watch import Watch
from surgecollapse.policies import make_policy
from surgecollapse.policies.version_01 import class_of
from surgecollapse.protocols import Dataflow, Policy
from surgecollapse.record import CommandQueue
from surgecollapse.torch_utils.distributed import Ranks, shadow_when_joined
from surgecollapse.torch_utils.modules import unwrap_model
from surgecollapse.torch_utils.step_hooks import StepHooks

if TYPE_CHECKING:
    from surgecollapse.commands import Command

logger = logging.getLogger(__name__)
STATE_VERSION = 2
_ROLES = ("rows", "noise", "growth")
_APART = 1_000_003
"""Between the seeds of two roles: neighbouring seeds of a study must not share a stream."""


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
        steering: takes what people ask of the run, see :meth:`request`.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=100) as controller:
    ...     controller.phase, controller.sparsity, sorted(controller.masks)
    ('dense', 0.0, ['0.weight', '2.weight'])
    """

    def __init__(self, model: nn.Module, optimizer: Any, options: Options) -> None:
        self._start(model, optimizer, options)
        self.reattach()

    def _start(self, model: nn.Module, optimizer: Any, options: Options) -> None:
        """Set everything up except hooks."""
        options = replace(options, updates=options.updates.resolved())
        self._options, self._outer, self.model = options, model, unwrap_model(model)
        self._given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        self.optimizers: list[Optimizer] = [StepHooks.chain(item)[-1] for item in self._given]
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
        self._timetable = Timetable(self._falls_on)
        self._probe = Probe(options.readings.probe)
        self._random = {role: Generators(options.seed + _APART * i) for i, role in enumerate(_ROLES)}
        self._noise = InputNoise(model, self._random["noise"])
        self._connection = Connection(model, self._given)
        self._steps = OptimizerSteps(self.optimizers, options.transforms)
        self.watch = self._new_watch()
        self.steering = Steering(self._record, self._ranks)
        self._interventions = Interventions(self)
        self.steering.handlers.update(self._interventions.handlers())
        self._resolved = self._probe.known
        self._build(self._probe.dataflow(self.model) if self._resolved else None)
        if self._resolved:
            self._engine.actor.rewiring.check_target(self.plan.sparsity)
            self._engine.warn_of_adapters()

    def _build(self, dataflow: Dataflow | None, saved: Mapping[str, Any] | None = None) -> None:
        growth = self._options.updates.growth or getattr(self.policy, "growth", "ema_gradient")
        self._engine = Engine(
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
        for i, given in enumerate(self._given):
            if len(StepHooks.chain(given)) > 1:  # a wrapper writes weights of its own after the step
                self._engine.zero_preservation.distrust(i)

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
        self._connection.claim()
        self._stop_shadowing = shadow_when_joined(self._outer, self._shadow_step, self._end_of_join)
        if self._options.hooks:
            self._connection.hook_steps(self._before, self._after)
        if self.step == 0:
            self._connection.watch_first_batches(self._see_first_batch)
        self._engine.weights.apply()
        self._noise.set(self._noise.std)
        commands = self._options.commands
        if commands is not None:
            self.steering.open(commands if isinstance(commands, CommandQueue) else CommandQueue(Path(commands)))
        self._arm()

    def _see_first_batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._probe.capture(args, kwargs)
        if self.watch is not None:
            self.watch.scenes.see_batch(args, kwargs)

    @property
    def attached(self) -> bool:
        """Whether this controller holds the parameters of its model."""
        return self._connection.open

    def detach(self) -> None:
        """Remove every hook. Weights keep their values, masks are no longer enforced; attaching again is allowed."""
        self._connection.close()
        self._stop_shadowing()
        self._engine.observer.disarm()
        self._noise.suspend()
        self.steering.close()

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __getstate__(self) -> dict[str, Any]:
        options = replace(self._options, recorders=(), commands=None, process_group=None)  # open files do not travel
        return {"model": self._outer, "optimizer": self._given, "options": options, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild a copied or unpickled controller, detached: call :meth:`reattach` to go on with it."""
        self._start(state["model"], state["optimizer"], state["options"])
        self.load_state_dict(state["state"])

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
        self._engine.observer.note(loss, targets)
        if self.watch is not None:
            self.watch.scenes.note(targets, loss=loss, validation_loss=validation_loss)

    def before_step(self) -> None:
        """Do what the step's pre-hook does, for loops that call it themselves (``hooks=False``)."""
        for i in range(len(self.optimizers)):
            self._before(i)

    def after_step(self) -> None:
        """Do what the step's post-hook does, for loops that call it themselves (``hooks=False``)."""
        for i in range(len(self.optimizers)):
            self._after(i)

    @torch.no_grad()
    def _before(self, index: int) -> None:
        self._resolve()
        self._check_ranks()
        self._begin()
        self._connection.first_step_done()
        if self._steps.skips(index):
            return
        if self.watch is not None and index == 0:
            weights = self._engine.weights
            self.watch.before_step(self.step + 1, self.optimizers, weights.shares, weights.all_held)
        until_due = self._timetable.next - (self.step + 1)
        self._steps.prepare(index, self._engine, factor=self._interventions.factor, until_due=until_due)

    @torch.no_grad()
    def _after(self, index: int) -> None:
        engine = self._engine
        self._steps.put_right(index, engine, check=self._due)
        if index != engine.primary or self._steps.skipped(index):
            return
        self._end_step()

    def _end_step(self) -> None:
        """Count the step, and read, decide and act where that is due."""
        engine = self._engine
        self.step += 1
        if self._timetable.next == self.step:
            self._observe_decide_act()
        engine.observer.end_step()
        if not self.steering.by_hand:
            self.steering.boundary(self.step)
        self._arm()

    def _check_ranks(self) -> None:
        """Check once that all ranks were attached alike.

        Raises:
            ValueError: if they were not.
        """
        if self._checked:
            return
        shapes = [(name, tuple(p.shape)) for name, p in self._engine.weights.params.items()]
        if not self._ranks.all_agree((self.plan, type(self.policy).__name__, self.step, shapes)):
            raise ValueError(
                "the ranks were attached with different arguments (seed, sparsity, total_steps, policy) or different "
                "prunable weights, so that their masks would differ: call attach with the same ones on every rank"
            )
        self._checked = True

    @torch.no_grad()
    def _shadow_step(self) -> None:
        """Take part in a step that the other ranks make while this one has no data left."""
        if not self._resolved:
            raise RuntimeError(
                "this rank had no batch at all, so what is prunable is unknown here: pass probe=<a batch>"
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
            self.load_state_dict(state)

    def _resolve(self) -> None:
        """Settle what is prunable, once the layer that produces the output can be found."""
        if self._resolved:
            return
        if not self._probe.known:
            raise RuntimeError(
                "no forward of the model in training mode was seen, so its output layer is unknown (a model that is "
                "compiled in place, or trained in eval mode, shows none): pass probe=<a batch, as the model is called>"
            )
        noted = self._engine.observer.noted
        self._engine.observer.disarm()
        self._build(self._probe.dataflow(self.model))
        self._engine.observer.note(*noted)
        self._engine.actor.rewiring.check_target(self.plan.sparsity)
        self._engine.warn_of_adapters()
        self._resolved = True

    def _begin(self) -> None:
        """Carry out what the policy decides before the first optimizer step."""
        if self.step == 0 and self.decision is None and getattr(self.policy, "from_start", False):
            decision = self.policy.decide(Reading(step=0, source="none"))
            self._record(decision)
            self._carry_out(decision)

    def _falls_on(self, step: int) -> bool:
        """Whether a reading falls on a step, as far as the policy knows now."""
        return step % self.plan.every == 0 or self.policy.due(step)

    def _arm(self) -> None:
        """Arm the reader if a reading falls on the next step; on others no hook exists."""
        self._timetable.look_ahead(self.step + 1, self._engine.signal.window)  # the growth signal must know so far
        if self._due:
            self._engine.observer.arm()

    @property
    def _due(self) -> bool:
        """Whether the step under way is due for a reading."""
        return self._timetable.next == self.step + 1

    def _observe_decide_act(self) -> None:
        reading = self._engine.observer.read(self.step, self.sparsity)
        self.readings.append(reading)
        self._record(reading)
        for name, value in self._steps.effects.read().items():
            self._record(Measurement(step=self.step, name=name, value=value))
        if self._engine.zero_preservation.found_values():
            self._log(
                "zeros",
                f"pruned weights had other values than zero at step {self.step}, from something that writes to weights "
                "through .data or sets moments: they are zero again, and from now on after every step",
            )
        joined = self._engine.join()
        if joined is not None:
            self._log("join", f"joined the optimizer, prunable from now on: {', '.join(joined) or 'no new weights'}")
        if self.finalized or self._interventions.held:
            return
        if not reading.finite:
            self._engine.actor.rewiring.restore_zeros()
            self._log(
                "skip",
                f"a gradient, an activation or the loss was not finite at step {self.step}: no decision was made",
            )
            return
        decision = self.policy.decide(reading)
        if decision.acts or decision.phase != self.phase:
            self._record(replace(decision, eligible=self._eligible(decision)))
        self._carry_out(decision)

    def _eligible(self, decision: Decision) -> int | None:
        """The first step at which the policy reads again and may act, as far as it knows."""
        earliest = getattr(self.policy, "earliest", lambda step: step + 1)(self.step)
        if earliest is None or decision.find(Freeze):
            return None
        first = max(earliest, self.step + 1)
        return next(filter(self._falls_on, range(first, first + self.plan.every)), None)

    def _carry_out(self, decision: Decision) -> None:
        self.decision, self.phase = decision, decision.phase
        for event in self._engine.actor.carry_out(decision, self.step, self._engine.signal.values):
            self.events.append(event)
            self._record(event)
        self._engine.forget_signal()

    def _log(self, kind: str, reason: str) -> None:
        """Record something that happened without a decision."""
        event = Intervention(
            step=self.step,
            kind=kind,
            phase=self.phase,
            reason=reason,
            sparsity_before=self.sparsity,
            sparsity_after=self.sparsity,
        )
        logger.info("step %d: %s: %s", self.step, kind, reason)
        self.events.append(event)
        self._record(event)

    def _record(self, event: Event) -> None:
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
        self.steering.request(command)

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
        return self.events[done:]

    def open_weights(self, layers: Sequence[str] = ()) -> tuple[int, int]:
        """Number of prunable weights that are open, and of all, in the layers that match (all of them if empty).

        Raises:
            ValueError: if a pattern matches no prunable layer.
        """
        part = self._engine.weights.only(layers)
        return part.live, part.size

    def reachable(self, sparsity: float, layers: Sequence[str] = ()) -> tuple[float, int]:
        """The sparsity that a collapse to this one reaches (a pattern may bound it), and the weights it leaves open."""
        rewiring = self._engine.actor.rewiring
        sparsity = rewiring.reachable(sparsity)
        return sparsity, rewiring.wanted(sparsity, layers)

    def check_sparsity(self, sparsity: float) -> None:
        """Check that a target could be reached here.

        Raises:
            ValueError: if it is out of range, leaves less than the minimum density, or does not fit the pattern.
        """
        check_sparsity(sparsity)
        self._options.target.check_room(sparsity)
        self._engine.actor.rewiring.check_target(sparsity)

    def replace_policy(self, policy: Policy, plan: Plan) -> None:
        """Go on with another policy or plan, in the same state."""
        self.plan, self.policy = plan, policy

    @property
    def resolved(self) -> bool:
        """Whether it is known which weights are prunable: from the first step on, or with a probe."""
        return self._resolved

    @property
    def stopping(self) -> bool:
        """Whether a person asked the loop to end: ask it after each step, then call :meth:`finalize`."""
        return self.steering.stopping

    # ---- results and state ------------------------------------------------------------------------------------

    def finalize(self) -> None:
        """End with exactly the target sparsity: stop the pump, collapse to the target if need be, freeze the mask.

        The mask goes on being enforced, so that fine-tuning keeps it. Calling it again does nothing.
        """
        if self.finalized:
            return
        self._resolve()
        total = self.plan.total_steps
        early = f" at step {self.step} of {total}" if total and self.step < total else ""
        reason = f"finalize{early}: exact target {self.plan.sparsity:g}, final mask"
        prune = () if self.frozen else (Prune(self.plan.sparsity),)
        self._carry_out(Decision(phase="frozen", reason=reason, actions=(*prune, SetNoise(0.0), Freeze())))
        self.finalized = True

    @property
    def frozen(self) -> bool:
        """Whether the mask is final."""
        return self._engine.actor.frozen

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that the masks hold at zero."""
        return self._engine.weights.sparsity

    @property
    def sparsity_total(self) -> float:
        """Share of all parameters of the model that the masks hold at zero."""
        weights = self._engine.weights
        return (weights.size - weights.live) / sum(p.numel() for p in self.model.parameters())

    @property
    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks by parameter name, true where a weight is open."""
        weights = self._engine.weights
        return {name: weights.mask(name) for name in weights.params}

    def explain(self) -> Explanation:
        """Say of every parameter what it is for, whether it is pruned, and why; prints as a table.

        Before the first batch the layers that produce the output are not known.

        >>> import torch, surgecollapse
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> readings = surgecollapse.Readings(probe=torch.ones(2, 4))
        >>> controller = surgecollapse.attach(model, optimizer, 0.5, 100, readings=readings)
        >>> print(controller.explain())
        parameter  shape   role          prunable  reason
        0.weight   (8, 4)  linear        yes       weight of a linear layer
        0.bias     (8,)    bias          no        is a bias
        2.weight   (2, 8)  output layer  no        belongs to a layer that produces the model's output
        2.bias     (2,)    bias          no        is a bias
        """
        return self._engine.explain()

    @property
    def noise_std(self) -> float:
        """Standard deviation of the input noise; 0 while there is none."""
        return self._noise.std

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs, in values that ``torch.load(weights_only=True)`` takes.

        The weights and the optimizer's own state are not in it: save ``model.state_dict()`` and
        ``optimizer.state_dict()`` beside it.
        """
        return {
            "version": STATE_VERSION,
            "plan": to_dict(self._interventions.given_plan),
            "policy": {"name": type(self.policy).__name__, "state": self.policy.state_dict()},
            "step": self.step,
            "phase": self.phase,
            "finalized": self.finalized,
            "resolved": self._resolved,
            "engine": self._engine.state_dict(),
            "probe": self._probe.state_dict(),
            "random": {role: generators.state_dict() for role, generators in self._random.items()},
            "noise_std": self._noise.std,
            "decision": None if self.decision is None else to_dict(self.decision),
            "transforms": self._steps.state_dict(),
            "events": [to_dict(event) for event in self.events],
            **({} if self.watch is None else {"watch": self.watch.state_dict()}),
            **({"interventions": changed} if (changed := self._interventions.state_dict()) else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. Load the model and the optimizer first.

        Raises:
            ValueError: if the state is foreign: another version, policy, plan, model or choice of prunable weights.
        """
        state = current_state(state)
        self._check_state(state)
        self._probe.load_state_dict(state["probe"])
        self._resolved = state["resolved"]
        self._engine.observer.disarm()
        found = state["engine"]["dataflow"]
        self._build(None if found is None else Dataflow.from_dict(found), saved=state["engine"])
        self._engine.load_state_dict(state["engine"])
        for role, generators in self._random.items():
            generators.load_state_dict(state["random"][role])
        self._interventions.load_state_dict(state.get("interventions", {}))
        self.policy.load_state_dict(state["policy"]["state"])
        self._steps.load_state_dict(state["transforms"])
        self.step, self.phase, self.finalized = state["step"], state["phase"], state["finalized"]
        self._timetable.restart(self.step)
        self.decision = None if state["decision"] is None else from_dict(state["decision"])
        self.events = [from_dict(event) for event in state["events"]]
        self._noise.std = state["noise_std"]
        if self.watch is not None and "watch" in state:
            self.watch.load_state_dict(state["watch"])
        if self.attached:
            self._noise.set(state["noise_std"])
            self._arm()

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping) or not {"version", "engine", "policy"} <= set(state):
            raise ValueError("this is not the state of a surgecollapse controller: pass what state_dict() returned")
        if state["version"] != STATE_VERSION:
            raise ValueError(f"controller state has version {state['version']}, this library reads {STATE_VERSION}")
        here = {**self.state_dict(), **self._engine.state_dict()}
        if missing := sorted(set(here) - {*state, *state["engine"], "watch", "interventions"}):
            raise ValueError(f"this controller state lacks {', '.join(missing)}: the checkpoint is damaged")
        name = type(self.policy).__name__
        if class_of(state["policy"]["name"]) != name:
            raise ValueError(f"this state belongs to the policy {state['policy']['name']}, but {name} is attached")
        given = self._interventions.given_plan
        if (plan := from_dict(state["plan"])) != given:
            raise ValueError(f"this state was saved under {plan}, but this controller was attached with {given}")
