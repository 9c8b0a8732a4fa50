"""CyclicPruning: gradual collapses with surges between them, each as deep as activation entropy allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation as guards
from surgecollapse.policies.base import ScheduledPolicy
from surgecollapse.policies.signals import DEPTH_MEASURES


@dataclass(slots=True)
class _Wave:
    """Where training is in its waves."""

    index: int = -1
    """Of the wave; −1 before the first."""
    start: float = 0.0
    """Sparsity that the surge before it left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CyclicPruning(ScheduledPolicy):
    """Collapse gradually, surge, collapse again: gradual pruning several times over, each time from half open.

    Wave k = 0 … ``waves`` − 1 begins at the fraction b_k of the run; the first at ``dense_until``, the last at
    ``last_wave_at``, the others evenly in between. Within a wave the sparsity follows the cubic schedule of gradual
    pruning (Zhu and Gupta 2017, arXiv 1710.01878) from s_k, what the surge left, to d, its depth::

        s(t) = s_k + (d − s_k)·(1 − (1 − u)³),    u = (t − b_k·T)/((e_k − b_k)·T)

    It ends at e_k: ``rest`` before the next one begins, so that the net can settle; the last at ``freeze_at``, with the
    exact target and the final mask. At the beginning of every wave but the first a *surge* reopens ``surge`` of the
    pruned weights, at zero, by |EMA of the dense gradient|. The depth d of the last wave is the target; that of the
    others lies between the target and ``thinnest`` of its density: the controller goes as deep as leaves the
    ``measure`` of the probe batch at ``floor`` or above; by default that is how certain the predictions are. With
    ``floor=1`` it stays at the target, with ``floor=0`` it always goes to ``thinnest``.

    AC/DC (arXiv 2106.12379) alternates too, but collapses at once and reopens everything; one wave is gradual pruning.

    Args:
        dense_until: fraction of the run before the first wave, in (0, 1).
        waves: how many, at least 1.
        last_wave_at: fraction at which the last one begins, in (dense_until, freeze_at); unused with one wave.
        freeze_at: fraction at which the mask is frozen, at most 1.
        rest: fraction of the run between the end of a wave and the next surge, in [0, 1).
        surge: share of the pruned weights that a surge reopens, in (0, 1].
        thinnest: least density of the waves before the last, as a share of the target's density, in (0, 1].
        floor: lowest value of ``measure`` that counts as enough (bits for ``on_off``), in [0, 1].
        measure: ``prediction_confidence`` (1 − the normalized entropy of the predictions on the probe batch),
            ``on_off`` (lowest on/off unit entropy over layers) or ``entropy`` (mean activation entropy).

    Raises:
        ValueError: if an option is out of range, or a wave would be no longer than its rest.

    >>> policy = CyclicPruning(waves=2, floor=0.0)
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=5))
    >>> made, sparsity = {}, 0.0
    >>> for step in filter(policy.due, range(101)):
    ...     decision = made[step] = policy.decide(Reading(step=step, sparsity=sparsity))
    ...     if decision.depth is not None:
    ...         sparsity = decision.depth[1] if isinstance(decision.depth, tuple) else decision.depth
    ...     elif decision.surge is not None:
    ...         sparsity *= 1 - decision.surge
    >>> round(made[43].depth[1], 3), made[45].surge, round(made[75].depth, 3), made[75].freeze
    (0.98, 0.5, 0.8, True)
    """

    dense_until: float = 0.05
    waves: int = 4
    last_wave_at: float = 0.5
    freeze_at: float = 0.75
    rest: float = 0.025
    surge: float = 0.35
    thinnest: float = 0.1
    floor: float = 0.6
    measure: str = "prediction_confidence"
    growth: ClassVar[str] = "ema_gradient"
    _wave: _Wave = field(default_factory=_Wave, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        guards.fraction("dense_until", self.dense_until, zero=False, one=False)
        guards.whole("waves", self.waves)
        guards.fraction("last_wave_at", self.last_wave_at, zero=False, one=False)
        guards.fraction("freeze_at", self.freeze_at, zero=False)
        guards.fraction("rest", self.rest, one=False)
        guards.fraction("surge", self.surge, zero=False)
        guards.fraction("thinnest", self.thinnest, zero=False)
        guards.fraction("floor", self.floor)
        guards.one_of("measure", self.measure, DEPTH_MEASURES)
        if not self.dense_until < self.last_wave_at < self.freeze_at:
            raise ValueError(
                "expected dense_until < last_wave_at < freeze_at, got "
                f"{self.dense_until!r}, {self.last_wave_at!r}, {self.freeze_at!r}"
            )
        if self.waves > 1 and not self.rest < self._length:
            raise ValueError(
                f"rest={self.rest!r} leaves nothing of a wave: {self.waves} waves are {self._length:.4g} of the run "
                "long; give a shorter rest or fewer waves"
            )

    @property
    def _length(self) -> float:
        """Of a wave with its rest, the last aside, as a fraction of the run."""
        return (self.last_wave_at - self.dense_until) / (self.waves - 1) if self.waves > 1 else 0.0

    def _begins(self) -> tuple[float, ...]:
        """Fractions of the run at which the waves begin."""
        return tuple(self.dense_until + k * self._length for k in range(self.waves))

    def _ends(self) -> tuple[float, ...]:
        """Fractions of the run at which they reach their depth."""
        return (*(begin - self.rest for begin in self._begins()[1:]), self.freeze_at)

    def _marks(self) -> tuple[float, ...]:
        return tuple(sorted({*self._begins(), *self._ends()}))

    def start(self, plan: Plan) -> None:
        """Learn the plan and forget any earlier run.

        Raises:
            ValueError: if ``total_steps`` is missing or too short.
        """
        super().start(plan)
        object.__setattr__(self, "_wave", _Wave())

    def _act(self, reading: Reading) -> Decision:
        step, wave, target = reading.step, self._wave, self._plan.sparsity
        freeze = self._step(self.freeze_at)
        if step >= freeze:
            reason = f"exact target {target:.4g} and final mask at step {step} (due from {freeze})"
            return Decision(phase="frozen", reason=reason, depth=target, freeze=True)
        index = sum(step >= self._step(begin) for begin in self._begins()) - 1
        if index < 0:
            return Decision(phase="dense", reason=f"dense until step {self._step(self.dense_until)}, at step {step}")
        if index != wave.index:
            wave.index, wave.start = index, (1.0 - self.surge) * reading.sparsity if index else 0.0
            if index:
                reason = f"wave {index + 1} of {self.waves} begins: surge"
                return Decision(phase="open", reason=reason, surge=self.surge, growth=self.growth, initial="zero")
        return self._collapse(reading)

    def _collapse(self, reading: Reading) -> Decision:
        """As deep as the wave is at this step, or nothing where the net is as sparse already."""
        wave, plan = self._wave, self._plan
        begin, end = self._step(self._begins()[wave.index]), self._step(self._ends()[wave.index])
        share = 1.0 - (1.0 - min(1.0, (reading.step - begin) / (end - begin))) ** 3
        deepest = max(plan.sparsity, 1.0 - self.thinnest * (1.0 - plan.sparsity))
        least, most = (
            wave.start + share * max(0.0, depth - wave.start)
            for depth in (plan.sparsity, plan.sparsity if wave.index == self.waves - 1 else deepest)
        )
        name = f"wave {wave.index + 1} of {self.waves}"
        if most <= reading.sparsity or reading.step > end:
            phase = "sparse" if reading.sparsity else "dense"
            return Decision(phase=phase, reason=f"{name}: rests at sparsity {reading.sparsity:.4g}")
        least = max(least, reading.sparsity)
        reason = f"{name}: sparsity {least:.4g} at step {reading.step}"
        if least == most:
            return Decision(phase="sparse", reason=reason, depth=most)
        reason = f"{name}: sparsity {least:.4g} to {most:.4g} at step {reading.step}"
        return Decision(phase="sparse", reason=reason, depth=(least, most), floor=self.floor, measure=self.measure)

    def state_dict(self) -> dict[str, Any]:
        """The phase, the wave, and the sparsity that it began from."""
        return {**super().state_dict(), "wave": self._wave.index, "start": self._wave.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged.
        """
        guards.check_state(state, owner=type(self).__name__, keys=("phase", "wave", "start"))
        self._run.phase = state["phase"]
        self._wave.index, self._wave.start = state["wave"], state["start"]
