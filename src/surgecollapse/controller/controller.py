"""What drives one training run: hooks around the optimizer's steps, and everything that may be asked of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
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
from surgecollapse.controller.decision_loop import DecisionLoop
from surgecollapse.controller.live_settings import LiveSettings
from surgecollapse.controller.optimizer_step import OptimizerSteps
from surgecollapse.controller.options import Options, check_sparsity
from surgecollapse.controller.ownership import Ownership, check_trainable
from surgecollapse.controller.rank_agreement import RankAgreement
from surgecollapse.controller.sharding import check_not_sharded_since, check_sharded
from surgecollapse.controller.state import ControllerState
from surgecollapse.controller.version_01 import current_state
from surgecollapse.errors import counted
from surgecollapse.events import Decision, Freeze, Intervention, Plan, Reading, SetNoise
from surgecollapse.observe.monitor_context import MonitorContexts
from surgecollapse.observe.monitors import make_monitors
from surgecollapse.observe.probe import PROBE_ROWS, Probe
from surgecollapse.observe.watch import Watch
from surgecollapse.policies import make_policy
from surgecollapse.protocols import Dataflow, Policy
from surgecollapse.record import CommandQueue
from surgecollapse.record.plot import plot_run
from surgecollapse.torch_utils.distributed import shadow_when_joined, wrapper_at_work
from surgecollapse.torch_utils.modules import snapshot, unwrap_model
from surgecollapse.torch_utils.sharded_modules import gather_again
from surgecollapse.torch_utils.shards import data_differs, like, together
from surgecollapse.torch_utils.step_hooks import StepHooks

if TYPE_CHECKING:
    from surgecollapse.commands import Command

_ROLES = ("rows", "noise", "growth")
_LEAST_ROWS = 2
"""Of a rank's probe batch: the fewest that have a spread."""
_OUTPUT_UNKNOWN = (
    "No batch was seen yet. The layers that produce the output are found with the first one, and are not pruned."
)
_APART = 1_000_003
"""Between the seeds of two roles: neighboring seeds of a study must not share a stream."""


class Controller:
    """Drives one training run; made by :func:`surgecollapse.attach`, which documents the options.

    Attributes:
        optimizers: the innermost optimizers, in the order in which they step.
        watch: runs the monitors, within their budget (``watch.report()``); ``None`` without any.
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
        self._advice.of_units(options.target)
        if self.resolved:
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
        gather_again(self.model)
        check_trainable(self.model, self.optimizers)
        self._carried = CarriedController(self.state_dict, self.load_state_dict)
        self._by_hand = False
        self._advice = Advice()
        self._ranks, self._shards = together(model, options.process_group)
        rows = max(_LEAST_ROWS, PROBE_ROWS // self._ranks.size)
        self._probe = Probe(options.readings.probe, rows=rows, shards=self._shards)
        self._agreement = RankAgreement(self._ranks, self._probe)
        self._random = {role: Generators(options.seed + _APART * i) for i, role in enumerate(_ROLES)}
        self._noise = InputNoise(model, self._random["noise"], partial(data_differs, self.model, self._ranks))
        self._ownership = Ownership(model, self._given)
        self._steps = OptimizerSteps(self.optimizers, options.transforms)
        self._loop = self._new_loop()
        self.watch = self._new_watch()
        self.command_loop = CommandLoop(self._loop.record, self._ranks)
        self.command_loop.handlers.update(self._handlers.handlers())
        self._saved = ControllerState(
            self._loop,
            self._steps,
            self._handlers,
            self._agreement,
            random=self._random,
            noise=self._noise,
            watch=self.watch,
        )
        self._resolved = self._probe.known
        known = self._resolved and saved is None
        self._build(self._probe.dataflow(self.model) if known else None, None if saved is None else saved["engine"])

    def _new_loop(self) -> DecisionLoop:
        options = self._options
        plan = Plan(
            sparsity=options.target.sparsity,
            total_steps=options.total_steps,
            every=options.readings.every,
            seed=options.seed,
        )
        policy: Policy = make_policy(options.policy)
        policy.start(plan)
        check_sharded(self.model, options, policy)
        settings = LiveSettings(
            self.model,
            self.optimizers,
            self._mask_again,
            self._check_writable,
            where=lambda: (self.step, self.plan.total_steps or 0),
        )
        self._handlers = CommandHandlers(self, plan, policy, settings)
        return DecisionLoop(
            plan,
            policy,
            options.updates,
            options.recorders,
            handlers=self._handlers,
            effects=self._steps.effects,
            claim=self._ownership.claim,
            advice=self._advice,
            confidence=options.readings.confidence,
        )

    def _settle(self) -> None:
        """Check what is prunable, once that is known, and take the first mask from the weights if asked to."""
        components = self._components
        components.actor.planner.check_target(self.plan.sparsity)
        self._advice.of_pattern(components.actor.planner, self.plan.sparsity)
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
        self._loop.log("join", f"the {zeros} zeros of the weights are the first mask, and stay closed")
        if final:
            self._handlers.aim_at(zeros / weights.size)
            reason = "the zeros of the weights are the final mask"
            self._loop.carry_out(Decision(phase="frozen", reason=reason, actions=(Freeze(),)))
            self._loop.finalized = True

    def _build(self, dataflow: Dataflow | None, saved: Mapping[str, Any] | None = None) -> None:
        growth = self._options.updates.growth or getattr(self.policy, "growth", "ema_gradient")
        components = self._loop.components = Components(
            self.model,
            self.optimizers,
            self._options,
            dataflow=dataflow,
            growth=growth if isinstance(growth, str) else "ema_gradient",
            counting=getattr(self.policy, "counting", None),
            probe=self._probe,
            noise=self._noise,
            random=self._random,
            ranks=self._ranks,
            shards=self._shards,
            saved=saved,
        )
        components.actor.target = self.plan.sparsity
        for i, given in enumerate(self._given):
            if len(StepHooks.chain(given)) > 1:  # a wrapper writes weights of its own after the step
                components.zero_preservation.disable_fast_path(i)

    @property
    def _components(self) -> Components:
        return self._loop.components

    def _new_watch(self) -> Watch | None:
        options = self._options
        monitors = make_monitors(options.monitoring.monitors)
        if not monitors:
            return None
        contexts = MonitorContexts(
            self.model,
            self._probe,
            sites=options.readings.sites,
            rows=options.readings.rows,
            criterion=options.monitoring.criterion,
            output=options.readings.output,
        )
        limit = options.monitoring.budget
        return Watch(self.model, monitors, contexts, self._loop.record, every=self.plan.every, limit=limit)

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
        self._loop.settle_shadow()
        self._components.weights.apply()
        self._noise.set(self._noise.std)
        commands = self._options.commands
        if commands is not None:
            self.command_loop.open(commands if isinstance(commands, CommandQueue) else CommandQueue(Path(commands)))
        self._loop.arm()

    def _see_first_batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._meet_ranks()
        self._probe.capture(args, kwargs)
        if self.watch is not None:
            self.watch.contexts.see_batch(args, kwargs)

    def _meet_ranks(self) -> None:
        """Train together with the ranks of a ``DistributedDataParallel`` that the model was put into since attach.

        Raises:
            RuntimeError: under ``Join``, which began before the ranks were known.
        """
        wrapper = wrapper_at_work(self.model) if self._ranks.alone else None
        if wrapper is None or distributed.get_world_size(wrapper.process_group) == 1:
            return
        if wrapper._join_config.enable:
            raise RuntimeError(
                "the model was put into DistributedDataParallel after attach, and now runs under Join: attach to the "
                "DistributedDataParallel itself (after prepare or setup), so that uneven ranks wait for each other"
            )
        self._ranks.join(wrapper.process_group)
        self._agreement.joined()
        self._stop_shadowing()
        self._stop_shadowing = shadow_when_joined(wrapper, self._shadow_step, self._end_of_join)

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
            self.watch.contexts.note(targets, loss=loss, validation_loss=validation_loss)

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
        if self._steps.skips(index, rehearsal=not (self.step or self._ownership.saw_batch)):
            return
        self._carried.settle()
        if self.step == 0 and not self._shards.sharded:
            check_not_sharded_since(self.model)
        self._resolve()
        params = self._components.weights.params.items()
        self._agreement.check(self.plan, type(self.policy).__name__, self.step, params)
        self._loop.begin()
        self._ownership.first_step_done()
        if self.watch is not None and index == 0:
            weights = self._components.weights
            self.watch.before_step(self.step + 1, self.optimizers, weights.shares, weights.all_held)
        until_due = self._loop.schedule.next - (self.step + 1)
        self._handlers.settings.frozen.before_step()  # of each optimizer: a loop may run backward between two of them
        self._steps.prepare(index, self._components, rates=self._handlers.rates, until_due=until_due)
        self._handlers.settings.frozen.keep_rows(
            index
        )  # last, and put back first: the weights that the optimizer steps

    @torch.no_grad()
    def _after(self, index: int) -> None:
        components = self._components
        self._handlers.settings.frozen.put_back_rows(index)
        self._steps.put_right(index, components, check=self._loop.due)
        if self._steps.skipped(index):
            return
        if len(self.optimizers) > 1 and not self._by_hand:
            self._advice.of_steps(index, components.primary)
        if index == components.primary:
            self._end_step()

    def _end_step(self) -> None:
        """Count the step, read, decide and act where that is due, and carry out what was asked for."""
        self._loop.end_step()
        if not self.command_loop.by_hand:
            self.command_loop.boundary(self.step)
        if self.attached:  # a recorder may have detached it
            self._loop.arm()

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
        """After the last step of the longest rank: all ranks have its masks and state, as they have its weights.

        That rank takes it up, too: what the ranks agree on once must be forgotten on all of them, or on none.
        """
        self._ranks.absent = False
        source = int(self._ranks.highest(torch.tensor(self._ranks.rank if is_last else -1)))
        self._load(self._ranks.from_first(self.state_dict(), source=source), check=False)

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
        self._loop.record(decision)
        self._loop.carry_out(decision)
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
        self._loop.plan, self._loop.policy = plan, policy
        self._components.actor.target = plan.sparsity
        counters, counting = self._components.actor.writer.counters, getattr(policy, "counting", None)
        if counters is not None and counting is not None:
            counters.decay, counters.tau = counting["decay"], counting["tau"]
        self._loop.schedule.restart(self.step)
        self._arm_again()

    def _mask_again(self) -> None:
        """Mask weights that were written between two steps."""
        self._components.weights.apply()

    def _check_writable(self) -> None:
        """Refuse to write weights under a policy that trains shadow weights, which would go on from their old values.

        Raises:
            ValueError: if it does.
        """
        if self._components.actor.shadow.active:
            raise ValueError(f"the policy {type(self.policy).__name__} trains shadow weights, which cannot be reset")

    def _arm_again(self) -> None:
        """Arm the reader after what a user asked for: a pass of the probe batch disarms it."""
        if self.attached and self._resolved:
            self._loop.arm()

    @property
    def live_settings(self) -> LiveSettings:
        """Settings of the model and its optimizers that people change."""
        return self._handlers.settings

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
        self._loop.finalize()

    @property
    def plan(self) -> Plan:
        """Target sparsity, total steps and cadence, as they are now."""
        return self._loop.plan

    @property
    def policy(self) -> Policy:
        """What decides."""
        return self._loop.policy

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return self._loop.step

    @property
    def phase(self) -> str:
        """The state of training: ``dense | sparse | open | pump | frozen``."""
        return self._loop.phase

    @property
    def decision(self) -> Decision | None:
        """The last decision."""
        return self._loop.decision

    @property
    def events(self) -> list[Intervention]:
        """Every intervention, oldest first."""
        return self._loop.events

    @property
    def readings(self) -> deque[Reading]:
        """The last 1,000 readings."""
        return self._loop.readings

    @property
    def finalized(self) -> bool:
        """Whether :meth:`finalize` has been called."""
        return self._loop.finalized

    @property
    def frozen(self) -> bool:
        """Whether the mask is final."""
        return self._loop.frozen

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that are zero now, counted; :meth:`open_weights` says what the masks hold.

        Of a sharded model they are counted on every rank: all of them must ask.
        Which layers produce the output is known from the first batch on, or with ``Readings(probe=…)``. Before that,
        their weights count as prunable here.
        """
        weights = self._components.weights
        return weights.zeros() / weights.size if weights.size else 0.0

    @property
    def sparsity_total(self) -> float:
        """Share of all parameters of the model that are zeros of prunable weights."""
        return self._components.weights.zeros() / sum(p.numel() for p in self.model.parameters())

    @property
    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks by parameter name, true where a weight is open; of a sharded weight a ``DTensor``."""
        weights = self._components.weights
        return {name: like(p, weights.mask(name)) for name, p in weights.params.items()}

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
        weights = self._components.weights
        mask_other({name: like(weights.params[name], mask) for name, mask in weights.all_held().items()}, other)

    def __str__(self) -> str:
        total = "" if self.plan.total_steps is None else f"/{self.plan.total_steps}"
        weights = self._components.weights
        masked = f"{weights.sparsity:.1%}"
        zero = masked if self._shards.sharded else f"{self.sparsity:.1%}"  # one rank alone may print
        shown = f"{zero} of {weights.size:,} weights zero"
        if weights.sparsity and masked != zero:  # regrown at zero and not trained since, or written to
            shown += f" ({masked} masked)"
        phase = "frozen" if self.frozen else self.phase
        return f"step {self.step}{total}, {phase}, {shown}, {counted(len(self.events), 'intervention')}"

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

        Before the first batch the layers that produce the output are not known; the table says so then.

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
        found = self._components.explain()
        return found if self._resolved else replace(found, note=_OUTPUT_UNKNOWN)

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
        return snapshot(self._saved.take(resolved=self._resolved))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. Load the model and the optimizer first.

        Raises:
            ValueError: if the state is foreign: another version, policy, plan, model, choice of prunable weights, or
                masks that close weights which have a value.
        """
        self._load(current_state(state), check=True)
        self._carried.forget()

    def _load(self, state: Mapping[str, Any], *, check: bool) -> None:
        self._saved.restore(state, self._build, check=check)
        self._resolved = state["resolved"]
        self._components.observer.disarm()  # what was armed for the step of another state
        if self.attached:
            self._noise.set(state["noise_std"])
            self._loop.arm()
