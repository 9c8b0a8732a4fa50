"""IdleExchange: weights that have been of no use for long enough are exchanged, for runs without an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from surgecollapse.events import Decision, Exchange, Reading
from surgecollapse.policies import validation
from surgecollapse.policies.endless_exchange import EndlessExchange
from surgecollapse.policies.registry import policy


@policy("idle_exchange")
@dataclass(frozen=True, kw_only=True, eq=False)
class IdleExchange(EndlessExchange):
    """Weights that have been of no use for ``patience`` steps are exchanged, by counters of each weight.

    Each weight w has a utility u: what setting it to zero would change of the loss, to first order. Its counter c is
    the number of steps since it was last useful. With its gradient g, in every step t::

        u_t = η·u_{t−1} + (1 − η)·|g_t·w_t|
        c_t = c_{t−1} + 1   if u_t ≤ τ · mean_open(u_t),   else 0

    The mean is over the n open weights of the layer. At t = interval, 2 · interval, … those with c ≥ patience are
    exchanged. These are at most drop_fraction · n, the least useful first. As many are regrown among them and the
    closed ones. Each starts afresh: its value, moments, u and c.

    So a weight is at least ``patience`` steps old when it goes. With a sparsity of 0 no place is closed, and weights
    are renewed where they are. Nothing depends on the length of the run, and ``total_steps`` may be ``None``.

    Args:
        interval: as of ``endless_exchange``.
        drop_fraction: greatest share of each layer's open weights that an exchange replaces, in [0, 1].
        patience: steps of uselessness after which a weight goes, at least 1.
        tau: τ, share of the mean utility up to which a weight is useless, at least 0.
        decay: η, in [0, 1).
        regrow: as of ``endless_exchange``.
        regrow_init: first value of a regrown weight: ``noise``, a share of the mean energy of open weights that is the
            controller's ``noise_energy_budget``; or ``zero``.
        allocation: as of ``endless_exchange``.

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan, Reading
    >>> policy = IdleExchange(interval=50)
    >>> policy.start(Plan(sparsity=0.0, total_steps=None, every=50))
    >>> decisions = [policy.decide(Reading(step=step)) for step in (0, 50, 60, 10**6)]
    >>> [[(type(action).__name__, action.idle) for action in decision.actions] for decision in decisions]
    [[], [('Exchange', 500)], [], [('Exchange', 500)]]

    When to use:
        Tasks change and no end is known. Over 200 new tasks, tuned on two seeds, it came next to SNR and UPGD together
        with ``redo``. Where the same tasks came back, ``redo`` did harm (``surgecollapse study plasticity``).

    Cost:
        Eight bytes and about six passes over each weight in every step. No pruning by itself: density is that of the
        target.

    Deviations:
        Continual backprop replaces units, one by one at a rate, by activation times outgoing weights. Selective weight
        reinitialization replaces a fixed share of the weights at each interval. Here what is replaced follows from the
        counters, up to a share. Neither tiles nor sharded weights are supported.

    Source:
        This project, after Dohare et al. 2024, Nature 632, 768 (continual backprop), and Hernandez-Garcia et al. 2025,
        arXiv 2508.00212 (selective weight reinitialization).
    """

    interval: int = 50
    patience: int = 500
    tau: float = 0.1
    decay: float = 0.99
    regrow_init: Literal["zero", "noise"] = "noise"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        validation.whole("patience", self.patience)
        validation.not_negative("tau", self.tau)
        validation.fraction("decay", self.decay)
        if self.decay == 1:
            raise ValueError("decay must be in [0, 1), got 1")

    @property
    def counting(self) -> dict[str, float]:
        """What the controller must count of each weight."""
        return {"decay": self.decay, "tau": self.tau}

    def _act(self, reading: Reading) -> Decision:
        if self._state.phase == "dense" and self._plan.sparsity == 0:
            self._state.last = reading.step
            return Decision(phase="sparse", reason="all weights stay open: the sparsity is 0")
        return super()._act(reading)

    def _exchange(self) -> tuple[Exchange, str]:
        exchange = Exchange(self.drop_fraction, growth=self.regrow, regrow_init=self.regrow_init, idle=self.patience)
        return exchange, f"weights of no use for {self.patience} steps"
