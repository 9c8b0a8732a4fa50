"""The records that flow through the loop observe → decide → act → record.

Frozen dataclasses of host numbers and strings: no tensors, no behaviour beyond (de)serialisation, and nothing but
the standard library. ``to_dict`` and ``from_dict`` are the one wire format (run store, checkpoints, pages).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

EVENT_VERSION = 1
"""Version of the wire format; written beside every event."""


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
class Decision:
    """What a policy wants done now, and why.

    Carried out in the order collapse → rewire → surge → recycle → pump → freeze.
    """

    phase: str
    """The state that training is in after this decision: ``dense | sparse | open | pump | hold | frozen``."""
    reason: str
    """Why, in words that a person understands without the code."""
    depth: float | tuple[float, float] | None = None
    """Sparsity to collapse to; ``(least, most)`` lets the controller go as deep as ``floor`` allows."""
    floor: float | None = None
    """Lowest value of ``measure`` on the probe batch that a deeper collapse may leave."""
    measure: str = "on_off"
    """What ``floor`` bounds: an attribute of :class:`Reading`, or ``prediction_confidence``: 1 − entropy of the
    predictions."""
    distribution: str | None = None
    """How zeros spread over layers: ``global | layer | erk``; ``None`` takes the controller's."""
    scope: str = "prunable"
    """``prunable``, or ``all``: every floating-point parameter, biases and norms too (the classic rule)."""
    held: bool = True
    """Whether the zeros are kept by a mask; ``False`` only writes zeros once (the classic rule)."""
    saliency: str | None = None
    """Which weights are closed first: ``magnitude | lamp | taylor | random``; ``None`` takes the controller's."""
    rewire: float | None = None
    """Share of each parameter's open weights, in [0, 1], that is exchanged: the least salient are closed and as many
    others reopened by ``growth``, so that the density of every parameter stays exactly what it is (under a pattern,
    the number of its open groups)."""
    surge: float | None = None
    """Share of the closed weights to reopen, in [0, 1]."""
    reopen: str = "pruned"
    """Out of which: ``pruned`` (all masked), ``collapsed`` (what this very decision pruned), ``zeros`` (every
    exact zero in ``scope``, the classic rule)."""
    growth: str | None = None
    """Criterion by which weights are reopened: ``random | gradient | ema_gradient | momentum``; ``None`` takes
    the controller's."""
    initial: str | None = None
    """First value of a reopened weight: ``zero | noise | last``; ``None`` takes the controller's. For ``last`` the
    collapse must say so too, since only then are the values kept."""
    rho: float | None = None
    """Bound on injected over live energy; ``None`` takes the controller's."""
    sigma: float | None = None
    """Absolute standard deviation of the noise, not bounded by ``rho`` (the classic rule's recovery factor)."""
    layers: tuple[str, ...] = ()
    """Names of parameters, with the wildcards of :mod:`fnmatch`, to which the collapse and the surge are confined;
    ``depth`` and ``surge`` are then shares of these alone. All prunable ones if empty."""
    recycle: float | None = None
    """Units of at most this dormancy get new incoming weights, and zeros as their outgoing ones (ReDo)."""
    pump: float | None = None
    """Standard deviation of the input noise from now on; ``None`` leaves it, ``0.0`` stops it."""
    freeze: bool = False
    """Whether the mask is final from now on."""
    eligible: int | None = None
    """First step at which the policy may act again, as the controller records it; ``None``: never, or unknown."""

    @property
    def acts(self) -> bool:
        """Whether anything is to be done at all."""
        wanted = (self.depth, self.rewire, self.surge, self.recycle, self.pump)
        return self.freeze or any(part is not None for part in wanted)


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
    """``collapse | rewire | surge | recycle | pump | freeze | skip | join``."""
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
    """Further numbers by name: ``depth``, ``tries``, ``floor``, ``measured``, ``sigma``, ``rho`` …;
    ``activation_energy``: site → [before, after], mean squared activation on the probe batch."""


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
    forecast: str = "generalises"
    """``generalises``, or ``does not generalise``: within the steps of the runs that it was calibrated on."""


Event = Reading | Decision | Intervention | Measurement | Request | Alarm
_KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (Plan, LayerReading, Reading, Decision, LayerChange, Intervention, Measurement, Request, Alarm)
}
_NESTED = {("Reading", "layers"): LayerReading, ("Intervention", "layers"): LayerChange}


def plain(value: Any, *, levels: int = 64) -> Any:
    """The same as JSON can hold it: NumPy and torch values, tuples, tables and dataclasses become plain ones.

    Args:
        value: numbers, text, and containers of these.
        levels: how deep it may be nested.

    Raises:
        ValueError: if it is nested deeper, or holds what JSON cannot.

    >>> plain({"widths": (8, 8), 3: None})
    {'widths': [8, 8], '3': None}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if levels == 0:
        raise ValueError("cannot be recorded: expected values that are nested at most 64 deep")
    if isinstance(value, Mapping):
        return {str(key): plain(part, levels=levels - 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, levels=levels - 1) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name), levels=levels - 1) for part in fields(value)}
    if hasattr(value, "tolist"):
        return plain(value.tolist(), levels=levels - 1)
    raise ValueError(f"cannot be recorded: expected numbers, text, lists and tables, got {type(value).__name__}")


def to_dict(event: Any) -> dict[str, Any]:
    """Turn an event into plain JSON-ready values, with its kind and version.

    Raises:
        ValueError: if it holds what JSON cannot.

    >>> to_dict(Measurement(step=3, name="loss/train", value=0.5))["kind"]
    'Measurement'
    """
    return {"kind": type(event).__name__, "version": EVENT_VERSION, "event": plain(event)}


def from_dict(data: Mapping[str, Any]) -> Any:
    """Rebuild the event that :func:`to_dict` wrote.

    Fields that this version does not know are dropped, so that an older reader can open a newer record.

    Raises:
        ValueError: if the kind is unknown, the version is newer than this library's, or a value is of another type.

    >>> event = Measurement(step=3, name="loss/train", value=0.5)
    >>> from_dict(to_dict(event)) == event
    True
    """
    kind, version, body = data.get("kind"), data.get("version", 0), data.get("event")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"unknown event kind {kind!r}: expected one of {', '.join(_KINDS)}")
    if not isinstance(version, int) or not isinstance(body, Mapping):
        raise ValueError(f"damaged event of kind {kind}: expected a version and a table of values")
    if version > EVENT_VERSION:
        raise ValueError(f"event version {version} is newer than {EVENT_VERSION}: update surgecollapse to read it")
    return _build(_KINDS[kind], body)


def _build(cls: type, body: Mapping[str, Any]) -> Any:
    """One record of a class, each value of the type that the class says."""
    if not isinstance(body, Mapping):
        raise ValueError(f"damaged {cls.__name__}: expected a table of values, got {type(body).__name__}")
    hints, values = _hints(cls), {}
    for name, hint in hints.items():
        if name not in body:
            continue
        value = body[name]
        if isinstance(value, list):
            part = _NESTED.get((cls.__name__, name))
            value = tuple(_build(part, item) for item in value) if part else tuple(value)
        if not _fits(value, hint):
            raise ValueError(f"damaged {cls.__name__}: {name} is {str(value)[:60]!r}, expected {hint}")
        values[name] = value
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"damaged {cls.__name__}: {error}") from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        same = parts[1:] == (...,)
        wanted = parts[:1] * len(value) if same and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if origin is not None:
        return isinstance(value, origin)
    if isinstance(value, bool):
        return hint is bool
    if hint is int:
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, int | float if hint is float else hint)
