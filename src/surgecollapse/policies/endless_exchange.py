"""EndlessExchange: a fixed density and an exchange of weights at every interval, for runs without an end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from surgecollapse.errors import one_of
from surgecollapse.events import Decision, Exchange, Prune, Reading
from surgecollapse.events.switches import EvenAllocation
from surgecollapse.policies import validation
from surgecollapse.policies.base import BasePolicy, PolicyState
from surgecollapse.policies.registry import policy


@dataclass(slots=True)
class _State(PolicyState):
    last: int = 0
    """Step of the last exchange."""


@policy("endless_exchange")
@dataclass(frozen=True, kw_only=True, eq=False)
class EndlessExchange(BasePolicy):
    """Sparse from the first step; at every interval a share of the weights is exchanged, for as long as training lasts.

    Nothing depends on the length of the run: there is no ramp, no final phase, and ``total_steps`` may be ``None``. In
    each layer of n open weights the k of lowest magnitude are pruned, and k others are regrown::

        k = drop_fraction · n,  at t = interval, 2 · interval, …

    With ``Recycle(over=EndlessExchange())`` dormant units start afresh, too. Level-triggered: an exchange skipped on a
    non-finite step is made up for at the next reading.

    Args:
        interval: steps between two exchanges, at least 1.
        drop_fraction: share of each layer's open weights that an exchange replaces, in [0, 1].
        regrow: criterion by which weights are regrown: ``random`` or ``gradient``.
        regrow_init: first value of a regrown weight: ``zero`` or ``noise``, within the budget of the controller.
        allocation: how the open weights are shared among layers: ``erk`` or ``layer``.

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = EndlessExchange()
    >>> policy.start(Plan(sparsity=0.5, total_steps=None, every=50))
    >>> decisions = [policy.decide(Reading(step=step)) for step in (0, 50, 100, 10**6)]
    >>> [[type(action).__name__ for action in decision.actions] for decision in decisions]
    [['Prune'], [], ['Exchange'], ['Exchange']]

    When to use:
        A constant density without a planned end. It does not keep a network plastic: over 200 tasks, tuned on two
        seeds, it was below plain training, and above with ``redo`` (``surgecollapse study plasticity``).

    Cost:
        Training density equals the target's. No dense gradients with ``regrow="random"``.

    Deviations:
        SET without an end: Mocanu et al. exchange at each epoch of a fixed number, 30% of the weights by default.

    Source:
        This project, after Mocanu et al. 2018, arXiv 1707.04780 (SET).
    """

    interval: int = 100
    drop_fraction: float = 0.1
    regrow: Literal["random", "gradient"] = "random"
    regrow_init: Literal["zero", "noise"] = "zero"
    allocation: EvenAllocation = "layer"
    from_start: ClassVar[bool] = True
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        validation.whole("interval", self.interval)
        validation.fraction("drop_fraction", self.drop_fraction)
        one_of("regrow", self.regrow, ("random", "gradient"))
        one_of("regrow_init", self.regrow_init, ("zero", "noise"))
        one_of("allocation", self.allocation, get_args(EvenAllocation))

    @property
    def growth(self) -> str:
        """What the controller must track: nothing, for random growth."""
        return self.regrow

    def due(self, step: int) -> bool:
        """Whether ``step`` is a reading or a multiple of ``interval``."""
        return super().due(step) or (step > 0 and step % self.interval == 0)

    def _act(self, reading: Reading) -> Decision:
        state, step, sparsity = self._state, reading.step, self._plan.sparsity
        if state.phase == "dense":
            state.last = step
            reason = f"a random mask of sparsity {sparsity:.4g} ({self.allocation}) at step {step}"
            prune = Prune(sparsity, saliency="random", allocation=self.allocation)
            return Decision(phase="sparse", reason=reason, actions=(prune,))
        if step // self.interval <= state.last // self.interval:
            return Decision(phase="sparse", reason=f"no exchange at step {step}: every {self.interval} steps")
        state.last = step
        exchange, what = self._exchange()
        return Decision(phase="sparse", reason=f"{what} exchanged at step {step}", actions=(exchange,))

    def _exchange(self) -> tuple[Exchange, str]:
        """What is done at an interval, and what is exchanged, in words."""
        exchange = Exchange(self.drop_fraction, saliency="magnitude", growth=self.regrow, regrow_init=self.regrow_init)
        return exchange, f"{self.drop_fraction:.3g} of each layer's open weights"
