"""The commands: what each asks for, and from a kind and values to a command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar, dataclass_transform

from surgecollapse.commands import values as must


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
                raise ValueError(f"{self.kind}: {part.name} must be {error}, got {must.shown(got)}") from None

    @property
    def body(self) -> dict[str, Any]:
        """Its values, as JSON can hold them.

        >>> Collapse(fraction=0.25, layers=("body.*",)).body
        {'fraction': 0.25, 'layers': ['body.*']}
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


Kind = TypeVar("Kind", bound=Command)
COMMANDS: dict[str, type[Command]] = {}
"""The commands by kind."""


def _value(check: Callable[[Any], Any], *, default: Any = MISSING) -> Any:
    """A value of a command, and what checks it."""
    return field(default=default, metadata={"check": check})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(_value,))
def _command(cls: type[Kind]) -> type[Kind]:
    """Make a class a command, whose kind is its name: ``SetBatchSize`` is ``set-batch-size``."""
    cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()
    made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    COMMANDS[cls.kind] = made
    return made


@_command
class Collapse(Command):
    """Close this share of the open weights, the smallest first."""

    fraction: float = _value(must.number(0.0, 1.0, below=True))
    layers: tuple[str, ...] = _value(must.names, default=())
    """Names of parameters, with wildcards; all prunable ones if empty."""


@_command
class Surge(Command):
    """Reopen this share of the closed weights."""

    fraction: float = _value(must.share)
    layers: tuple[str, ...] = _value(must.names, default=())


@_command
class Pump(Command):
    """Add input noise of this standard deviation from now on; 0 stops it."""

    noise_std: float = _value(must.number(0.0, 1e3))


@_command
class SetSparsity(Command):
    """Aim at another final sparsity."""

    sparsity: float = _value(must.number(0.0, 1.0, below=True))


@_command
class SetThresholds(Command):
    """Change numeric options of the policy, by name."""

    values: dict[str, float] = _value(must.numbers)


@_command
class LearningRate(Command):
    """Multiply the scheduled learning rate by this factor from now on; 1 is the schedule itself."""

    factor: float = _value(must.number(0.0, 1e6))


@_command
class Cadence(Command):
    """Steps between two events of the monitors."""

    every: int = _value(must.whole(1))


@_command
class Pace(Command):
    """Follow the policy's schedule at this multiple of its own pace from now on; 0.5 is half as fast."""

    factor: float = _value(must.number(0.01, 100.0))


@_command
class PausePolicy(Command):
    """The policy decides nothing until it is resumed; training and readings go on."""


@_command
class ResumePolicy(Command):
    """The policy decides again."""


@_command
class Pause(Command):
    """Training waits at the next step boundary."""


@_command
class Continue(Command):
    """Training goes on after a pause."""


@_command
class Checkpoint(Command):
    """Write a checkpoint now; it is kept until it is deleted."""


@_command
class DeleteCheckpoint(Command):
    """Delete the checkpoint of this step."""

    step: int = _value(must.whole(0))


@_command
class Inspect(Command):
    """Record histograms of weights, gradients and activations, and the confusion matrix, now."""


@_command
class Stop(Command):
    """End the run here: collapse to the target, test, write the summary."""


@_command
class RollBack(Command):
    """Go back to the checkpoint of this step; what came after it is kept as a branch."""

    step: int = _value(must.whole(0))


@_command
class SetOptimizer(Command):
    """Set an option of the optimizer, in one group of parameters or in all; ``lr`` rescales the schedule."""

    option: str = _value(must.option)
    value: float | tuple[float, ...] = _value(must.number_or_numbers)
    group: int | None = _value(must.or_none(must.whole(0)), default=None)
    """Number of the group, counted over all optimizers; all groups if there is none."""


@_command
class HoldSchedule(Command):
    """Keep the learning rate that the schedule has now."""


@_command
class ReleaseSchedule(Command):
    """Follow the schedule again, from where it would be by now."""


@_command
class ReplaceSchedule(Command):
    """Follow another schedule from the present learning rate on: constant, or down to 0."""

    shape: str = _value(must.one_of("constant", "linear", "cosine"))
    steps: int | None = _value(must.or_none(must.whole(1)), default=None)
    """Steps until the rate is 0; by default those that are left."""


@_command
class SetDropout(Command):
    """Set the rate of dropout layers."""

    rate: float = _value(must.number(0.0, 1.0, below=True))
    layers: tuple[str, ...] = _value(must.names, default=())
    """Names of modules, with wildcards; all dropout layers if empty."""


@_command
class SetLoss(Command):
    """Change options of the loss."""

    label_smoothing: float | None = _value(must.or_none(must.number(0.0, 1.0, below=True)), default=None)
    class_weights: str | None = _value(must.or_none(must.one_of("none", "balanced")), default=None)


@_command
class FreezeLayers(Command):
    """Train these parameters no more; the policy may still close and reopen their weights."""

    layers: tuple[str, ...] = _value(must.some_names)
    """Names of parameters or modules, with wildcards."""
    units: tuple[int, ...] = _value(must.units, default=())
    """Numbers of units of modules: their rows of weights and biases alone; all if empty."""


@_command
class UnfreezeLayers(Command):
    """Train these parameters again."""

    layers: tuple[str, ...] = _value(must.some_names)
    units: tuple[int, ...] = _value(must.units, default=())
    """Numbers of units; whatever is frozen of these layers if empty."""


@_command
class ResetLayers(Command):
    """Give these modules new initial weights, and forget what the optimizer knows of them; masks stay."""

    layers: tuple[str, ...] = _value(must.some_names)
    units: tuple[int, ...] = _value(must.units, default=())
    """Numbers of units: their rows of weights and biases alone; all if empty."""


@_command
class Evaluate(Command):
    """Measure accuracy and loss on the validation data now; early stopping does not count it."""


@_command
class SetBatchSize(Command):
    """Take this many samples a step."""

    size: int = _value(must.whole(1))


@_command
class WeighSamples(Command):
    """Show these training samples ``weight`` times an epoch, on average; 0 drops them, 1 is as before."""

    rows: tuple[int, ...] = _value(must.rows)
    weight: float = _value(must.number(0.0, 100.0))


@_command
class DropSamples(Command):
    """Show these training samples no more."""

    rows: tuple[int, ...] = _value(must.rows)


@_command
class RelabelSamples(Command):
    """Give these training samples another label."""

    rows: tuple[int, ...] = _value(must.rows)
    label: int = _value(must.whole(0))


@_command
class MixSources(Command):
    """Show the samples of these sources ``weight`` times an epoch, on average; 0 drops a source, 1 is as before."""

    weights: dict[str, float] = _value(must.weights)


@_command
class SetAugmentation(Command):
    """Augment this share of the training samples; the others come as they are."""

    share: float = _value(must.number(0.0, 1.0))


@_command
class RankSamples(Command):
    """Record the training samples with the greatest loss, as the array ``samples/hardest``."""

    count: int = _value(must.whole(1), default=50)


_RENAMED = {"hold": "pause-policy", "resume": "resume-policy"}
"""Kinds of version 0.1, as old records have them → their names since."""
_RENAMED_VALUES = {("pump", "sigma"): "noise_std"}
"""Kind and value of version 0.1 → the name of the value since."""
READ_ONLY = ("pause", "continue", "checkpoint", "delete-checkpoint", "inspect", "evaluate", "rank-samples")
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
        shown = must.shown(kind)[:60]
        raise ValueError(f"unknown command {shown}: expected one of {', '.join(COMMANDS)}")
    if not isinstance(body, Mapping):
        raise ValueError(f"{kind}: expected its values as a table, got {type(body).__name__}")
    body = {_RENAMED_VALUES.get((cls.kind, name), name): value for name, value in body.items()}
    known = [part.name for part in fields(cls)]
    for name in body:
        if name not in known:
            shown = must.shown(name)[:60]
            raise ValueError(f"{kind} has no value {shown}: expected {', '.join(known) or 'none'}")
    for part in fields(cls):
        if part.default is MISSING and part.name not in body:
            raise ValueError(f"{kind} needs {part.name}")
    return cls(**body)
