"""The parts of the loop that depend on which weights are prunable, put together once that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from surgecollapse.act.actor import Actor
from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.layouts import Layouts, layouts_of
from surgecollapse.act.mask_planner import MaskPlanner
from surgecollapse.act.mask_writer import MaskWriter
from surgecollapse.act.masked_weights import MaskedWeights, check_obeyed
from surgecollapse.act.optimizer_state import moment_tensors, momentum_of, outside_of_state
from surgecollapse.act.prunable import explain_choice, named_weights, prunable_parameters
from surgecollapse.act.randomness import Generators
from surgecollapse.act.recycle import Recycler
from surgecollapse.act.roles import Explanation, with_reason
from surgecollapse.act.zero_preservation import ZeroPreservation
from surgecollapse.controller.options import Options, Updates
from surgecollapse.errors import warn_user
from surgecollapse.functional.criteria.registry import needs_gradient
from surgecollapse.observe.activations import ActivationReader, find_sites
from surgecollapse.observe.dense_gradient import DenseGradient
from surgecollapse.observe.observer import Observer
from surgecollapse.observe.probe import Probe
from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.distributed import Ranks
from surgecollapse.torch_utils.sharded_modules import gather_again
from surgecollapse.torch_utils.shards import Shards
from surgecollapse.torch_utils.step_hooks import parameters_of


class Components:
    """Masked weights, the growth signal, what observes them and what acts on them.

    The layer that produces the model's output is not prunable by default, and only a forward pass can tell which it is.
    So the controller builds provisional components first and new ones when the probe batch is known.

    Args:
        model: the unwrapped model.
        optimizers: innermost optimizers, in the order in which they step.
        options: what :func:`surgecollapse.attach` was told.
        dataflow: what a forward pass showed of the model; ``None`` before one is known.
        growth: name of the growth criterion whose signal is tracked.
        counting: what is counted of each weight; ``None`` for nothing.
        probe: the probe batch.
        noise: the input noise.
        random: generators by role: ``rows`` and ``growth``.
        ranks: the processes that train the model.
        shards: sums over those of them that hold parts of its weights.
        saved: a state whose weights are taken up again, whatever has been frozen, unfrozen or joined since.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        options: Options,
        *,
        dataflow: Dataflow | None,
        growth: str,
        counting: Mapping[str, float] | None = None,
        probe: Probe,
        noise: InputNoise,
        random: Mapping[str, Generators],
        ranks: Ranks,
        shards: Shards,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.dataflow = dataflow
        self._model, self._optimizers, self._probe, self._ranks, self._shards = model, optimizers, probe, ranks, shards
        self._target, self._readings, updates = options.target, options.readings, options.updates
        self._rows = random["rows"].on()
        chosen = self._choose(required=saved is None)
        chosen = chosen if saved is None else self._as_saved(chosen, saved)
        self.weights = MaskedWeights(chosen, compile=options.compile, shards=shards)
        self.zero_preservation = ZeroPreservation(self.weights, optimizers, updates.optimizer_state)
        self._regroup()
        self.declined: list[str] = list((saved or {}).get("declined", ()))
        self._growth = growth
        self._saliency = updates.saliency
        self.signal = DenseGradient(self._signal_decay())
        self.observer = self._new_observer()
        writer = self._new_writer(updates, random["growth"], counting)
        self._recycler = Recycler(
            self.weights, self._stepped_by, random["growth"], updates.optimizer_state, counters=writer.counters
        )
        overrides = {name: getattr(updates, name) for name in ("growth", "regrow_init", "noise_energy_budget")}
        self.actor = Actor(model, writer, self._recycler, noise, self.observer, overrides)

    def _new_writer(self, updates: Updates, generators: Generators, counting: Mapping[str, float] | None) -> MaskWriter:
        if counting is not None and (self._target.tiles is not None or self._shards.sharded):
            what = "weights that lie on several processes" if self._shards.sharded else "a pattern of tiles"
            raise ValueError(
                f"counters of each weight do not go with {what}: choose another policy than idle_exchange, such as "
                "endless_exchange"
            )
        planner = MaskPlanner(
            self.weights,
            generators,
            saliency=updates.saliency,
            allocation=self._target.allocation,
            min_density=self._target.min_density,
            pattern=self._target.tiles,
            layouts=self._layouts(),
        )
        budget = updates.noise_energy_budget
        return MaskWriter(
            planner,
            self._owner,
            generators,
            growth=updates.growth or "ema_gradient",
            regrow_init=updates.regrow_init or "zero",
            noise_energy_budget=0.1 if budget is None else budget,
            optimizer_state=updates.optimizer_state,
            counting=counting,
        )

    def _layouts(self) -> Layouts:
        return layouts_of(self._model, self.weights.params, self._target.tiles, self.dataflow)

    def _new_observer(self) -> Observer:
        """Observe the sites of the present weights."""
        readings = self._readings
        sites = find_sites(self._model, self.weights.params, readings.sites)
        reader = ActivationReader(
            self._model, sites, entropy=readings.entropy, rows=readings.rows, follow=readings.sites is None
        )
        flow, output = self.dataflow, readings.output
        return Observer(
            self._model, reader, self._probe, self._rows, self._ranks, self._shards, dataflow=flow, output=output
        )

    def _choose(self, *, required: bool = True) -> dict[str, nn.Parameter]:
        return prunable_parameters(self._model, **self._selection(), required=required)

    def _selection(self) -> dict[str, Any]:
        return {
            "owned": {id(p) for optimizer in self._optimizers for p in parameters_of(optimizer)},
            "dataflow": self.dataflow,
            "include": self._target.include,
            "exclude": self._target.exclude,
        }

    def warn_of_adapters(self) -> None:
        """Warn of trained low-rank factors: whether they are pruned or not, the merged weight is dense."""
        trained = set(self._candidates)
        factors = [row.name for row in self.explain() if row.role == "low-rank adapter" and row.name in trained]
        if factors:
            warn_user(
                f"the model trains factors of low-rank adapters ({', '.join(factors)}): the merged weight is dense, "
                "whatever is pruned. Merge the adapters and train the weights themselves for a sparse model"
            )

    def explain(self) -> Explanation:
        """Say of every parameter whether it is pruned, and why."""
        rows = []
        for row in explain_choice(self._model, **self._selection()):
            held = row.name in self.weights.params
            joined = "is frozen, but was prunable before" if held else "joins at the next reading"
            if row.name in self.declined:
                joined = "joined too late: with it the target cannot be reached"
            rows.append(row if row.prunable == held else with_reason(row, joined, prunable=held))
        return Explanation(tuple(rows))

    def _as_saved(self, chosen: Mapping[str, nn.Parameter], saved: Mapping[str, Any]) -> dict[str, nn.Parameter]:
        """Choose as the saved run had: without what joins only at its next reading, with what is frozen by now."""
        names, candidates, declined = saved["weights"]["shapes"], saved["candidates"], saved.get("declined", ())
        return {
            name: p
            for name, p in named_weights(self._model).items()
            if (name in names and (name in chosen or not p.requires_grad))
            or (name in chosen and name in candidates and name not in declined and not saved["frozen"])
        }

    def _regroup(self) -> None:
        """Note which optimizer steps which prunable weights, and all trainable weights that any of them steps."""
        ids = [{id(p) for p in parameters_of(optimizer)} for optimizer in self._optimizers]
        self.groups = [[name for name, p in self.weights.params.items() if id(p) in own] for own in ids]
        self._candidates = self._trained()

    def _trained(self) -> list[str]:
        owned = {id(p) for optimizer in self._optimizers for p in parameters_of(optimizer)}
        return [name for name, p in named_weights(self._model).items() if id(p) in owned and p.requires_grad]

    def _owner(self, name: str) -> Optimizer:
        owners = (o for o, names in zip(self._optimizers, self.groups, strict=True) if name in names)
        return next(owners, self._optimizers[0])  # of a parameter that none steps, the first knows no moments either

    def _stepped_by(self, p: Tensor) -> Optimizer | None:
        """The optimizer that steps a parameter, prunable or not."""
        return next((o for o in self._optimizers if any(q is p for q in parameters_of(o))), None)

    def _signal_decay(self) -> float:
        if self._growth == "momentum" and self.weights.params:
            name, p = next(iter(self.weights.params.items()))
            return momentum_of(self._owner(name), p)
        return 0.0 if self._growth == "gradient" else 0.9

    @property
    def primary(self) -> int:
        """Index of the last optimizer that steps prunable weights: after it, a step is complete."""
        return max((i for i, names in enumerate(self.groups) if names), default=len(self.groups) - 1)

    def tracked(self, index: int, until_due: int) -> dict[str, nn.Parameter]:
        """Weights of one optimizer whose dense gradient is needed ``until_due`` steps before the next reading.

        A negative number stands for a reading that is too far ahead to be known.
        """
        for_growth = self._growth != "random" and not self.weights.dense
        for_saliency = needs_gradient(self._saliency)
        if self.actor.frozen or not 0 <= until_due < self.signal.window or not (for_growth or for_saliency):
            return {}
        return {name: self.weights.params[name] for name in self.groups[index]}

    def forget_signal(self) -> None:
        """Drop the growth signal where nothing can be reopened any more, or everything is open."""
        if self.actor.frozen or self.weights.dense:
            self.signal.clear()

    def join(self) -> list[str] | None:
        """Take in prunable parameters that joined an optimizer or were unfrozen; ``None`` if none did.

        Once the mask is final they stay dense, and the sparsity exact.
        """
        joined = set(self._trained()) - set(self._candidates)
        if not joined:
            return None
        if self._probe.known:
            self.dataflow = self._probe.dataflow(self._model)
        new = {} if self.actor.frozen else {n: p for n, p in self._choose().items() if n not in self.weights.params}
        for name, p in new.items():
            self.weights.add(name, p)
        self.actor.planner.layouts = self._layouts()
        try:
            self.actor.planner.check_target(self.actor.target)
        except ValueError as error:
            self._decline(new, error)
            new = {}
        # In the model's order, in which a resumed run finds them: ties and random draws follow it.
        order = list(named_weights(self._model))
        self.weights.params = {n: self.weights.params[n] for n in sorted(self.weights.params, key=order.index)}
        self._regroup()
        self.actor.planner.layouts = self._layouts()
        self._recycler.measure_scales()
        self.observer = self.actor.net = self._new_observer()
        return list(new)

    def _decline(self, new: Mapping[str, nn.Parameter], error: ValueError) -> None:
        """Leave parameters dense under which the target could not be reached, rather than end the training."""
        for name in new:
            self.weights.hold(name, None)
        self.declined += new
        warn_user(
            f"{len(new)} parameters that joined the optimizer ({next(iter(new))} …) stay dense, since the target "
            f"cannot be reached with them: {error}"
        )

    def rebind(self) -> tuple[list[str], list[str]]:
        """Take up parameters that stand in the place of those that were held (a replaced layer, an assigned state).

        Returns:
            Names whose mask goes on holding, and names that have none any more (gone, or of another shape).
        """
        gather_again(self._model)
        now = named_weights(self._model)
        changed = [name for name, p in self.weights.params.items() if now.get(name) is not p]
        if not changed:
            return [], []
        kept = [name for name in changed if self.weights.hold(name, now.get(name))]
        self._regroup()
        self.observer.disarm()
        self.observer = self.actor.net = self._new_observer()
        lost = [name for name in changed if name not in kept]
        self.actor.shadow.drop(lost)
        if self.actor.writer.ramp is not None:
            self.actor.writer.ramp.drop(lost)
        if self.actor.writer.counters is not None:
            self.actor.writer.counters.drop(lost)
        self.weights.apply(kept)
        return kept, lost

    def found_values(self) -> bool:
        """Whether the last check found a value where a zero was expected, on any rank that holds a part; asked once."""
        found = self.zero_preservation.found_values()
        return self._shards.anywhere(found, next(self._model.parameters()).device) if self._shards.sharded else found

    def unstepped(self) -> list[str]:
        """Prunable weights that no attached optimizer steps (any more)."""
        stepped = {name for names in self.groups for name in names}
        return [name for name in self.weights.params if name not in stepped]

    def check_optimizer_states(self) -> None:
        """Check that moments can be reset weight by weight, once the optimizers have them.

        Those that an optimizer keeps elsewhere than in its state are said.

        Raises:
            ValueError: if they cannot, with the fall-back.
        """
        for optimizer, names in zip(self._optimizers, self.groups, strict=True):
            for name in names:
                moment_tensors(optimizer, self.weights.params[name])
            outside = outside_of_state(optimizer, [self.weights.params[name] for name in names])
            if outside:
                kind = type(optimizer).__name__
                warn_user(
                    f"{kind} keeps tensors of the weights' shapes outside of its state ({', '.join(outside[:3])}): if "
                    "these are moments, they are not reset where weights are pruned or regrown. Keep them in "
                    f"{kind}.state[p], or pass Updates(optimizer_state='keep') if that is meant"
                )

    def state_dict(self) -> dict[str, Any]:
        """Masks, signal, remembered values and whether the mask is final."""
        return {
            "dataflow": None if self.dataflow is None else self.dataflow.to_dict(),
            "candidates": list(self._candidates),
            "weights": self.weights.state_dict(),
            "signal": self.signal.state_dict(self.weights.params),
            "rewiring": {**self.actor.writer.state_dict(), **self._recycler.state_dict()},
            "frozen": self.actor.frozen,
            "shadow": self.actor.shadow.state_dict(),
            **({"declined": list(self.declined)} if self.declined else {}),
        }

    def signals_at_hand(self) -> dict[str, Tensor]:
        """The growth signal; where there is none, the gradients that are there, if they decide what is pruned."""
        if self.signal.values or not needs_gradient(self._saliency):
            return dict(self.signal.values)
        found = {name: self.weights.grad(name) for name in self.weights.params}
        return {name: grad for name, grad in found.items() if grad is not None}

    def check_masks(self, state: Mapping[str, Any]) -> None:
        """Refuse a state of other weights, before anything of it is taken up.

        Raises:
            ValueError: if the names or shapes are others, or its masks close weights that have a value.
        """
        check_obeyed(state["weights"], named_weights(self._model), self._shards)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, in components built with its ``dataflow`` and as ``saved``.

        Raises:
            ValueError: if the state belongs to other weights.
        """
        self.weights.load_state_dict(state["weights"])
        self._candidates = list(state["candidates"])
        self.signal.load_state_dict(state["signal"], self.weights.params)
        self.actor.writer.load_state_dict(state["rewiring"])
        self._recycler.load_state_dict(state["rewiring"])
        self.actor.frozen = state["frozen"]
        self.actor.shadow.load_state_dict(state.get("shadow"))
