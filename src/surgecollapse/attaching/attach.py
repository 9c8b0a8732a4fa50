"""The one line that adds surge-collapse, or gradient transforms alone, to a training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from surgecollapse.act.prunable import Patterns
from surgecollapse.controller.controller import Controller
from surgecollapse.controller.ownership import Connection
from surgecollapse.events import Measurement
from surgecollapse.gradients.chain import TransformChain
from surgecollapse.gradients.effects import Effects
from surgecollapse.observe.monitors import Monitors
from surgecollapse.policies import make_policy
from surgecollapse.protocols import Criterion, GradientTransform, Policy, Recorder
from surgecollapse.recipes import find_recipe
from surgecollapse.record import CommandQueue
from surgecollapse.torch_utils.step_hooks import StepHooks, overflowed, parameters_of, unscale


def attach(
    model: nn.Module,
    optimizer: Any,
    *,
    sparsity: float,
    total_steps: int | None = None,
    recipe: str | None = None,
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
    pattern: str | None = None,
    rows: int = 128,
    sites: Sequence[str] | None = None,
    recorders: Sequence[Recorder] = (),
    monitors: Monitors = (),
    monitor_budget: float | None = 0.02,
    criterion: Callable[[Any, Tensor], Tensor] | None = None,
    commands: CommandQueue | str | Path | None = None,
    hooks: bool = True,
    compile: bool = False,
) -> Controller:
    """Attach surge-collapse to a model and the optimizer that trains it: one line in any loop.

    Args:
        model: the module that the loop calls; ``torch.compile`` and DDP wrappers are looked through.
        optimizer: the optimizer whose ``step()`` the loop calls, or a list of them, stepped in that order.
        sparsity: share of the prunable weights that end at exactly zero, in [0, 1).
        total_steps: optimizer steps of the whole run; scheduled policies (the default one) need it.
        recipe: a named configuration, see :data:`surgecollapse.recipes.RECIPES`; arguments that are given another value
            than their default come before it.
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
        saliency: what is pruned first: ``magnitude | lamp | taylor`` (lowest), or a criterion, or the name of one
            that a package registered under the entry-point group ``surgecollapse.criteria``.
        growth: what is reopened first: ``ema_gradient | gradient | momentum | random``, or a criterion as above;
            default: the policy's choice, else ``ema_gradient``.
        initial: first value of reopened weights: ``zero | noise | last``; default: the policy's choice, else ``zero``.
        rho: bound on injected over live energy; default: the policy's choice, else 0.1.
        distribution: how zeros spread over layers: ``global | layer | erk``.
        minimum_density: least share of each parameter that stays open; under a pattern, of its blocks or units.
        pattern: weights that open and close together: ``N:M`` (N of every M along the inputs stay, as in ``2:4``; the
            sparsity is then 1 − N/M), ``block:RxC`` (as in ``block:4x1``), or ``unit`` (rows of the weight: output
            units, or channels). Whole groups reach the sparsity only as near as their size allows.
        rows: samples per reading.
        sites: patterns on module names to read instead of the activations that follow prunable layers.
        recorders: objects with ``record(event)``.
        monitors: what to measure beside the readings that decide: ``default``, names (see
            :data:`surgecollapse.observe.monitors.MONITORS`), objects, or a sequence of these; every ``every`` steps or,
            where that would cost too much, seldomer. They change nothing.
        monitor_budget: most that the monitors may take of the training time; ``None`` keeps their cadence.
        criterion: loss of the model's output and the targets, for monitors that need one.
        commands: the ``run.db`` (see :class:`~surgecollapse.record.RunStore`) from which to take what people ask of the
            run on a page or in a terminal, at step boundaries.
        hooks: ``False``: the loop calls :meth:`Controller.before_step` and :meth:`Controller.after_step` itself.
        compile: put the masks on large weights in one compiled pass each (``torch.compile``; the first masked step
            takes seconds): a quarter of the memory for masks, nine tenths of the time, the same values. For nets of
            millions of weights on a CPU; without a C++ compiler there is one warning, and plain operations do the work.
            On a GPU it made a step slower.

    Returns:
        The controller; a context manager that detaches on exit.

    Raises:
        ValueError: for options out of range, an unknown recipe or pattern, a model with nothing to prune, LBFGS, a
            second attach.

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
    options = _prepared(dict(locals()))
    return Controller(options.pop("model"), options.pop("optimizer"), **options)


def _prepared(options: dict[str, Any]) -> dict[str, Any]:
    """Put the recipe's arguments where the caller left the defaults."""
    recipe = options.pop("recipe")
    if recipe is None:
        return options
    chosen = dict(find_recipe(recipe))
    policy_options = chosen.pop("policy_options", {})
    chosen["policy"] = make_policy(chosen["policy"], **policy_options)
    defaults = signature(attach).parameters
    return options | {name: value for name, value in chosen.items() if options[name] == defaults[name].default}


class TransformedGradients:
    """Handle of :func:`transform_gradients`: its state belongs into the checkpoint; a context manager."""

    def __init__(
        self, optimizer: Any, transforms: Sequence[GradientTransform], recorders: Sequence[Recorder], every: int
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._optimizer = StepHooks.chain(optimizer)[-1]
        if any(Connection.holder(p) is not None for p in parameters_of(self._optimizer)):
            raise ValueError(
                "a controller masks these parameters already, and masking comes after every transform: pass the "
                "transforms to attach(..., transforms=[...]), or call transform_gradients before attach"
            )
        self._chain, self._effects = TransformChain(transforms), Effects()
        self._chain.check_after_standing(self._optimizer)
        self._recorders, self._every, self._step = recorders, every, 0
        self._hooks = StepHooks(optimizer, self._before_step, lambda: None)
        self._chain.stand_before(self._optimizer)

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

    def __enter__(self) -> TransformedGradients:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def state_dict(self) -> dict[str, Any]:
        """State of all transforms, by position of the parameters in the optimizer; ``weights_only``-loadable."""
        return {"transforms": self._chain.state_dict(list(parameters_of(self._optimizer))), "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: if the number of transforms or of parameters differs.
        """
        self._chain.load_state_dict(state["transforms"], list(parameters_of(self._optimizer)))
        self._step = state.get("step", 0)  # not in checkpoints of version 0.1.0


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
    {'transforms': [], 'step': 0}
    """
    return TransformedGradients(optimizer, transforms, recorders, every)
