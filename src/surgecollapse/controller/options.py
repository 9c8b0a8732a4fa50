"""What :func:`surgecollapse.attach` is told, in typed groups that validate themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from surgecollapse.act.mask_planner import criterion_of
from surgecollapse.act.prunable import Patterns
from surgecollapse.errors import one_of
from surgecollapse.events.switches import (
    ALLOCATIONS,
    OPTIMIZER_STATE,
    REGROW_INIT,
    Allocation,
    OptimizerState,
    RegrowInit,
)
from surgecollapse.functional import ENTROPY, Pattern
from surgecollapse.functional.structured import fitting_pattern
from surgecollapse.observe.monitors import Monitors, make_monitors
from surgecollapse.protocols import Criterion, GradientTransform, Policy, Recorder
from surgecollapse.record import CommandQueue

Masks = Literal["zeros"] | None


@dataclass(frozen=True)
class Target:
    """Which weights are pruned, and how many of them.

    Args:
        sparsity: share of the prunable weights that end at exactly zero, in [0, 1).
        pattern: weights that open and close together: ``N:M``, ``block:RxC`` (as in ``block:4x1``), or ``unit`` (rows
        of the weight: output units, or channels). With ``N:M``, N of every M along the inputs stay, as in ``2:4``, and
            the sparsity is 1 − N/M. Whole groups reach the sparsity only as near as their size allows.
        allocation: how zeros are spread over layers: ``global | layer | erk``.
        min_density: least share of each parameter that stays open; under a pattern, of its blocks or units.
        include: patterns on parameter or module names, or parameters, to prune instead of the default choice.
        exclude: likewise, never to prune.

    Raises:
        ValueError: if an option is out of range or unknown.

    >>> Target(90)
    Traceback (most recent call last):
    ValueError: sparsity must be in [0, 1), got 90. Did you mean 0.9?
    >>> Target(0.5, pattern="2:4").allocation
    'global'
    """

    sparsity: float
    _: KW_ONLY
    pattern: str | None = None
    allocation: Allocation = "global"
    min_density: float = 0.005
    include: Patterns = None
    exclude: Patterns = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_sparsity(self.sparsity)
        one_of("allocation", self.allocation, ALLOCATIONS)
        if not 0.0 <= self.min_density < 1.0:
            raise ValueError(f"min_density must be in [0, 1), got {self.min_density}")
        self.check_room(self.sparsity)

    def check_room(self, sparsity: float) -> None:
        """Check that a sparsity leaves the minimum density, and fits the pattern.

        Raises:
            ValueError: if it does not.
        """
        if 1.0 - sparsity < self.min_density:
            raise ValueError(
                f"sparsity {sparsity:g} leaves less than min_density={self.min_density:g} of the weights: lower one "
                "of them"
            )
        if self.pattern is not None:
            fitting_pattern(self.pattern, sparsity)

    @property
    def tiles(self) -> Pattern | None:
        """The pattern, parsed; ``None``: weights open and close one by one."""
        return None if self.pattern is None else fitting_pattern(self.pattern, self.sparsity)


@dataclass(frozen=True, kw_only=True)
class Updates:
    """How weights are pruned and regrown. ``None`` leaves a choice to the policy.

    Args:
        saliency: what is pruned first: ``magnitude | lamp | taylor | random`` (lowest), or a criterion, or the name of
            one that a package registered under the entry-point group ``surgecollapse.criteria``.
        growth: what is regrown first: ``ema_gradient | gradient | momentum | random``, or a criterion as above;
            if the policy has no choice either, ``ema_gradient``.
        regrow_init: first value of regrown weights: ``zero | noise | last``; else ``zero``.
        noise_energy_budget: bound on injected over live energy; else 0.1.
        optimizer_state: what the optimizer remembers of pruned and regrown weights: ``reset | keep | warmup | ramp``.
            ``reset`` sets moments to zero. ``warmup`` begins second moments at the mean of the open weights. ``ramp``
            gives regrown weights a step count of their own and small first steps (SMET, arXiv 2606.00888).

    Raises:
        ValueError: if an option is out of range or unknown.
        TypeError: if what a package offers as a criterion cannot be called.

    >>> Updates(optimizer_state="forget")
    Traceback (most recent call last):
    ValueError: unknown optimizer_state 'forget': expected one of reset, keep, warmup, ramp. Did you mean 'reset'?
    """

    saliency: str | Criterion = "magnitude"
    growth: str | Criterion | None = None
    regrow_init: RegrowInit | None = None
    noise_energy_budget: float | None = None
    optimizer_state: OptimizerState = "reset"

    def __post_init__(self) -> None:
        """Check the options."""
        criterion_of("saliency", self.saliency)
        criterion_of("growth", self.growth)
        if self.regrow_init is not None:
            one_of("regrow_init", self.regrow_init, REGROW_INIT)
        budget = self.noise_energy_budget
        if budget is not None and not 0.0 <= budget < float("inf"):
            raise ValueError(f"noise_energy_budget must be finite and at least 0, got {budget}")
        one_of("optimizer_state", self.optimizer_state, OPTIMIZER_STATE)

    def resolved(self) -> Updates:
        """The same with the function in place of a criterion's name that a package offers."""
        saliency = criterion_of("saliency", self.saliency)
        assert saliency is not None
        return replace(self, saliency=saliency, growth=criterion_of("growth", self.growth))


@dataclass(frozen=True, kw_only=True)
class Readings:
    """How the state of training is read for the policy.

    Args:
        every: steps between readings.
        rows: samples per reading.
        probe: a batch as the model is called (tensor, tuple of arguments, dict of keyword arguments) for looking at the
            net undisturbed. The default is the first 64 rows of the first training batch.
        sites: patterns on module names to read instead of the activations that follow prunable layers.
        entropy: form of the activation entropy, see :data:`surgecollapse.functional.ENTROPY`, or a function.
        output: the entry of the model's output that holds the class scores, or a function that takes them out, for the
            prediction confidence; default: ``logits`` or its like, else the first tensor of at least two axes.
        confidence: measure the prediction confidence at every reading, also where the policy does not ask for it. It
            costs one pass of the probe batch.

    Raises:
        ValueError: if an option is out of range or unknown.

    >>> Readings(every=0)
    Traceback (most recent call last):
    ValueError: every must be a whole number of steps, at least 1, got 0
    """

    every: int = 50
    rows: int = 128
    probe: Any = None
    sites: Sequence[str] | None = None
    entropy: str | Callable[[Tensor], Tensor] = "renyi2"
    output: str | Callable[[Any], Tensor] | None = None
    confidence: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        if self.every < 1:
            raise ValueError(f"every must be a whole number of steps, at least 1, got {self.every}")
        if self.rows < 2:
            raise ValueError(f"rows must be at least 2, the fewest that have a spread, got {self.rows}")
        if isinstance(self.entropy, str):
            one_of("entropy", self.entropy, tuple(ENTROPY))


@dataclass(frozen=True)
class Monitoring:
    """What is measured beside the readings that decide. Monitors never affect training.

    Args:
        monitors: ``default``, names (see :data:`surgecollapse.observe.monitors.MONITORS`), objects, or a sequence of
            these; measured every ``Readings.every`` steps, or less often where that would cost more than ``budget``.
        budget: most that the monitors may take of the training time; ``None`` keeps their cadence.
        criterion: loss of the model's output and the targets, for monitors that need one.

    Raises:
        ValueError: for an unknown monitor, or a budget out of range.
        TypeError: if something is not a monitor.

    >>> Monitoring(budget=2.0)
    Traceback (most recent call last):
    ValueError: budget must be in (0, 1), a share of the training time, or None; got 2.0
    """

    monitors: Monitors = "default"
    _: KW_ONLY
    budget: float | None = 0.02
    criterion: Callable[[Any, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        make_monitors(self.monitors)
        if self.budget is not None and not 0.0 < self.budget < 1.0:
            raise ValueError(f"budget must be in (0, 1), a share of the training time, or None; got {self.budget}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that :func:`surgecollapse.attach` was told beside the model and the optimizer."""

    target: Target
    total_steps: int | None = None
    policy: str | Policy = "cyclic_pruning"
    updates: Updates = field(default_factory=Updates)
    readings: Readings = field(default_factory=Readings)
    monitoring: Monitoring = field(default_factory=lambda: Monitoring(()))
    transforms: Sequence[GradientTransform] = ()
    recorders: Sequence[Recorder] = ()
    masks: Masks = None
    commands: CommandQueue | str | Path | None = None
    seed: int = 0
    hooks: bool = True
    compile: bool = False
    process_group: Any = None

    def __post_init__(self) -> None:
        """Check what belongs to no group."""
        for name, kind in (("updates", Updates), ("readings", Readings)):
            given = getattr(self, name)
            if not isinstance(given, kind):
                hint = f"{kind.__name__}(every={given})" if kind is Readings and isinstance(given, int) else ""
                raise TypeError(
                    f"{name} must be of the class {kind.__name__}, such as {name}={hint or kind.__name__ + '(…)'}, "
                    f"got {given!r}"
                )
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, or None, got {self.total_steps}")
        if self.masks not in (None, "zeros"):
            raise ValueError(f"unknown masks {self.masks!r}: expected None or 'zeros'")


def check_sparsity(sparsity: float) -> None:
    """Refuse a sparsity that is not a number or is out of range; a percentage is recognized.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not in [0, 1).
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real):
        raise TypeError(f"sparsity must be a number in [0, 1), or a Target, got {sparsity!r}")
    if not 0.0 <= sparsity < 1.0:
        hint = f". Did you mean {sparsity / 100:g}?" if 1.0 < sparsity < 100.0 else ""
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity:g}{hint}")
