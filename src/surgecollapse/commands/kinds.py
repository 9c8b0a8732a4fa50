"""The commands: what each asks for, and from a kind and values to a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Collapse(Command):
    """Close this share of the open weights, the smallest first."""

    kind: ClassVar[str] = "collapse"
    fraction: float = field(metadata={"check": must.number(0.0, 1.0, below=True)})
    layers: tuple[str, ...] = field(default=(), metadata={"check": must.names})
    """Names of parameters, with wildcards; all prunable ones if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surge(Command):
    """Reopen this share of the closed weights."""

    kind: ClassVar[str] = "surge"
    fraction: float = field(metadata={"check": must.share})
    layers: tuple[str, ...] = field(default=(), metadata={"check": must.names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pump(Command):
    """Add input noise of this standard deviation from now on; 0 stops it."""

    kind: ClassVar[str] = "pump"
    noise_std: float = field(metadata={"check": must.number(0.0, 1e3)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSparsity(Command):
    """Aim at another final sparsity."""

    kind: ClassVar[str] = "set-sparsity"
    sparsity: float = field(metadata={"check": must.number(0.0, 1.0, below=True)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetThresholds(Command):
    """Change numeric options of the policy, by name."""

    kind: ClassVar[str] = "set-thresholds"
    values: dict[str, float] = field(metadata={"check": must.numbers})


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate(Command):
    """Multiply the scheduled learning rate by this factor from now on; 1 is the schedule itself."""

    kind: ClassVar[str] = "learning-rate"
    factor: float = field(metadata={"check": must.number(0.0, 1e6)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence(Command):
    """Steps between two events of the monitors."""

    kind: ClassVar[str] = "cadence"
    every: int = field(metadata={"check": must.whole(1)})


@dataclass(frozen=True, slots=True, kw_only=True)
class PausePolicy(Command):
    """The policy decides nothing until it is resumed; training and readings go on."""

    kind: ClassVar[str] = "pause-policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePolicy(Command):
    """The policy decides again."""

    kind: ClassVar[str] = "resume-policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace(Command):
    """Follow the policy's schedule at this multiple of its own pace from now on; 0.5 is half as fast."""

    kind: ClassVar[str] = "pace"
    factor: float = field(metadata={"check": must.number(0.01, 100.0)})


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
    step: int = field(metadata={"check": must.whole(0)})


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
    step: int = field(metadata={"check": must.whole(0)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOptimizer(Command):
    """Set an option of the optimizer, in one group of parameters or in all; ``lr`` rescales the schedule."""

    kind: ClassVar[str] = "set-optimizer"
    option: str = field(metadata={"check": must.option})
    value: float | tuple[float, ...] = field(metadata={"check": must.number_or_numbers})
    group: int | None = field(default=None, metadata={"check": must.or_none(must.whole(0))})
    """Number of the group, counted over all optimizers; all groups if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldSchedule(Command):
    """Keep the learning rate that the schedule has now."""

    kind: ClassVar[str] = "hold-schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSchedule(Command):
    """Follow the schedule again, from where it would be by now."""

    kind: ClassVar[str] = "release-schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceSchedule(Command):
    """Follow another schedule from the present learning rate on: constant, or down to 0."""

    kind: ClassVar[str] = "replace-schedule"
    shape: str = field(metadata={"check": must.one_of("constant", "linear", "cosine")})
    steps: int | None = field(default=None, metadata={"check": must.or_none(must.whole(1))})
    """Steps until the rate is 0; by default those that are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDropout(Command):
    """Set the rate of dropout layers."""

    kind: ClassVar[str] = "set-dropout"
    rate: float = field(metadata={"check": must.number(0.0, 1.0, below=True)})
    layers: tuple[str, ...] = field(default=(), metadata={"check": must.names})
    """Names of modules, with wildcards; all dropout layers if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLoss(Command):
    """Change options of the loss."""

    kind: ClassVar[str] = "set-loss"
    label_smoothing: float | None = field(
        default=None, metadata={"check": must.or_none(must.number(0.0, 1.0, below=True))}
    )
    class_weights: str | None = field(default=None, metadata={"check": must.or_none(must.one_of("none", "balanced"))})


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeLayers(Command):
    """Train these parameters no more; the policy may still close and reopen their weights."""

    kind: ClassVar[str] = "freeze-layers"
    layers: tuple[str, ...] = field(metadata={"check": must.some_names})
    """Names of parameters or modules, with wildcards."""
    units: tuple[int, ...] = field(default=(), metadata={"check": must.units})
    """Numbers of units of modules: their rows of weights and biases alone; all if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfreezeLayers(Command):
    """Train these parameters again."""

    kind: ClassVar[str] = "unfreeze-layers"
    layers: tuple[str, ...] = field(metadata={"check": must.some_names})
    units: tuple[int, ...] = field(default=(), metadata={"check": must.units})
    """Numbers of units; whatever is frozen of these layers if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetLayers(Command):
    """Give these modules new initial weights, and forget what the optimizer knows of them; masks stay."""

    kind: ClassVar[str] = "reset-layers"
    layers: tuple[str, ...] = field(metadata={"check": must.some_names})
    units: tuple[int, ...] = field(default=(), metadata={"check": must.units})
    """Numbers of units: their rows of weights and biases alone; all if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(Command):
    """Measure accuracy and loss on the validation data now; early stopping does not count it."""

    kind: ClassVar[str] = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBatchSize(Command):
    """Take this many samples a step."""

    kind: ClassVar[str] = "set-batch-size"
    size: int = field(metadata={"check": must.whole(1)})


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighSamples(Command):
    """Show these training samples ``weight`` times an epoch, on average; 0 drops them, 1 is as before."""

    kind: ClassVar[str] = "weigh-samples"
    rows: tuple[int, ...] = field(metadata={"check": must.rows})
    weight: float = field(metadata={"check": must.number(0.0, 100.0)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSamples(Command):
    """Show these training samples no more."""

    kind: ClassVar[str] = "drop-samples"
    rows: tuple[int, ...] = field(metadata={"check": must.rows})


@dataclass(frozen=True, slots=True, kw_only=True)
class RelabelSamples(Command):
    """Give these training samples another label."""

    kind: ClassVar[str] = "relabel-samples"
    rows: tuple[int, ...] = field(metadata={"check": must.rows})
    label: int = field(metadata={"check": must.whole(0)})


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSources(Command):
    """Show the samples of these sources ``weight`` times an epoch, on average; 0 drops a source, 1 is as before."""

    kind: ClassVar[str] = "mix-sources"
    weights: dict[str, float] = field(metadata={"check": must.weights})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAugmentation(Command):
    """Augment this share of the training samples; the others come as they are."""

    kind: ClassVar[str] = "set-augmentation"
    share: float = field(metadata={"check": must.number(0.0, 1.0)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSamples(Command):
    """Record the training samples with the greatest loss, as the array ``samples/hardest``."""

    kind: ClassVar[str] = "rank-samples"
    count: int = field(default=50, metadata={"check": must.whole(1)})


COMMANDS: dict[str, type[Command]] = {
    cls.kind: cls
    for cls in (
        Collapse, Surge, Pump, SetSparsity, SetThresholds, LearningRate, Cadence, Pace,
        PausePolicy, ResumePolicy, Pause, Continue, Checkpoint, DeleteCheckpoint, Inspect, Stop, RollBack,
        SetOptimizer, HoldSchedule, ReleaseSchedule, ReplaceSchedule, SetDropout, SetLoss, FreezeLayers, UnfreezeLayers,
        ResetLayers, Evaluate, SetBatchSize, WeighSamples, DropSamples, RelabelSamples, MixSources, SetAugmentation,
        RankSamples,
    )
}  # fmt: skip
"""The commands by kind."""
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
