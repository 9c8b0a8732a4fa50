"""What a person may ask of a run while it trains: typed, checked, and the same from a page, a terminal and Python.

Standard library only. A command says *what*; whether it can be done now, the run decides at its next step boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar

_Check = Callable[[Any], Any]
_LONGEST = 200


def _number(least: float, most: float, *, below: bool = False) -> _Check:
    """A finite number in [least, most], or under ``most``."""

    def check(value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good = good and (abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value))
        if not good or value < least or value > most or (below and value == most):
            end = f"{most:g})" if below or math.isinf(most) else f"{most:g}]"
            raise ValueError(f"a number in [{least:g}, {end}")
        return float(value)

    return check


def _share(value: Any) -> float:
    """A share in (0, 1]."""
    try:
        number = float(_number(0.0, 1.0)(value))
    except ValueError:
        number = 0.0
    if not number:
        raise ValueError("a number in (0, 1]")
    return number


def _whole(least: int) -> _Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return check


def _names(value: Any) -> tuple[str, ...]:
    """Names of parameters, possibly with the wildcards of :mod:`fnmatch`; none for all."""
    wanted = f"a list of names of at most {_LONGEST} characters"
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError(wanted)
    if not all(map(_is_name, value)) or len(value) > _LONGEST:
        raise ValueError(wanted)
    return tuple(value)


def _numbers(value: Any) -> dict[str, float]:
    """Option → number."""
    wanted = "a table of names and numbers"
    if not isinstance(value, Mapping) or not value or len(value) > _LONGEST:
        raise ValueError(wanted)
    if not all(map(_is_name, value)):
        raise ValueError(wanted)
    try:
        return {name: _number(-math.inf, math.inf)(number) for name, number in value.items()}
    except ValueError:
        raise ValueError(wanted) from None


def _is_name(value: Any) -> bool:
    """Whether it is a name of a few characters, none of them a lone surrogate."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and not any(0xD800 <= ord(c) < 0xE000 for c in value)


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 2**200:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:_LONGEST]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Asks a run for something; the subclasses are what can be asked.

    Raises:
        ValueError: if a value is out of its range.
    """

    kind: ClassVar[str] = ""
    """Its name on pages, in the terminal and in the record."""

    def __post_init__(self) -> None:
        """Check every value."""
        for part in fields(self):
            try:
                object.__setattr__(self, part.name, part.metadata["check"](getattr(self, part.name)))
            except ValueError as error:
                got = getattr(self, part.name)
                raise ValueError(f"{self.kind}: {part.name} must be {error}, got {_shown(got)}") from None

    @property
    def body(self) -> dict[str, Any]:
        """Its values, as JSON can hold them.

        >>> Collapse(fraction=0.25, layers=("body.*",)).body
        {'fraction': 0.25, 'layers': ['body.*']}
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collapse(Command):
    """Close this share of the open weights, the smallest first."""

    kind: ClassVar[str] = "collapse"
    fraction: float = field(metadata={"check": _number(0.0, 1.0, below=True)})
    layers: tuple[str, ...] = field(default=(), metadata={"check": _names})
    """Names of parameters, with wildcards; all prunable ones if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surge(Command):
    """Reopen this share of the closed weights."""

    kind: ClassVar[str] = "surge"
    fraction: float = field(metadata={"check": _share})
    layers: tuple[str, ...] = field(default=(), metadata={"check": _names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pump(Command):
    """Add input noise of this standard deviation from now on; 0 stops it."""

    kind: ClassVar[str] = "pump"
    noise_std: float = field(metadata={"check": _number(0.0, 1e3)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSparsity(Command):
    """Aim at another final sparsity."""

    kind: ClassVar[str] = "set-sparsity"
    sparsity: float = field(metadata={"check": _number(0.0, 1.0, below=True)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetThresholds(Command):
    """Change numeric options of the policy, by name."""

    kind: ClassVar[str] = "set-thresholds"
    values: dict[str, float] = field(metadata={"check": _numbers})


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate(Command):
    """Multiply the scheduled learning rate by this factor from now on; 1 is the schedule itself."""

    kind: ClassVar[str] = "learning-rate"
    factor: float = field(metadata={"check": _number(0.0, 1e6)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence(Command):
    """Steps between two events of the monitors."""

    kind: ClassVar[str] = "cadence"
    every: int = field(metadata={"check": _whole(1)})


@dataclass(frozen=True, slots=True, kw_only=True)
class PausePolicy(Command):
    """The policy decides nothing until it is resumed; training and readings go on."""

    kind: ClassVar[str] = "pause-policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePolicy(Command):
    """The policy decides again."""

    kind: ClassVar[str] = "resume-policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Command):
    """Training waits at the next step boundary."""

    kind: ClassVar[str] = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Continue(Command):
    """Training goes on after a pause."""

    kind: ClassVar[str] = "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Command):
    """Write a checkpoint now; it is kept until it is deleted."""

    kind: ClassVar[str] = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteCheckpoint(Command):
    """Delete the checkpoint of this step."""

    kind: ClassVar[str] = "delete-checkpoint"
    step: int = field(metadata={"check": _whole(0)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect(Command):
    """Record histograms of weights, gradients and activations, and the confusion matrix, now."""

    kind: ClassVar[str] = "inspect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Command):
    """End the run here: collapse to the target, test, write the summary."""

    kind: ClassVar[str] = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack(Command):
    """Go back to the checkpoint of this step; what came after it is kept as a branch."""

    kind: ClassVar[str] = "roll-back"
    step: int = field(metadata={"check": _whole(0)})


COMMANDS: dict[str, type[Command]] = {
    cls.kind: cls
    for cls in (
        Collapse, Surge, Pump, SetSparsity, SetThresholds, LearningRate, Cadence,
        PausePolicy, ResumePolicy, Pause, Continue, Checkpoint, DeleteCheckpoint, Inspect, Stop, RollBack,
    )
}  # fmt: skip
"""The commands by kind."""
_RENAMED = {"hold": "pause-policy", "resume": "resume-policy"}
"""Kinds of version 0.1, as old records have them → their names since."""
_RENAMED_VALUES = {("pump", "sigma"): "noise_std"}
"""Kind and value of version 0.1 → the name of the value since."""
READ_ONLY = ("pause", "continue", "checkpoint", "delete-checkpoint", "inspect")
"""Kinds that change nothing that a run computes."""


def command_from(kind: str, body: Mapping[str, Any]) -> Command:
    """Make the command that a page or a record names.

    Raises:
        ValueError: if the kind is unknown, a value is missing, unknown or out of its range.

    >>> command_from("collapse", {"fraction": 0.3})
    Collapse(fraction=0.3, layers=())
    >>> command_from("pause_policy", {}), command_from("hold", {}), command_from("pump", {"sigma": 0.1})
    (PausePolicy(), PausePolicy(), Pump(noise_std=0.1))
    >>> command_from("collapse", {"fractoin": 0.3})
    Traceback (most recent call last):
    ValueError: collapse has no value 'fractoin': expected fraction, layers
    """
    cls = COMMANDS.get(_RENAMED.get(kind, kind).replace("_", "-")) if isinstance(kind, str) else None
    if cls is None:
        shown = _shown(kind)[:60]
        raise ValueError(f"unknown command {shown}: expected one of {', '.join(COMMANDS)}")
    if not isinstance(body, Mapping):
        raise ValueError(f"{kind}: expected its values as a table, got {type(body).__name__}")
    body = {_RENAMED_VALUES.get((cls.kind, name), name): value for name, value in body.items()}
    known = [part.name for part in fields(cls)]
    for name in body:
        if name not in known:
            shown = _shown(name)[:60]
            raise ValueError(f"{kind} has no value {shown}: expected {', '.join(known) or 'none'}")
    for part in fields(cls):
        if part.default is MISSING and part.name not in body:
            raise ValueError(f"{kind} needs {part.name}")
    return cls(**body)
