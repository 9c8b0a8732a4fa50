"""The protocols by which parts are exchanged, and records that hold tensors. No behavior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from surgecollapse.events import Decision, Event, Plan, Reading

    Number = Tensor | float
    Series = Number | Mapping[str, Number] | Mapping[str | None, Number]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitConnection:
    """Where the units of one weight go: what comes into them, what takes them in, and how much they say."""

    incoming: str
    """Canonical name of the weight whose rows make the units."""
    bias: str | None
    """Name of its bias, one entry a unit."""
    outgoing: str
    """Name of the one weight whose columns (dimension 1) take the units in."""
    columns: int
    """Columns of it that belong to one unit: more than one where channels were flattened."""
    scores: Tensor
    """Dormancy of the units, as ``outgoing`` sees them."""


@dataclass(frozen=True, slots=True)
class Dataflow:
    """What a forward pass shows of a model's parameters, by canonical name."""

    outputs: tuple[str, ...] = ()
    """Weights of the layers that produce the output."""
    selectors: tuple[str, ...] = ()
    """Weights of the layers whose output goes into a top-k choice (routers of experts)."""
    weights: tuple[str, ...] = ()
    """Parameters that multiplied activations as a matrix or a kernel."""
    transposed: tuple[str, ...] = ()
    """Those of them that are matrices of inputs by outputs, as in ``x @ weight``."""

    def to_dict(self) -> dict[str, list[str]]:
        """Plain lists, for a checkpoint."""
        return {key: list(getattr(self, key)) for key in ("outputs", "selectors", "weights", "transposed")}

    @staticmethod
    def from_dict(saved: Mapping[str, Sequence[str]]) -> Dataflow:
        """Read what :meth:`to_dict` returned."""
        return Dataflow(**{key: tuple(names) for key, names in saved.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorContext:
    """What a monitor sees: the net just before one optimizer step, when weights, gradients and activations belong
    together. Tensors are the training's own, or share memory with it: nothing here may be written.
    """

    step: int
    """The optimizer step about to be made, from 1."""
    model: nn.Module
    """The unwrapped model, in eval mode; gradient is disabled around a monitor, which may enable it."""
    weights: Mapping[str, Tensor]
    """Trainable parameters by canonical name, a tied one once; for a monitor that rotates, those of its turn."""
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    """Gradients by the same names as the loop leaves them: unscaled, before transforms and masks."""
    live: Mapping[str, float] = field(default_factory=dict)
    """Share of each prunable weight that its mask leaves open; empty without a controller."""
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Masks that hold weights at zero, ones and zeros; a parameter that is fully open has none."""
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    """Site → ``(rows, units)`` on the probe batch: one row a sample, in eval mode; only where ``needs`` says so."""
    outputs: Tensor | None = None
    """First tensor that the model returns for the probe batch; only where ``needs`` says so."""
    scores: Tensor | None = None
    """Class scores ``(rows, classes)`` among what it returns, where it returns any; with ``outputs``. Probabilities are
    given as their logarithms."""
    inputs: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    """Arguments of the model that make the probe batch, on the model's device."""
    targets: Tensor | None = None
    """Labels of the probe batch, where they were noted in the first step."""
    criterion: Callable[[Any, Tensor], Tensor] | None = None
    """Loss of the model's outputs and the targets, where the loop gave it (for curvature)."""
    notes: Mapping[str, Tensor | float] = field(default_factory=dict)
    """Last noted numbers by name: ``loss``, ``validation_loss``."""
    batch_size: int | None = None
    """Samples that one optimizer step sees, as counted in the first step."""
    optimizers: Sequence[Optimizer] = ()
    """Innermost optimizers, in the order in which they step."""


@runtime_checkable
class Monitor(Protocol):
    """Measures something of the net while it trains; changes nothing. Nothing that decides reads it.

    Optional attributes: ``period = n``: only at every n-th event. ``rotates = True``: each event may show it only some
    of the weights and sites, in turn, so that its cost can be bounded. ``first_cost = c``: its first event takes about
    as long as c training steps, and waits until that has been earned (default .15). Optional methods:
    ``prepare(context)``, called one optimizer step before :meth:`measure` (with weights and gradients alone);
    ``state_dict`` and ``load_state_dict``, for what a checkpoint must hold.
    """

    @property
    def name(self) -> str:
        """Under which its cost is accounted."""
        ...

    @property
    def needs(self) -> Sequence[str]:
        """Which costly parts of the context it reads: of ``gradients``, ``activations``, ``outputs``."""
        ...

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Measure without a host sync and without drawing from global generators.

        Returns:
            Series name (``group/name``) → a 0-dim tensor or a number, or a mapping of these by layer, ``None`` being
            the whole net. What is not finite is not recorded.
        """
        ...


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state goes into a checkpoint (``weights_only``-loadable values)."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bitwise resume needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        ...


@runtime_checkable
class Policy(Stateful, Protocol):
    """Decides when to collapse, surge or pump, and how deep. Host numbers only; never sees a tensor.

    Policies are *level-triggered*: :meth:`decide` compares the state that the schedule wants at ``reading.step`` with
    the state it has. So a decision skipped on a non-finite step is made at the next one.

    A policy with an attribute ``from_start = True`` is asked once more, before the first optimizer step. The reading is
    of step 0 and has seen nothing yet (static masks, RigL).

    One with an attribute ``measures = ("prediction_confidence",)`` finds it in its readings, at the cost of one pass of
    the probe batch each.

    One with a method ``earliest(step) -> int | None`` says before which step, greater than ``step``, it will surely not
    act, because of a dwell or a schedule. ``None`` means never again. It is shown, and decides nothing.

    One with an attribute ``last_step: int | None`` says when its mask becomes final. Under the command ``pace`` the
    schedule is slowed no more than lets it end with the run.
    """

    def start(self, plan: Plan) -> None:
        """Learn the plan, once, before the first step. Raises ``ValueError`` if it cannot be followed."""
        ...

    def due(self, step: int) -> bool:
        """Whether a decision is to be made after optimizer step ``step`` (1-based). Pure and cheap."""
        ...

    def decide(self, reading: Reading) -> Decision:
        """Say what to do now, with the reason in words."""
        ...


class Criterion(Protocol):
    """Scores every entry of one parameter; the lowest are pruned (saliency), the highest reopened (growth)."""

    def __call__(self, weight: Tensor, signal: Tensor | None) -> Tensor:
        """Return non-negative scores of the shape of ``weight``; ``signal`` is the criterion's dense gradient."""
        ...


class GradientTransform(Protocol):
    """Changes final gradients in place, once per optimizer step, before masking (Grokfast, OrthoGrad …)."""

    @property
    def stage(self) -> str:
        """``filter``, ``project`` or ``clip``: where it stands in the declared order."""
        ...

    def __call__(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Transform ``grads`` in place; the two sequences correspond, and may leave parameters out."""
        ...

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        """State in lists that correspond to ``params``, ``None`` where a parameter has none."""
        ...

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:
        """Restore what :meth:`state_dict` returned."""
        ...


class Recorder(Protocol):
    """Writes events somewhere. Training with a recorder is bitwise the training without it."""

    def record(self, event: Event) -> None:
        """Take one event; must not block and must not touch tensors."""
        ...
