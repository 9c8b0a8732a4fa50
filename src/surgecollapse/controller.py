"""The control loop: observe → decide → act → record, once per optimizer step."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgecollapse.act.actor import Actor
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.optimizer_state import momentum_of
from surgecollapse.act.prunable import Patterns, named_weights, prunable_parameters
from surgecollapse.act.pump import EntropyPump
from surgecollapse.act.randomness import Generators
from surgecollapse.act.rewiring import Rewiring
from surgecollapse.decide import make_policy
from surgecollapse.decide.depth import deepest
from surgecollapse.events import Decision, Event, Intervention, Plan, Reading, from_dict, to_dict
from surgecollapse.modules import Hooks, unwrap_model
from surgecollapse.observe.activations import ActivationReader, find_sites
from surgecollapse.observe.dense_gradient import DenseGradient
from surgecollapse.observe.observer import Observer
from surgecollapse.observe.probe import Probe
from surgecollapse.step_hooks import StepHooks, overflowed, parameters_of, unscale
from surgecollapse.types import Criterion, GradientTransform, Policy, Recorder

logger = logging.getLogger(__name__)
STATE_VERSION = 1
_attached: dict[int, tuple[weakref.ref[Tensor], weakref.ref[Controller]]] = {}


class Controller:
    """Drives one training run; made by :func:`attach`, which documents the arguments.

    Attributes:
        plan: target sparsity, total steps and cadence.
        policy: what decides.
        step: completed optimizer steps.
        phase: the state of training: ``dense | sparse | open | pump | hold | frozen``.
        decision: the last decision.
        events: every :class:`~surgecollapse.events.Intervention`, oldest first.
        readings: the last 1,000 readings.
        finalized: whether :meth:`finalize` has been called.
    """

    def __init__(self, model: nn.Module, optimizer: Any, **options: Any) -> None:
        self._start(model, optimizer, options)
        self.reattach()

    def _start(self, model: nn.Module, optimizer: Any, options: dict[str, Any]) -> None:
        """Set everything up except hooks."""
        self._options, self._wrappers = options, optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        self._outer, self.model = model, unwrap_model(model)
        self.plan = Plan(sparsity=options["sparsity"], total_steps=options["total_steps"], every=options["every"])
        if not 0.0 <= self.plan.sparsity < 1.0:
            raise ValueError(
                f"sparsity must be in [0, 1), the share of prunable weights that end at zero; got {self.plan.sparsity}"
            )
        if self.plan.every < 1 or options["rows"] < 2:
            raise ValueError(
                f"every must be at least 1 and rows at least 2, got {self.plan.every} and {options['rows']}"
            )
        self.policy: Policy = make_policy(options["policy"])
        self.policy.start(self.plan)
        self.step, self.phase, self.finalized = 0, "dense", False
        self.decision: Decision | None = None
        self.events: list[Intervention] = []
        self.readings: deque[Reading] = deque(maxlen=1000)
        self._hooks: list[StepHooks] = []
        self._first_batch = Hooks()
        self._versions: list[int] = []
        self._due = self._skipped = False
        chains = [StepHooks.chain(wrapper) for wrapper in self._wrappers]
        self.optimizers: list[Optimizer] = [chain[-1] for chain in chains]
        self._probe = Probe(options["probe"])
        self._random = {role: Generators(options["seed"] + i) for i, role in enumerate(("rows", "noise", "growth"))}
        self._pump = EntropyPump(model, self._random["noise"])
        self._resolved = self._probe.known
        self._build(self._probe.output_layers(self.model) if self._probe.known else ())

    def _build(self, heads: Sequence[str]) -> None:
        """Choose what is prunable and set up what depends on it.

        Which layer produces the output only a forward pass can tell. Until one was seen the choice is provisional, and
        nothing acts on it.
        """
        options, self._heads = self._options, tuple(heads)
        self._weights = MaskedWeights(self._choose())
        kind = options["growth"] or getattr(self.policy, "growth", "ema_gradient")
        self._signal_kind = kind if isinstance(kind, str) else "ema_gradient"
        self._signal = DenseGradient(self._signal_decay())
        rewiring = Rewiring(
            self._weights,
            self._owner,
            self._random["growth"],
            saliency=options["saliency"],
            growth=options["growth"] or "ema_gradient",
            initial=options["initial"] or "zero",
            rho=0.1 if options["rho"] is None else options["rho"],
            distribution=options["distribution"],
            minimum_density=options["minimum_density"],
            moments=options["moments"],
        )
        overrides = {key: options[key] for key in ("growth", "initial", "rho")}
        self._actor = Actor(self.model, rewiring, self._pump, self._find_depth, overrides)
        sites = find_sites(self.model, self._weights.params, options["sites"])
        reader = ActivationReader(
            self.model, sites, entropy=options["entropy"], rows=options["rows"], follow=options["sites"] is None
        )
        self._observer = Observer(self.model, reader, self._probe, self._random["rows"].on())
        self._groups = self._group()

    def _choose(self) -> dict[str, nn.Parameter]:
        owned = {id(p) for optimizer in self.optimizers for p in parameters_of(optimizer)}
        include, exclude = self._options["include"], self._options["exclude"]
        return prunable_parameters(self.model, owned=owned, heads=self._heads, include=include, exclude=exclude)

    def _group(self) -> list[list[str]]:
        """Names of the prunable weights that each optimizer steps."""
        ids = [{id(p) for p in parameters_of(optimizer)} for optimizer in self.optimizers]
        self._owned = sum(map(len, ids))
        return [[name for name, p in self._weights.params.items() if id(p) in own] for own in ids]

    def _owner(self, name: str) -> Optimizer:
        return next(o for o, names in zip(self.optimizers, self._groups, strict=True) if name in names)

    def _signal_decay(self) -> float:
        if self._signal_kind == "momentum":
            p = next(iter(self._weights.params.values()))
            owner = next(o for o in self.optimizers if any(q is p for q in parameters_of(o)))
            return momentum_of(owner, p)
        return 0.0 if self._signal_kind == "gradient" else 0.9

    # ---- attaching --------------------------------------------------------------------------------------------

    def reattach(self) -> None:
        """Register the hooks (again): after :meth:`detach`, or on a copied or unpickled controller.

        Raises:
            ValueError: if another controller is attached to these parameters.
        """
        if self.attached:
            return
        weights = named_weights(self.model).values()
        for p in weights:
            entry = _attached.get(id(p))
            other = entry[1]() if entry is not None and entry[0]() is p else None
            if other is not None and other is not self and other.attached:
                raise ValueError("these parameters already have a controller: call its detach() first")
        _attached.update({id(p): (weakref.ref(p), weakref.ref(self)) for p in weights})
        if self._options["hooks"]:
            for i, wrapper in enumerate(self._wrappers):
                before, after = (lambda i=i: self._before(i)), (lambda i=i: self._after(i))
                self._hooks.append(StepHooks(wrapper, before, after))
        if not self._resolved or self.step == 0:
            self._first_batch.before(self._outer, self._see_batch)
        self._weights.apply()
        self._pump.set(self._pump.sigma)
        self._arm()

    @property
    def attached(self) -> bool:
        """Whether this controller holds the parameters of its model."""
        p = next(iter(self.model.parameters()))
        entry = _attached.get(id(p))
        return entry is not None and entry[0]() is p and entry[1]() is self

    def detach(self) -> None:
        """Remove every hook. Weights keep their values, masks are no longer enforced; attaching again is allowed."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._first_batch.remove()
        self._observer.disarm()
        self._pump.suspend()
        if self.attached:
            for p in named_weights(self.model).values():
                _attached.pop(id(p), None)

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __getstate__(self) -> dict[str, Any]:
        options = {**self._options, "recorders": ()}  # open files and sockets do not travel
        return {"model": self._outer, "optimizer": self._wrappers, "options": options, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild a copied or unpickled controller, detached: call :meth:`reattach` to go on with it."""
        self._start(state["model"], state["optimizer"], state["options"])
        self.load_state_dict(state["state"])

    def _see_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the probe, and notice when weights move although the attached optimizer never stepped."""
        if not module.training or not torch.is_grad_enabled():
            return
        self._probe.capture(args, kwargs)
        self._versions.append(next(iter(self._weights.params.values()))._version)
        if self._hooks and len(set(self._versions)) > 2:
            raise RuntimeError(
                "the weights keep changing but the attached optimizer never steps: attach to the optimizer whose "
                "step() is called (a deepcopy of an optimizer loses its hooks: attach to the copy)"
            )

    # ---- one step ---------------------------------------------------------------------------------------------

    def note(self, loss: Tensor | float | None = None, targets: Tensor | None = None) -> None:
        """Tell the controller this step's loss and labels, before the optimizer's step; both are optional.

        The loss is checked for being finite, and of the labels the target entropy is recorded. Nothing is read back to
        the host unless a reading is due.
        """
        self._observer.note(loss, targets)

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
        optimizer = self.optimizers[index]
        self._skipped = overflowed(optimizer)
        if self._skipped:
            return
        tracked = self._tracked(index)
        transforms = self._options["transforms"]
        if transforms or tracked or self._due:
            unscale(optimizer)
            params = [p for p in parameters_of(optimizer) if p.grad is not None]
            grads = [p.grad for p in params if p.grad is not None]
            for transform in transforms:
                transform(params, grads)
            if self._due:
                self._observer.see_gradients(grads)
            self._signal.update(tracked)
        self._weights.mask_gradients(self._groups[index])

    @torch.no_grad()
    def _after(self, index: int) -> None:
        self._weights.apply(self._groups[index])
        primary = max(i for i, names in enumerate(self._groups) if names)
        if index != primary or self._skipped:
            return
        self.step += 1
        self._first_batch.remove()
        if self._due:
            self._observe_decide_act()
        self._observer.end_step()
        self._arm()

    def _resolve(self) -> None:
        """Settle what is prunable, once the layer that produces the output can be found."""
        if self._resolved:
            return
        if not self._probe.known:
            raise RuntimeError(
                "no training forward of the model was seen, so its output layer is unknown (a model compiled in place "
                "hides its forward): pass probe=<a batch, as the model is called>"
            )
        self._observer.disarm()
        self._build(self._probe.output_layers(self.model))
        self._resolved = True

    def _tracked(self, index: int) -> dict[str, nn.Parameter]:
        """Weights whose dense gradient is needed on this step."""
        if self.frozen or self._signal_kind == "random":
            return {}
        if self._signal_kind == "gradient" and not self._due:
            return {}
        if self._weights.dense and self._options["saliency"] == "magnitude":
            return {}
        return {name: self._weights.params[name] for name in self._groups[index]}

    def _arm(self) -> None:
        """Arm the reader if the next step is due for a reading; on other steps no hook exists."""
        step = self.step + 1
        self._due = step % self.plan.every == 0 or self.policy.due(step)
        if self._due:
            self._observer.arm()

    def _observe_decide_act(self) -> None:
        reading = self._observer.read(self.step, self.sparsity)
        self.readings.append(reading)
        self._record(reading)
        self._join()
        if self.finalized:
            return
        if not reading.finite:
            reason = f"the gradient or the loss was not finite at step {self.step}: no decision was made"
            self._log("skip", reason)
            return
        decision = self.policy.decide(reading)
        if decision.acts or decision.phase != self.phase:
            self._record(decision)
        self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> None:
        self.decision, self.phase = decision, decision.phase
        for event in self._actor.carry_out(decision, self.step, self._signal.values):
            self.events.append(event)
            self._record(event)
        if self.frozen or self._weights.dense:
            self._signal.clear()

    def _find_depth(self, decision: Decision, least: float, most: float) -> dict[str, Any]:
        """Search the deepest collapse whose measure on the probe batch stays over the decision's floor."""
        assert decision.floor is not None
        rewiring = self._actor.rewiring

        def measure(sparsity: float) -> float:
            with rewiring.trial(rewiring.plan(sparsity, self._signal.values, decision.distribution)):
                return self._observer.measure(decision.measure)

        found = deepest(measure, least, most, decision.floor)
        return {
            "depth": found.sparsity,
            "measured": found.measured,
            "tries": found.tries,
            "floor": decision.floor,
            "measure": decision.measure,
            "least": least,
            "most": most,
        }

    def _join(self) -> None:
        """Take in prunable parameters that joined an optimizer (``add_param_group``) since the last event."""
        if sum(len(group["params"]) for o in self.optimizers for group in o.param_groups) == self._owned:
            return
        self._heads = self._probe.output_layers(self.model) if self._probe.known else self._heads
        new = {name: p for name, p in self._choose().items() if name not in self._weights.params}
        for name, p in new.items():
            self._weights.add(name, p)
        self._groups = self._group()
        self._log(
            "join", f"joined the optimizer, prunable from now on: {', '.join(new) or 'none of the new parameters'}"
        )

    def _log(self, kind: str, reason: str) -> None:
        """Record something that happened without a decision."""
        sparsity = self.sparsity
        event = Intervention(
            step=self.step,
            kind=kind,
            phase=self.phase,
            reason=reason,
            sparsity_before=sparsity,
            sparsity_after=sparsity,
        )
        logger.info("step %d: %s: %s", self.step, kind, reason)
        self.events.append(event)
        self._record(event)

    def _record(self, event: Event) -> None:
        for recorder in self._options["recorders"]:
            recorder.record(event)

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
        depth = None if self.frozen else self.plan.sparsity
        self._carry_out(Decision(phase="frozen", reason=reason, depth=depth, pump=0.0, freeze=True))
        self.finalized = True

    @property
    def frozen(self) -> bool:
        """Whether the mask is final."""
        return self._actor.frozen

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that the masks hold at zero."""
        return self._weights.sparsity

    @property
    def sparsity_total(self) -> float:
        """Share of all parameters of the model that the masks hold at zero."""
        return (self._weights.size - self._weights.live) / sum(p.numel() for p in self.model.parameters())

    @property
    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks by parameter name, true where a weight is open."""
        return {name: self._weights.mask(name) for name in self._weights.params}

    @property
    def pump(self) -> float:
        """Standard deviation of the input noise; 0 while the pump is off."""
        return self._pump.sigma

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs, in values that ``torch.load(weights_only=True)`` takes.

        The weights and the optimizer's own state are not in it: save ``model.state_dict()`` and
        ``optimizer.state_dict()`` beside it.
        """
        return {
            "version": STATE_VERSION,
            "plan": to_dict(self.plan),
            "step": self.step,
            "phase": self.phase,
            "finalized": self.finalized,
            "frozen": self.frozen,
            "resolved": self._resolved,
            "heads": list(self._heads),
            "policy": {"name": type(self.policy).__name__, "state": self.policy.state_dict()},
            "weights": self._weights.state_dict(),
            "rewiring": self._actor.rewiring.state_dict(),
            "signal": self._signal.state_dict(),
            "probe": self._probe.state_dict(),
            "random": {role: generators.state_dict() for role, generators in self._random.items()},
            "pump": self._pump.sigma,
            "transforms": [transform.state_dict() for transform in self._options["transforms"]],
            "events": [to_dict(event) for event in self.events],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. Load the model and the optimizer first.

        Raises:
            ValueError: if the state is foreign: another version, policy, plan, model or choice of prunable weights.
        """
        if not isinstance(state, Mapping) or "version" not in state or "weights" not in state:
            raise ValueError("this is not the state of a surgecollapse controller: pass what state_dict() returned")
        if state["version"] != STATE_VERSION:
            raise ValueError(f"controller state has version {state['version']}, this library reads {STATE_VERSION}")
        name = type(self.policy).__name__
        if state["policy"]["name"] != name:
            raise ValueError(f"this state belongs to the policy {state['policy']['name']}, but {name} is attached")
        if (plan := from_dict(state["plan"])) != self.plan:
            raise ValueError(f"this state was saved under {plan}, but this controller was attached with {self.plan}")
        if len(state["transforms"]) != len(self._options["transforms"]):
            raise ValueError(f"this state has {len(state['transforms'])} gradient transforms, here they are other")
        self._probe.load_state_dict(state["probe"])
        self._resolved = state["resolved"]
        self._observer.disarm()
        self._build(state["heads"])
        self._weights.load_state_dict(state["weights"])
        self._actor.frozen = state["frozen"]
        self._actor.rewiring.load_state_dict(state["rewiring"])
        self._signal.load_state_dict(state["signal"], self._weights.params)
        for role, generators in self._random.items():
            generators.load_state_dict(state["random"][role])
        self.policy.load_state_dict(state["policy"]["state"])
        for transform, saved in zip(self._options["transforms"], state["transforms"], strict=True):
            transform.load_state_dict(saved)
        self.step, self.phase, self.finalized = state["step"], state["phase"], state["finalized"]
        self.events = [from_dict(event) for event in state["events"]]
        self._pump.sigma = state["pump"]
        if self.attached:
            self._pump.set(state["pump"])
            self._arm()


def attach(
    model: nn.Module,
    optimizer: Any,
    *,
    sparsity: float,
    total_steps: int | None = None,
    policy: str | Policy = "entropy",
    transforms: Sequence[GradientTransform] = (),
    include: Patterns = None,
    exclude: Patterns = None,
    every: int = 50,
    probe: Any = None,
    seed: int = 0,
    moments: str = "reset",
    entropy: str | Callable[[Tensor], Tensor] = "renyi2",
    saliency: str | Criterion = "magnitude",
    growth: str | Criterion | None = None,
    initial: str | None = None,
    rho: float | None = None,
    distribution: str = "global",
    minimum_density: float = 0.005,
    rows: int = 128,
    sites: Sequence[str] | None = None,
    recorders: Sequence[Recorder] = (),
    hooks: bool = True,
) -> Controller:
    """Attach surge-collapse to a model and the optimizer that trains it: one line in any loop.

    Args:
        model: the module that the loop calls; ``torch.compile`` and DDP wrappers are looked through.
        optimizer: the optimizer whose ``step()`` the loop calls, or a list of them, stepped in that order.
        sparsity: share of the prunable weights that end at exactly zero, in [0, 1).
        total_steps: optimizer steps of the whole run; scheduled policies (the default one) need it.
        policy: ``entropy`` (entropy-bounded cycles), ``cycles`` (AC/DC), ``rules`` (entropy rules), ``classic`` (the
            published fixed intervals), ``hold`` (never acts), or a policy object.
        transforms: gradient transforms, applied in order once a step, after unscaling and clipping, before masking.
        include: patterns on parameter or module names, or parameters, to prune instead of the default choice (all
            trainable weights with ``ndim >= 2`` but embeddings, norms and the layer that produces the output).
        exclude: likewise, never to prune.
        every: steps between readings.
        probe: a batch as the model is called (tensor, tuple of arguments, dict of keyword arguments) for looking at the
            net undisturbed; default: the first 64 rows of the first training batch.
        seed: of the library's own generators.
        moments: what the optimizer remembers of pruned and reopened weights: ``reset | keep | warmup``.
        entropy: form of the activation entropy, see :data:`surgecollapse.functional.ENTROPY`.
        saliency: what is pruned first: ``magnitude | taylor`` (lowest), or a criterion.
        growth: what is reopened first: ``ema_gradient | gradient | momentum | random``, or a criterion; default: the
            policy's choice, else ``ema_gradient``.
        initial: first value of reopened weights: ``zero | noise | last``; default: the policy's choice, else ``zero``.
        rho: bound on injected over live energy; default: the policy's choice, else 0.1.
        distribution: how zeros spread over layers: ``global | layer | erk``.
        minimum_density: least share of each parameter that stays open.
        rows: samples per reading.
        sites: patterns on module names to read instead of the activations that follow prunable layers.
        recorders: objects with ``record(event)``.
        hooks: ``False``: the loop calls :meth:`Controller.before_step` and :meth:`Controller.after_step` itself.

    Returns:
        The controller; a context manager that detaches on exit.

    Raises:
        ValueError: for options out of range, a model with nothing to prune, LBFGS, or a second attach.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    >>> controller = surgecollapse.attach(model, optimizer, sparsity=0.75, total_steps=200, every=5)
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     torch.nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
    ...     optimizer.step()
    >>> controller.finalize()
    >>> int((model[0].weight != 0).sum()), controller.frozen
    (64, True)
    """
    options = dict(locals())
    return Controller(options.pop("model"), options.pop("optimizer"), **options)
