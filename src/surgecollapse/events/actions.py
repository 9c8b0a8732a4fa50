"""What a policy may want done, and the decision that asks for it."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Prune:
    """Close the least salient weights until the net has a sparsity (a *collapse*).

    Raises:
        ValueError: if the sparsity is out of range.

    >>> Prune(0.9).range, Prune((0.9, 0.95), floor=0.4).range
    ((0.9, 0.9), (0.9, 0.95))
    """

    sparsity: float | tuple[float, float]
    """To prune to, in [0, 1); ``(least, most)`` lets the controller go as deep as ``floor`` allows."""
    _: KW_ONLY
    floor: float | None = None
    """Lowest value of ``measure`` on the probe batch that a sparsity above ``least`` may leave."""
    measure: str = "on_off"
    """What ``floor`` bounds: an attribute of :class:`Reading`, or ``prediction_confidence`` (1 − the normalized entropy
    of the predictions)."""
    allocation: str | None = None
    """How zeros spread over layers: ``global | layer | erk``; ``None`` takes the controller's."""
    saliency: str | None = None
    """Which weights go first: ``magnitude | lamp | taylor | random``; ``None`` takes the controller's."""
    layers: tuple[str, ...] = ()
    """Names of parameters, with the wildcards of :mod:`fnmatch`, to which pruning and ``sparsity`` are confined; all
    prunable ones if empty."""
    scope: str = "prunable"
    """``prunable``, or ``all``: every floating-point parameter, biases and norms too (the fixed-interval rule)."""
    keep_mask: bool = True
    """Whether a mask keeps the zeros; ``False`` only writes zeros once (the fixed-interval rule)."""
    keep_values: bool = False
    """Whether the pruned values are remembered, for a later :class:`Regrow` with ``regrow_init="last"``."""

    def __post_init__(self) -> None:
        """Check the sparsity."""
        least, most = self.range
        if not 0.0 <= least <= most < 1.0:
            raise ValueError(f"Prune takes a sparsity in [0, 1), or (least, most) of two, got {self.sparsity}")

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest sparsity."""
        return self.sparsity if isinstance(self.sparsity, tuple) else (self.sparsity, self.sparsity)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Close the least salient open weights of each parameter and regrow as many others.

    The density of every parameter stays exactly what it is (under a pattern, the number of its open groups).

    Raises:
        ValueError: if the fraction is out of range.
    """

    fraction: float
    """Share of each parameter's open weights that is exchanged, in [0, 1]."""
    _: KW_ONLY
    saliency: str | None = None
    """Which weights go first; ``None`` takes the controller's."""
    growth: str | None = None
    """Criterion by which weights are regrown: ``random | gradient | ema_gradient | momentum``; ``None`` takes the
    controller's."""
    regrow_init: str | None = None
    """First value of a regrown weight: ``zero | noise | last``; ``None`` takes the controller's."""
    noise_energy_budget: float | None = None
    """Bound on injected over live energy; ``None`` takes the controller's."""
    idle: int | None = None
    """Exchange only weights that have been useless for so many steps, at most ``fraction`` of the open ones, the least
    useful first; the policy's ``counting`` says what useless is. What is opened again starts afresh, too. Noise then
    has the budget's share of the mean energy of an open weight. ``None``: ``saliency`` alone chooses."""

    def __post_init__(self) -> None:
        """Check the fraction, and the number of steps."""
        _check_fraction("Exchange", "fraction of the open weights", self.fraction)
        if self.idle is not None and self.idle < 1:
            raise ValueError(f"Exchange takes idle = None or at least 1 step, got {self.idle}")


@dataclass(frozen=True, slots=True)
class Regrow:
    """Reopen a share of the closed weights (a *surge*).

    Raises:
        ValueError: if the fraction is out of range.
    """

    fraction: float
    """Share of the weights of ``source`` that is reopened, in [0, 1]."""
    _: KW_ONLY
    source: str = "pruned"
    """Out of which: ``pruned`` (all masked), ``collapsed`` (what this very decision pruned), ``zeros`` (every exact
    zero in ``scope`` that no mask keeps, the fixed-interval rule)."""
    growth: str | None = None
    """As of :class:`Exchange`."""
    regrow_init: str | None = None
    """As of :class:`Exchange`; for ``last`` the :class:`Prune` must have said ``keep_values``."""
    noise_energy_budget: float | None = None
    """As of :class:`Exchange`."""
    noise_std: float | None = None
    """Absolute standard deviation of the noise, not bounded by the budget (the fixed-interval rule's recovery)."""
    layers: tuple[str, ...] = ()
    """As of :class:`Prune`."""
    scope: str = "prunable"
    """As of :class:`Prune`."""

    def __post_init__(self) -> None:
        """Check the fraction."""
        _check_fraction("Regrow", "fraction of the closed weights", self.fraction)


@dataclass(frozen=True, slots=True)
class Recycle:
    """Give dormant units new incoming weights, and zeros as their outgoing ones (ReDo).

    Raises:
        ValueError: if the dormancy is negative.
    """

    dormancy: float
    """Greatest dormancy of a unit that is recycled, at least 0."""

    def __post_init__(self) -> None:
        """Check the dormancy."""
        if not self.dormancy >= 0.0:
            raise ValueError(f"Recycle takes a dormancy of at least 0, got {self.dormancy}")


@dataclass(frozen=True, slots=True)
class SetNoise:
    """Add noise to the inputs from now on (the *entropy pump*).

    Raises:
        ValueError: if the standard deviation is negative or not finite.
    """

    std: float
    """Standard deviation, at least 0; 0 stops the noise."""

    def __post_init__(self) -> None:
        """Check the standard deviation."""
        if not 0.0 <= self.std < math.inf:
            raise ValueError(f"SetNoise takes a standard deviation that is finite and at least 0, got {self.std}")


@dataclass(frozen=True, slots=True)
class Threshold:
    """Close weights under a soft threshold, while they go on learning in a shadow copy.

    From then on the optimizer steps the shadow w, until another action writes masks or the mask is frozen. The model
    has the thresholded weights v = s·soft(w; t) (see :func:`surgecollapse.functional.soft_threshold`). A closed weight
    whose shadow grows comes back by itself.

    Raises:
        ValueError: if an option is out of range.
    """

    sparsity: float
    """To reach, in [0, 1), from the present one in a straight line."""
    _: KW_ONLY
    over: int = 0
    """Optimizer steps until it is reached; 0: now."""
    every: int = 1
    """Steps after which the open weights, the threshold and the scale are taken anew; at readings they always are."""
    p: float = 1.0
    """Exponent of the threshold: 0 is hard, 1 soft."""
    theta: float = 1.0
    """Factor of the gradient of closed weights, in [0, 1]."""
    rescale: bool | str = True
    """Whether each weight's open entries get back the magnitude Σ|w| that the threshold took; ``channel``: each row is
    scaled as in ST-3 (see :func:`surgecollapse.functional.channel_scale`)."""
    allocation: str | None = None
    """As of :class:`Prune`."""
    saliency: str | None = None
    """Which weights are closed first, judged by their shadow: ``magnitude | lamp``; ``None`` takes the controller's."""

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0.0 <= self.sparsity < 1.0:
            raise ValueError(f"Threshold takes a sparsity in [0, 1), got {self.sparsity}")
        if self.over < 0 or self.every < 1:
            raise ValueError(f"Threshold takes over >= 0 and every >= 1 steps, got {self.over} and {self.every}")
        if self.p != 0 and not 1.0 <= self.p < math.inf:
            raise ValueError(f"Threshold takes p = 0 or p >= 1, got {self.p}")
        _check_fraction("Threshold", "factor theta of the gradient of closed weights", self.theta)
        if self.rescale not in (True, False, "channel"):
            raise ValueError(f"Threshold takes rescale = True, False or 'channel', got {self.rescale!r}")


@dataclass(frozen=True, slots=True)
class Aim:
    """Make another sparsity the target of the run, at which it ends.

    Raises:
        ValueError: if the sparsity is out of range.
    """

    sparsity: float
    """In [0, 1)."""

    def __post_init__(self) -> None:
        """Check the sparsity."""
        if not 0.0 <= self.sparsity < 1.0:
            raise ValueError(f"Aim takes a sparsity in [0, 1), got {self.sparsity}")


@dataclass(frozen=True, slots=True)
class Warn:
    """Record an event ``warning``, and warn the caller; of the same matter once in a run."""

    message: str
    """What is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """Make the mask final from now on."""


Action = Prune | Exchange | Regrow | Recycle | Threshold | SetNoise | Aim | Warn | Freeze
"""One thing to do; carried out by :class:`surgecollapse.act.actor.Actor`."""
AnyAction = TypeVar("AnyAction", bound=Action)


def _check_fraction(action: str, what: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{action} takes a {what} in [0, 1], got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a policy wants done now, and why.

    The actions are carried out in the order given; policies write prune, exchange, regrow, recycle, threshold, noise,
    aim, freeze.

    >>> decision = Decision(phase="frozen", reason="the end", actions=(Prune(0.9), Freeze()))
    >>> decision.find(Prune), decision.find(Regrow)
    (Prune(sparsity=0.9, floor=None, ...), None)
    """

    phase: str
    """The state that training is in after this decision: ``dense | sparse | open | pump | frozen``."""
    reason: str
    """Why, in words that a person understands without the code."""
    actions: tuple[Action, ...] = ()
    """What to do, in this order; empty for nothing."""
    eligible: int | None = None
    """First step at which the policy may act again, as the controller records it; ``None``: never, or unknown."""
    step: int | None = None
    """Completed optimizer steps, as the controller records it; a policy leaves it ``None``."""

    @property
    def acts(self) -> bool:
        """Whether anything is to be done at all."""
        return bool(self.actions)

    def find(self, kind: type[AnyAction]) -> AnyAction | None:
        """The first action of a class; ``None`` if there is none.

        Args:
            kind: one of the classes of :data:`Action`.
        """
        return next((action for action in self.actions if isinstance(action, kind)), None)
