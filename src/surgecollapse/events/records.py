"""What was planned, seen, done, measured and asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a policy is told once, when it is attached."""

    sparsity: float
    """Target share of the prunable weights that are zero at the end, in [0, 1)."""
    total_steps: int | None
    """Optimizer steps of the whole run; ``None`` when unknown (scheduled policies refuse that)."""
    every: int
    """Steps between two readings that decide anything."""
    seed: int = 0
    """Of the run, for policies that draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReading:
    """What one reading saw at one site (the activations that follow a prunable layer)."""

    layer: str
    """Canonical module name of the site."""
    entropy: float | None
    """Activation entropy in [0, 1]; ``None`` where it is not defined (one unit) or not finite."""
    on_off: float
    """Mean over units of the binary entropy of the share of rows above zero, in bits, in [0, 1]."""
    energy: float
    """Mean squared activation over rows and units."""
    dead: float
    """Share of units that are constant over the rows, in [0, 1]."""
    units: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The state of training at one step, as a policy sees it."""

    step: int
    """Completed optimizer steps."""
    layers: tuple[LayerReading, ...] = ()
    entropy: float | None = None
    """Mean activation entropy over the layers that have one, in [0, 1]."""
    on_off: float | None = None
    """Lowest on/off unit entropy over the layers, in bits."""
    prediction_confidence: float | None = None
    """1 − the normalized entropy of the predictions on the probe batch; only where the policy reads it."""
    target_entropy: float | None = None
    """Shannon entropy of the labels of the batch over ln K, in [0, 1]; only where labels were noted."""
    loss: float | None = None
    """Training loss, only where it was noted."""
    grad_norm: float | None = None
    """Euclidean norm of all gradients that the optimizer saw, before masking."""
    sparsity: float = 0.0
    """Share of the prunable weights that the mask holds at zero."""
    finite: bool = True
    """Whether the gradients, the activations and the loss (where noted) were finite."""
    source: str = "batch"
    """``"batch"``: hooks on the training batch; ``"probe"``: an eager pass of the probe batch; ``"none"``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """What one intervention did to one parameter."""

    name: str
    size: int
    live: int
    """Weights that the mask leaves open afterwards."""
    energy_before: float
    """Squared Euclidean norm of the parameter before."""
    energy_after: float
    energy_injected: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """What was done, when and why, with its energy ledger."""

    step: int
    kind: str
    """``collapse | exchange | surge | recycle | pump | freeze | release | aim | warning | skip | join``."""
    phase: str
    reason: str
    sparsity_before: float
    sparsity_after: float
    pruned: int = 0
    grown: int = 0
    energy_before: float = 0.0
    energy_after: float = 0.0
    energy_injected: float = 0.0
    layers: tuple[LayerChange, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers by name: ``depth``, ``tries``, ``floor``, ``measured``, ``noise_std``, ``energy_fraction`` …;
    ``activation_energy``: site → [before, after], mean squared activation on the probe batch."""

    def __str__(self) -> str:
        counts = f"{self.sparsity_before:.1%} → {self.sparsity_after:.1%} sparse"
        changed = ", ".join(f"{n:,} {what}" for n, what in ((self.pruned, "pruned"), (self.grown, "regrown")) if n)
        return f"step {self.step}: {self.kind} ({counts}{', ' if changed else ''}{changed}): {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number that a monitor or the training loop took."""

    step: int
    name: str
    """Slash-separated, as in ``loss/train`` or ``accuracy/validation``."""
    value: float
    layer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person asked of the run while it trained, and what became of it."""

    step: int
    """Completed optimizer steps when it was settled."""
    kind: str
    """Of the command, see :data:`surgecollapse.commands.COMMANDS`."""
    body: Mapping[str, Any]
    """The command's values."""
    source: str
    """Who asked: ``page``, ``terminal``, ``python``, ``replay`` …"""
    status: str
    """``applied | rejected``."""
    reason: str
    """What was done, or why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What a detector says is about to happen; it may be wrong, at the rate that it was calibrated for."""

    step: int
    """Of the measurement that raised it."""
    detector: str
    reason: str
    """Which number crossed what."""
    forecast: str = "generalizes"
    """``generalizes``, or ``does not generalize``: within the steps of the runs that it was calibrated on."""
